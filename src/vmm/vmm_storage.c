#include "vmm/vmm_storage.h"

void vmm_storage_free(VmmStorage *storage)
{
    if (storage)
        storage->ops->free(storage);
}

pid_t vmm_storage_get_pid(VmmStorage *storage)
{
    return storage->ops->get_pid(storage);
}

void vmm_storage_kill(VmmStorage *storage)
{
    storage->ops->kill(storage);
}

gboolean vmm_storage_answers(VmmStorage *storage, guint timeout_ms, GError **error)
{
    return storage->ops->answers(storage, timeout_ms, error);
}

gboolean vmm_storage_create(VmmStorage *storage, const VmmImageRequest *request, GError **error)
{
    return storage->ops->create(storage, request, error);
}

gboolean vmm_storage_open_image(VmmStorage *storage, const char *name, const char *path,
                                const char *format, gboolean writable, GError **error)
{
    return storage->ops->open(storage, name, path, format, writable, error);
}

char *vmm_storage_get_socket(VmmStorage *storage)
{
    return storage->ops->get_socket(storage);
}

gboolean vmm_storage_close_image(VmmStorage *storage, const char *name, GError **error)
{
    return storage->ops->close(storage, name, error);
}

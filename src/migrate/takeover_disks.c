#include "migrate/takeover_disks.h"

#include <stdio.h>

#include "base/error.h"
#include "base/fault.h"
#include "disk/disk_target.h"

static gboolean check_images(const WriteJournal *journal, const TakeoverImage *images, guint count,
                             GError **error)
{
    if (write_journal_get_count(journal) != count) {
        error_set(error, VMFERRY_ERROR_INVALID, "the guest has %u disks here, the journal has %u",
                  count, write_journal_get_count(journal));
        return FALSE;
    }
    for (guint i = 0; i < count; i++) {
        if (write_journal_get_disk_bytes(journal, i) == images[i].bytes)
            continue;
        error_set(error, VMFERRY_ERROR_INVALID,
                  "image %s has %" G_GUINT64_FORMAT " bytes, its journal is for %" G_GUINT64_FORMAT,
                  images[i].path, images[i].bytes, write_journal_get_disk_bytes(journal, i));
        return FALSE;
    }
    return TRUE;
}

typedef gboolean (*Apply)(const WriteJournal *journal, guint disk, DiskTarget *target,
                          GError **error);

static gboolean write_image(const WriteJournal *journal, guint disk, Apply apply,
                            const char *socket, const char *name, uint64_t bytes, GError **error)
{
    g_autoptr(DiskTarget) target = disk_target_open_export(socket, name, bytes, error);

    return target && !fault_point("takeover.image-open", error) &&
           apply(journal, disk, target, error);
}

/* Closed in any case; what fails first is said. */
static gboolean open_and_write(const WriteJournal *journal, guint disk, Apply apply,
                               VmmStorage *storage, const TakeoverImage *image, GError **error)
{
    g_autofree char *name = g_strdup_printf("takeover%u", disk), *socket = NULL;
    gboolean written;

    if (!vmm_storage_open_image(storage, name, image->path, image->format, TRUE, error))
        return FALSE;
    socket = vmm_storage_get_socket(storage);
    written = write_image(journal, disk, apply, socket, name, image->bytes, error);
    return vmm_storage_close_image(storage, name, written ? error : NULL) && written;
}

static gboolean apply_disk(const WriteJournal *journal, guint disk, Apply apply,
                           VmmStorage *storage, const TakeoverImage *image, GError **error)
{
    gboolean any;

    return write_journal_has_writes(journal, disk, &any, error) &&
           (!any || open_and_write(journal, disk, apply, storage, image, error));
}

gboolean takeover_disks_apply(const WriteJournal *journal, VmmStorage *storage,
                              const TakeoverImage *images, guint count, GError **error)
{
    if (!check_images(journal, images, count, error))
        return FALSE;
    for (guint i = 0; i < count; i++)
        if (!apply_disk(journal, i, write_journal_apply, storage, &images[i], error)) {
            g_prefix_error(error, "image %s: ", images[i].path);
            return FALSE;
        }
    return TRUE;
}

gboolean takeover_disks_apply_full(const WriteJournal *journal, VmmStorage *storage,
                                   const TakeoverImage *images, guint count, GError **error)
{
    if (!check_images(journal, images, count, error))
        return FALSE;
    for (guint i = 0; i < count; i++)
        if (!open_and_write(journal, i, write_journal_apply_full, storage, &images[i], error)) {
            g_prefix_error(error, "image %s: ", images[i].path);
            return FALSE;
        }
    return TRUE;
}

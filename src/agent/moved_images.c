#include "agent/moved_images.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"

gboolean moved_images_note(Guest *guest, char *const *paths, gboolean removes, GError **error)
{
    GuestRecord *record = registry_get_record(guest);

    g_strfreev(record->moved_images);
    record->moved_images = g_strdupv((char **)paths);
    record->removes_images = removes;
    return registry_journal_record(guest, record, error);
}

static void retire(const GuestRecord *record, const char *path)
{
    g_autofree char *moved = g_strdup_printf("%s.moved-%.8s", path, record->id);

    if (record->removes_images ? unlink(path) == 0 : rename(path, moved) == 0)
        return;
    log_warning("guest %s: its old image %s keeps its name: %s", record->name, path,
                g_strerror(errno));
}

void moved_images_retire(const GuestRecord *record)
{
    for (char **path = record->moved_images; path && *path; path++)
        retire(record, *path);
}

#include "migrate/disk_changes.h"

#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "disk/change_reader.h"

#define SOCKET_NAME "changes.sock"
#define MOST_ROUNDS 8u
/* Not worth another round: read and sent in some milliseconds. */
#define FEW_BYTES ((uint64_t)4 << 20)

typedef struct {
    guint number;
    char *node;
    uint64_t bytes;
    char *since;        /* the bitmap of the next round */
    gboolean is_base;   /* that is the base's */
    GPtrArray *bitmaps; /* names of ours that are there */
} ChangedDisk;

struct DiskChanges {
    DiskChangesOptions options;
    GPtrArray *disks; /* ChangedDisk */
    char *socket;
    guint round;
    gboolean serves;
};

/* ---- making ---- */

static void disk_free(gpointer data)
{
    ChangedDisk *disk = data;

    g_free(disk->node);
    g_free(disk->since);
    g_ptr_array_unref(disk->bitmaps);
    g_free(disk);
}

void disk_changes_add(DiskChanges *changes, guint number, const char *node, uint64_t bytes,
                      const char *bitmap)
{
    ChangedDisk *disk = g_new0(ChangedDisk, 1);

    disk->number = number;
    disk->node = g_strdup(node);
    disk->bytes = bytes;
    disk->since = g_strdup(bitmap);
    disk->is_base = TRUE;
    disk->bitmaps = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(changes->disks, disk);
}

/* ---- the server ---- */

static gboolean begin_serving(DiskChanges *changes, GError **error)
{
    autofd int listener = unix_socket_listen(changes->socket, 1, error);

    changes->serves = listener >= 0 && vmm_start_exports(changes->options.vmm, listener, error);
    return changes->serves;
}

static gboolean end_serving(DiskChanges *changes, GError **error)
{
    if (changes->serves && !vmm_end_exports(changes->options.vmm, error))
        return FALSE; /* disk_changes_free() tries it again */
    changes->serves = FALSE;
    unlink(changes->socket);
    return TRUE;
}

DiskChanges *disk_changes_new(const DiskChangesOptions *options, GError **error)
{
    g_autoptr(DiskChanges) changes = g_new0(DiskChanges, 1);

    changes->options = *options;
    changes->disks = g_ptr_array_new_with_free_func(disk_free);
    changes->socket = g_build_filename(options->directory, SOCKET_NAME, NULL);
    return begin_serving(changes, error) && end_serving(changes, error) ? g_steal_pointer(&changes)
                                                                        : NULL;
}

/* ---- bitmaps ---- */

static void note_bitmap(ChangedDisk *disk, const char *name)
{
    g_ptr_array_add(disk->bitmaps, g_strdup(name));
}

/* One that stays is tried again at the end. */
static void remove_bitmap(DiskChanges *changes, ChangedDisk *disk, const char *name)
{
    g_autoptr(GError) problem = NULL;
    guint place;

    if (!vmm_remove_bitmap(changes->options.vmm, disk->node, name, &problem))
        log_debug("bitmap %s: %s", name, problem->message);
    else if (g_ptr_array_find_with_equal_func(disk->bitmaps, name, g_str_equal, &place))
        g_ptr_array_remove_index(disk->bitmaps, place);
}

void disk_changes_free(DiskChanges *changes)
{
    g_autoptr(GError) problem = NULL;

    if (!changes)
        return;
    if (!end_serving(changes, &problem))
        log_debug("exports of changes: %s", problem->message);
    for (guint i = 0; i < changes->disks->len; i++) {
        ChangedDisk *disk = changes->disks->pdata[i];

        for (guint k = disk->bitmaps->len; k-- > 0;)
            remove_bitmap(changes, disk, disk->bitmaps->pdata[k]);
    }
    g_ptr_array_unref(changes->disks);
    g_free(changes->socket);
    g_free(changes);
}

/* ---- a round ---- */

static gboolean send_ranges(DiskChanges *changes, const ChangedDisk *disk, ChangeReader *reader,
                            uint64_t *bytes, GError **error)
{
    const uint8_t *data;
    uint64_t offset, found;
    size_t length;

    if (!change_reader_look(reader, &found, error))
        return FALSE;
    *bytes += found;
    for (;;) {
        if (!change_reader_next(reader, &offset, &data, &length, error))
            return FALSE;
        if (length == 0)
            return TRUE;
        if (!changes->options.write(disk->number, offset, data, length, changes->options.user,
                                    error))
            return FALSE;
    }
}

/* The names of the export, and of the next round's bitmap. */
static char *make_name(const DiskChanges *changes, guint i, const char *what)
{
    return g_strdup_printf(VMM_CHANGES_PREFIX "%.8s-%u-%u%s", changes->options.transaction, i,
                           changes->round, what);
}

static gboolean send_disk(DiskChanges *changes, guint i, gboolean last, uint64_t *bytes,
                          GError **error)
{
    ChangedDisk *disk = changes->disks->pdata[i];
    g_autofree char *name = make_name(changes, i, ""), *next = make_name(changes, i, "-next");
    const VmmChanges wanted = {disk->node, name, disk->since, disk->is_base, last ? NULL : next};
    g_autofree char *context = NULL;
    g_autoptr(ChangeReader) reader = NULL;

    if (disk->is_base)
        note_bitmap(disk, name);
    if (!last)
        note_bitmap(disk, next);
    context = vmm_export_changes(changes->options.vmm, &wanted, error);
    reader =
        context ? change_reader_open(changes->socket, name, context, disk->bytes, error) : NULL;
    return reader && send_ranges(changes, disk, reader, bytes, error);
}

/* Once its export has ended. */
static void turn_over(DiskChanges *changes, guint i, gboolean last)
{
    ChangedDisk *disk = changes->disks->pdata[i];
    g_autofree char *name = make_name(changes, i, "");

    remove_bitmap(changes, disk, disk->is_base ? name : disk->since);
    g_free(disk->since);
    disk->since = last ? NULL : make_name(changes, i, "-next");
    disk->is_base = FALSE;
}

gboolean disk_changes_send(DiskChanges *changes, gboolean last, uint64_t *ret_bytes, GError **error)
{
    *ret_bytes = 0;
    if (changes->disks->len == 0)
        return TRUE;
    if (!begin_serving(changes, error))
        return FALSE;
    for (guint i = 0; i < changes->disks->len; i++)
        if (!send_disk(changes, i, last, ret_bytes, error)) {
            g_prefix_error(error, "what has changed of a disk: ");
            return FALSE;
        }
    if (!end_serving(changes, error))
        return FALSE;
    for (guint i = 0; i < changes->disks->len; i++)
        turn_over(changes, i, last);
    changes->round++;
    return TRUE;
}

gboolean disk_changes_send_most(DiskChanges *changes, GError **error)
{
    uint64_t bytes, before = UINT64_MAX;

    for (guint i = 0; i < MOST_ROUNDS; i++) {
        if (!disk_changes_send(changes, FALSE, &bytes, error))
            return FALSE;
        if (bytes <= FEW_BYTES || bytes > before / 2)
            break;
        before = bytes;
    }
    return TRUE;
}

#include "migrate/epoch_writes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "disk/tap_sink.h"

#define HASH_CHARACTERS 12 /* a name of a node has at most 31 */
#define UNDO_MS 10000
#define LOOK_US 2000
#define SUFFIX ".qcow2"

typedef enum { TAPS_NONE, TAPS_RUNNING, TAPS_COPYING, TAPS_WHOLE } Taps;

/* A disk with an overlay, then its root node bears the overlay's name. */
typedef struct {
    guint number;   /* in names */
    uint64_t bytes; /* 0: not known, it is not (any more) the root of a disk */
    char *id;       /* for messages */
    char *node;     /* the disk's own root; both NULL after a restart */
    gboolean begun;
} Overlay;

struct EpochWrites {
    Vmm *vmm;
    char *transaction, *directory;
    uint64_t limit;
    GArray *overlays; /* of Overlay, ascending */
    EpochTap *tap;
    Taps state;
};

static void clear_overlay(gpointer data)
{
    Overlay *overlay = data;

    g_free(overlay->id);
    g_free(overlay->node);
}

static GArray *overlays_new(void)
{
    GArray *overlays = g_array_new(FALSE, TRUE, sizeof(Overlay));

    g_array_set_clear_func(overlays, clear_overlay);
    return overlays;
}

/* ---- names ---- */

/* "vmferry-over-0123456789ab-": of overlays; taps and copies are called like that, too. */
static char *make_prefix(const char *kind, const char *transaction)
{
    g_autofree char *hash = g_compute_checksum_for_string(G_CHECKSUM_SHA256, transaction, -1);

    return g_strdup_printf("vmferry-%s-%.*s-", kind, HASH_CHARACTERS, hash);
}

static char *make_name(const char *kind, const char *transaction, guint number)
{
    g_autofree char *prefix = make_prefix(kind, transaction);

    return g_strdup_printf("%s%u", prefix, number);
}

static char *make_path(const char *directory, const char *transaction, guint number)
{
    g_autofree char *name = make_name("over", transaction, number);
    g_autofree char *file = g_strdup_printf("%s" SUFFIX, name);

    return g_build_filename(directory, file, NULL);
}

/* The number in such a file's name; FALSE where it is another file. */
static gboolean parse_file(const char *file, const char *prefix, guint *ret)
{
    guint64 number;
    char *end;

    if (!g_str_has_prefix(file, prefix) || !g_ascii_isdigit(file[strlen(prefix)]))
        return FALSE;
    number = g_ascii_strtoull(file + strlen(prefix), &end, 10);
    *ret = (guint)number;
    return number < TAP_MAX_DISKS && strcmp(end, SUFFIX) == 0;
}

static gint compare_numbers(gconstpointer a, gconstpointer b)
{
    return (gint)((const Overlay *)a)->number - (gint)((const Overlay *)b)->number;
}

/* Of Overlay: the files that are there.  Free with g_array_unref(). */
static GArray *find_files(const char *directory, const char *transaction)
{
    g_autofree char *prefix = make_prefix("over", transaction);
    GArray *found = overlays_new();
    GDir *dir = g_dir_open(directory, 0, NULL);
    const char *file;

    while (dir && (file = g_dir_read_name(dir))) {
        Overlay overlay = {0};

        if (parse_file(file, prefix, &overlay.number))
            g_array_append_val(found, overlay);
    }
    if (dir)
        g_dir_close(dir);
    g_array_sort(found, compare_numbers);
    return found;
}

gboolean epoch_writes_exist(const EpochWritesPlace *place)
{
    g_autoptr(GArray) found = find_files(place->directory, place->transaction);

    return found->len > 0;
}

GPtrArray *epoch_writes_list_files(const EpochWritesPlace *place)
{
    g_autoptr(GArray) found = find_files(place->directory, place->transaction);
    GPtrArray *files = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < found->len; i++)
        g_ptr_array_add(files, make_path(place->directory, place->transaction,
                                         g_array_index(found, Overlay, i).number));
    return files;
}

void epoch_writes_remove(const EpochWritesPlace *place)
{
    g_autoptr(GPtrArray) files = epoch_writes_list_files(place);

    for (guint i = 0; i < files->len; i++)
        unlink(files->pdata[i]);
}

/* ---- before the switch ---- */

GPtrArray *epoch_writes_list(Vmm *vmm, GError **error)
{
    GPtrArray *disks = vmm_list_disks(vmm, error);

    for (guint i = disks ? disks->len : 0; i-- > 0;) {
        const VmmDisk *disk = disks->pdata[i];

        if (disk->read_only || disk->flash)
            g_ptr_array_remove_index(disks, i);
    }
    return disks;
}

static const char *find_obstacle(const VmmDisk *disk)
{
    if (disk->passthrough)
        return "the guest sends SCSI commands to the device behind it, which nobody sees";
    if (disk->shared)
        return "others may write to it at the same time (share-rw)";
    if (disk->obstacle)
        return disk->obstacle;
    return disk->files->len == 0 ? "its image is not known" : NULL;
}

gboolean epoch_writes_check(const GPtrArray *disks, GError **error)
{
    for (guint i = 0; i < disks->len; i++) {
        const VmmDisk *disk = disks->pdata[i];
        const char *obstacle = find_obstacle(disk);

        if (!obstacle)
            continue;
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "what the guest writes to disk %s (%s) cannot be held back: %s", disk->id,
                  disk->device, obstacle);
        return FALSE;
    }
    if (disks->len <= TAP_MAX_DISKS)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "what the guest writes to more than %u disks cannot be held back", TAP_MAX_DISKS);
    return FALSE;
}

static uint64_t bytes_of(const VmmDisk *disk)
{
    return ((const VmmDiskFile *)disk->files->pdata[0])->bytes;
}

gboolean epoch_writes_check_room(const GPtrArray *disks, const char *directory, GError **error)
{
    uint64_t wanted = 0, room;
    struct statvfs info;

    for (guint i = 0; i < disks->len; i++)
        wanted += MIN(bytes_of(disks->pdata[i]), EPOCH_WRITES_ROOM_BYTES);
    wanted = MIN(wanted, EPOCH_WRITES_ROOM_BYTES);
    if (statvfs(directory, &info) < 0) {
        error_set_errno(error, errno, "room for what the guest writes: %s", directory);
        return FALSE;
    }
    room = (uint64_t)info.f_bavail * info.f_frsize;
    if (room >= wanted)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE,
              "there are %" G_GUINT64_FORMAT " MiB in %s for what the guest writes, less than the "
              "%" G_GUINT64_FORMAT " MiB that it should have at least",
              room >> 20, directory, wanted >> 20);
    return FALSE;
}

/* ---- taps ---- */

static Overlay *get_overlay(const EpochWrites *writes, guint i)
{
    return &g_array_index(writes->overlays, Overlay, i);
}

static EpochTap *start_sink(const EpochWrites *writes, GError **error)
{
    g_autofree uint64_t *bytes = g_new0(uint64_t, writes->overlays->len);

    for (guint i = 0; i < writes->overlays->len; i++)
        bytes[i] = get_overlay(writes, i)->bytes;
    return epoch_tap_start(&(EpochTapOptions){.client = vmm_get_pid(writes->vmm),
                                              .bytes = bytes,
                                              .count = writes->overlays->len,
                                              .limit_bytes = writes->limit},
                           error);
}

static gboolean start_one_tap(EpochWrites *writes, guint i, GError **error)
{
    const Overlay *overlay = get_overlay(writes, i);
    g_autofree char *node = make_name("over", writes->transaction, overlay->number);
    g_autofree char *name = make_name("tap", writes->transaction, overlay->number);
    VmmTap tap = {.name = name,
                  .node = node,
                  .bytes = overlay->bytes,
                  .address = epoch_tap_get_address(writes->tap, i),
                  .export_name = TAP_EXPORT_NAME};

    return vmm_start_tap(writes->vmm, &tap, error);
}

/* A tap that begins with what is in the overlay. */
static gboolean start_one_copy(EpochWrites *writes, guint i, GError **error)
{
    const Overlay *overlay = get_overlay(writes, i);
    g_autofree char *node = make_name("over", writes->transaction, overlay->number);
    g_autofree char *name = make_name("copy", writes->transaction, overlay->number);
    VmmCopy copy = {.name = name,
                    .node = node,
                    .bytes = overlay->bytes,
                    .address = epoch_tap_get_address(writes->tap, i),
                    .export_name = TAP_EXPORT_NAME,
                    .top = TRUE};

    return vmm_start_copy(writes->vmm, &copy, error);
}

static gboolean start_taps(EpochWrites *writes, gboolean copy, GError **error)
{
    if (writes->overlays->len == 0)
        return TRUE;
    if (!writes->tap)
        writes->tap = start_sink(writes, error);
    if (!writes->tap)
        return FALSE;
    writes->state = copy ? TAPS_COPYING : TAPS_RUNNING;
    for (guint i = 0; i < writes->overlays->len; i++)
        if (copy ? !start_one_copy(writes, i, error) : !start_one_tap(writes, i, error))
            return FALSE;
    return TRUE;
}

static gboolean stop_one_tap(EpochWrites *writes, const Overlay *overlay, GError **error)
{
    g_autofree char *tap = make_name("tap", writes->transaction, overlay->number);
    g_autofree char *copy = make_name("copy", writes->transaction, overlay->number);

    return vmm_stop_tap(writes->vmm, tap, error) && vmm_abort_copy(writes->vmm, copy, error);
}

static gboolean stop_all_taps(EpochWrites *writes, GError **error)
{
    for (guint i = 0; writes->state != TAPS_NONE && i < writes->overlays->len; i++)
        if (!stop_one_tap(writes, get_overlay(writes, i), error))
            return FALSE;
    return TRUE;
}

/* While the sink serves, so that QEMU takes leave of it: one that lost its connections as the guest
 * wrote, and whose jobs were ended at that moment, has been seen to crash.  A sink that has broken
 * goes first, and goes in any case: then nothing of the VMM waits for us. */
static gboolean stop_taps(EpochWrites *writes, GError **error)
{
    gboolean stopped;

    if (writes->tap && !epoch_tap_check(writes->tap, NULL))
        g_clear_pointer(&writes->tap, epoch_tap_free);
    stopped = stop_all_taps(writes, error);
    g_clear_pointer(&writes->tap, epoch_tap_free);
    if (stopped)
        writes->state = TAPS_NONE;
    return stopped;
}

/* ---- overlays ---- */

static gboolean begin_overlay(EpochWrites *writes, Overlay *overlay, GError **error)
{
    g_autofree char *name = make_name("over", writes->transaction, overlay->number);
    g_autofree char *path = make_path(writes->directory, writes->transaction, overlay->number);
    VmmOverlay wanted = {
        .name = name, .node = overlay->node, .bytes = overlay->bytes, .path = path};

    overlay->begun = vmm_begin_overlay(writes->vmm, &wanted, error);
    if (!overlay->begun)
        g_prefix_error(error, "overlay of disk %s: ", overlay->id);
    return overlay->begun;
}

static gboolean begin_overlays(EpochWrites *writes, GError **error)
{
    for (guint i = 0; i < writes->overlays->len; i++)
        if (!begin_overlay(writes, get_overlay(writes, i), error))
            return FALSE;
    return TRUE;
}

/* The next step of it; TRUE with *ret_done where the overlay is no more. */
static gboolean commit_overlay(EpochWrites *writes, Overlay *overlay, gboolean *ret_done,
                               GError **error)
{
    g_autofree char *name = make_name("over", writes->transaction, overlay->number);
    g_autofree char *path = make_path(writes->directory, writes->transaction, overlay->number);

    *ret_done = !overlay->begun;
    if (overlay->begun && !vmm_commit_overlay(writes->vmm, name, ret_done, error))
        return FALSE;
    if (!*ret_done)
        return TRUE;
    overlay->begun = FALSE;
    if (unlink(path) == 0 || errno == ENOENT)
        return TRUE;
    error_set_errno(error, errno, "remove %s", path);
    return FALSE;
}

static gboolean commit_overlays(EpochWrites *writes, gboolean *ret_done, GError **error)
{
    *ret_done = TRUE;
    for (guint i = 0; i < writes->overlays->len; i++) {
        gboolean done;

        if (!commit_overlay(writes, get_overlay(writes, i), &done, error))
            return FALSE;
        *ret_done &= done;
    }
    return TRUE;
}

gboolean epoch_writes_end(EpochWrites *writes, gboolean *ret_done, GError **error)
{
    *ret_done = FALSE;
    if (stop_taps(writes, error) && commit_overlays(writes, ret_done, error))
        return TRUE;
    g_prefix_error(error, "make the guest's writes part of its images: ");
    return FALSE;
}

/* ---- beginning ---- */

static EpochWrites *writes_new(Vmm *vmm, const EpochWritesPlace *place)
{
    EpochWrites *writes = g_new0(EpochWrites, 1);

    writes->vmm = vmm;
    writes->transaction = g_strdup(place->transaction);
    writes->directory = g_strdup(place->directory);
    writes->limit = place->limit_bytes;
    return writes;
}

static void remove_unused(const EpochWrites *writes)
{
    for (guint i = 0; i < writes->overlays->len; i++) {
        const Overlay *overlay = get_overlay(writes, i);
        g_autofree char *path = make_path(writes->directory, writes->transaction, overlay->number);

        if (!overlay->begun)
            unlink(path);
    }
}

void epoch_writes_free(EpochWrites *writes)
{
    g_autoptr(GError) error = NULL;

    if (!writes)
        return;
    if (!stop_taps(writes, &error))
        log_warning("%s", error->message);
    remove_unused(writes);
    g_array_unref(writes->overlays);
    g_free(writes->transaction);
    g_free(writes->directory);
    g_free(writes);
}

/* The machine is paused: nothing was written, so this is short. */
static void undo(EpochWrites *writes)
{
    gint64 deadline = g_get_monotonic_time() + UNDO_MS * 1000ll;
    g_autoptr(GError) error = NULL;
    gboolean done = FALSE;

    while (!done && epoch_writes_end(writes, &done, &error) && g_get_monotonic_time() < deadline)
        if (!done)
            g_usleep(LOOK_US);
    if (!done)
        log_warning("overlays of a guest's disks stay in use: %s",
                    error ? error->message : "QEMU does not get ready");
}

gboolean epoch_writes_start(EpochWrites *writes, GError **error)
{
    if (begin_overlays(writes, error) && start_taps(writes, FALSE, error))
        return TRUE;
    undo(writes);
    return FALSE;
}

/* ---- preparing ---- */

static gboolean make_file(const char *path, uid_t uid, gid_t gid, GError **error)
{
    autofd int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd >= 0 && fchown(fd, uid, gid) == 0)
        return TRUE;
    error_set_errno(error, errno, "make %s", path);
    return FALSE;
}

static gboolean make_and_try(EpochWrites *writes, const Overlay *overlay, VmmStorage *storage,
                             uid_t uid, gid_t gid, GError **error)
{
    g_autofree char *name = make_name("over", writes->transaction, overlay->number);
    g_autofree char *path = make_path(writes->directory, writes->transaction, overlay->number);
    VmmImageRequest request = {.path = path, .format = "qcow2", .bytes = overlay->bytes};
    VmmOverlay wanted = {
        .name = name, .node = overlay->node, .bytes = overlay->bytes, .path = path};

    if (make_file(path, uid, gid, error) && vmm_storage_create(storage, &request, error) &&
        vmm_check_overlay(writes->vmm, &wanted, error))
        return TRUE;
    g_prefix_error(error, "overlay of disk %s: ", overlay->id);
    return FALSE;
}

static void add_disks(EpochWrites *writes, const GPtrArray *disks)
{
    for (guint i = 0; i < disks->len; i++) {
        const VmmDisk *disk = disks->pdata[i];
        Overlay overlay = {.number = i,
                           .bytes = bytes_of(disk),
                           .id = g_strdup(disk->id),
                           .node = g_strdup(disk->node)};

        g_array_append_val(writes->overlays, overlay);
    }
}

static gboolean prepare(EpochWrites *writes, VmmStorage *storage, uid_t uid, gid_t gid,
                        GError **error)
{
    for (guint i = 0; i < writes->overlays->len; i++)
        if (!make_and_try(writes, get_overlay(writes, i), storage, uid, gid, error))
            return FALSE;
    if (writes->overlays->len > 0)
        writes->tap = start_sink(writes, error);
    return writes->overlays->len == 0 || writes->tap;
}

EpochWrites *epoch_writes_prepare(Vmm *vmm, const EpochWritesPlace *place, VmmStorage *storage,
                                  uid_t uid, gid_t gid, GError **error)
{
    g_autoptr(GPtrArray) disks = epoch_writes_list(vmm, error);
    g_autoptr(EpochWrites) writes = NULL;

    epoch_writes_remove(place);
    if (!disks || !epoch_writes_check(disks, error) ||
        !epoch_writes_check_room(disks, place->directory, error))
        return NULL;
    writes = writes_new(vmm, place);
    writes->overlays = overlays_new();
    add_disks(writes, disks);
    return prepare(writes, storage, uid, gid, error) ? g_steal_pointer(&writes) : NULL;
}

guint epoch_writes_get_count(const EpochWrites *writes)
{
    return writes->overlays->len;
}

/* ---- after a restart ---- */

static void note_disk(EpochWrites *writes, const VmmDisk *disk)
{
    for (guint i = 0; i < writes->overlays->len; i++) {
        Overlay *overlay = get_overlay(writes, i);
        g_autofree char *name = make_name("over", writes->transaction, overlay->number);

        if (strcmp(disk->node, name) == 0 && disk->files->len > 0)
            overlay->bytes = bytes_of(disk);
    }
}

EpochWrites *epoch_writes_find(Vmm *vmm, const EpochWritesPlace *place, GError **error)
{
    g_autoptr(GPtrArray) disks = vmm_list_disks(vmm, error);
    g_autoptr(EpochWrites) writes = NULL;

    if (!disks)
        return NULL;
    writes = writes_new(vmm, place);
    writes->overlays = find_files(place->directory, place->transaction);
    if (writes->overlays->len == 0) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "no overlay of transaction %s is in %s",
                  place->transaction, place->directory);
        return NULL;
    }
    for (guint i = 0; i < writes->overlays->len; i++)
        get_overlay(writes, i)->begun = TRUE; /* committing what is not there is done at once */
    for (guint i = 0; i < disks->len; i++)
        note_disk(writes, disks->pdata[i]);
    return g_steal_pointer(&writes);
}

/* A number that is missing, or a disk without its overlay, has been committed. */
static gboolean check_complete(const EpochWrites *writes, GError **error)
{
    for (guint i = 0; i < writes->overlays->len; i++) {
        const Overlay *overlay = get_overlay(writes, i);

        if (overlay->number == i && overlay->bytes > 0 && overlay->begun)
            continue;
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the guest's writes are part of its images already, some of them at least");
        return FALSE;
    }
    return TRUE;
}

gboolean epoch_writes_restart(EpochWrites *writes, GError **error)
{
    if (check_complete(writes, error) && stop_taps(writes, error) &&
        start_taps(writes, TRUE, error))
        return TRUE;
    g_prefix_error(error, "tap the guest's disks anew: ");
    (void)stop_taps(writes, NULL);
    return FALSE;
}

static gboolean check_copy(EpochWrites *writes, guint i, gboolean *ret_whole, GError **error)
{
    g_autofree char *name = make_name("copy", writes->transaction, get_overlay(writes, i)->number);
    VmmCopyState state;

    if (!vmm_get_copy(writes->vmm, name, &state, error) || state == VMM_COPY_FAILED)
        return FALSE;
    if (state == VMM_COPY_READY && !vmm_sync_copy(writes->vmm, name, error))
        return FALSE;
    *ret_whole &= state == VMM_COPY_IN_SYNC;
    return TRUE;
}

static gboolean check_copies(EpochWrites *writes, gboolean *ret_whole, GError **error)
{
    *ret_whole = TRUE;
    for (guint i = 0; i < writes->overlays->len; i++)
        if (!check_copy(writes, i, ret_whole, error))
            return FALSE;
    return TRUE;
}

static gboolean check_are_tapped(const EpochWrites *writes, GError **error)
{
    if (writes->overlays->len > 0 && (!writes->tap || writes->state == TAPS_NONE)) {
        error_set(error, VMFERRY_ERROR_FAILED, "the guest's disks are not tapped");
        return FALSE;
    }
    return !writes->tap || epoch_tap_check(writes->tap, error);
}

gboolean epoch_writes_is_whole(EpochWrites *writes, gboolean *ret, GError **error)
{
    *ret = FALSE;
    if (!check_are_tapped(writes, error))
        return FALSE;
    if (writes->state == TAPS_COPYING) {
        gboolean whole;

        if (!check_copies(writes, &whole, error))
            return FALSE;
        if (whole)
            writes->state = TAPS_WHOLE;
    }
    *ret = writes->state != TAPS_COPYING;
    return TRUE;
}

/* ---- epochs ---- */

EpochTap *epoch_writes_get_tap(EpochWrites *writes)
{
    return writes->tap;
}

WriteBatch *epoch_writes_cut(EpochWrites *writes, int timeout_ms, GError **error)
{
    if (!check_are_tapped(writes, error))
        return NULL;
    if (writes->state == TAPS_COPYING) {
        error_set(error, VMFERRY_ERROR_BUSY,
                  "what the guest has written so far is not all there yet");
        return NULL;
    }
    return writes->tap ? epoch_tap_cut(writes->tap, timeout_ms, error) : write_batch_new(0);
}

static gboolean check_taps(EpochWrites *writes, GError **error)
{
    for (guint i = 0; i < writes->overlays->len; i++) {
        g_autofree char *name =
            make_name("tap", writes->transaction, get_overlay(writes, i)->number);
        VmmTapState state;

        if (!vmm_get_tap(writes->vmm, name, &state, error) || state != VMM_TAP_ACTIVE)
            return FALSE;
    }
    return TRUE;
}

gboolean epoch_writes_check_taps(EpochWrites *writes, GError **error)
{
    gboolean whole;

    if (!check_are_tapped(writes, error))
        return FALSE;
    if (writes->state == TAPS_RUNNING || !writes->tap)
        return check_taps(writes, error);
    if (!check_copies(writes, &whole, error))
        return FALSE;
    if (!whole)
        error_set(error, VMFERRY_ERROR_FAILED, "the taps of the guest's disks lack something");
    return whole;
}

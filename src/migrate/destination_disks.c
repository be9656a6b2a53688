/*
 * Disks that move along: the destination's half (source_disks.c has the theory)
 *
 * Files are made empty, by their final names, and never in place of something unless its user has
 * said so: what was there is set aside until the guest has arrived.  What was made is on record
 * before it is made (MigrateDestinationHost.note_files), so that after a crash nothing of a guest
 * that did not come stays behind.  Images are made and written by a storage process of the VMM, run
 * as the guest's user; it has closed them before the VMM may open them for writing.
 */
#include "migrate/destination_move.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "disk/disk_receiver.h"
#include "disk/image_view.h"

#define JOIN_MS 15000
#define MAKE_MS 60000
#define SLICE_MS 200

typedef struct {
    const WireDiskFile *wire;
    char *path;
    DiskMake make;
    char *set_aside; /* what was there, under this name; NULL: nothing */
    gboolean made;
    gboolean exported; /* by the storage process: content has come */
} DestinationFile;

struct DestinationDisks {
    DestinationMove *move;
    DisksMessage message;
    DestinationFile *files;
    uid_t uid;
    gid_t gid;
    VmmStorage *storage;
    Guard *guard; /* ends the storage process if we die */
    DiskReceiver *receiver;
    gboolean on_record;
    gboolean complete; /* nothing is to be written any more */
};

static guint count_files(const DestinationDisks *disks)
{
    return disks->message.file_count;
}

/* ---- the plan ---- */

/* By our rules; relative to the folder of the guest, by our rules, too. */
static char *resolve(DestinationMove *move, const DisksMessage *message, const char *path)
{
    const MigrateDestinationHost *host = move->host;
    g_autofree char *mapped = host->map(path, host->user);
    g_autofree char *folder = host->map(message->working_directory, host->user);

    return g_path_is_absolute(mapped) ? g_steal_pointer(&mapped)
                                      : g_build_filename(folder, mapped, NULL);
}

static gboolean is_same(const char *path, uint64_t lock)
{
    g_autoptr(ImageView) view = lock > 0 ? image_view_open(path, NULL) : NULL;

    return view && image_view_sees_lock(view, lock);
}

static gboolean answer(DestinationDisks *disks, GError **error)
{
    g_auto(DisksSeenMessage)
        seen = {g_new0(DiskFileSeen, count_files(disks) + 1), count_files(disks)};
    g_autofree char *text = NULL;

    for (guint i = 0; i < count_files(disks); i++) {
        const DestinationFile *file = &disks->files[i];
        struct stat info;

        seen.files[i].path = g_strdup(file->path);
        seen.files[i].exists = lstat(file->path, &info) == 0;
        seen.files[i].bytes =
            seen.files[i].exists && S_ISREG(info.st_mode) ? (uint64_t)info.st_size : 0;
        seen.files[i].same = seen.files[i].exists && is_same(file->path, file->wire->lock);
    }
    text = disks_seen_message_encode(&seen);
    return session_send_bytes(disks->move->session, FRAME_DISKS_SEEN, text, strlen(text), error);
}

/* Who is to own what is made: who runs the guest. */
static gboolean find_owner(const DestinationDisks *disks, uid_t *ret_uid, gid_t *ret_gid,
                           GError **error)
{
    const ProcessIdentity *process = disks->message.process;
    uint32_t uid = process->user.id, gid = process->group.id;

    if ((process->user.name && !identity_find_user(process->user.name, &uid)) ||
        (process->group.name && !identity_find_group(process->group.name, &gid))) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no user %s or no group %s here",
                  process->user.name, process->group.name);
        return FALSE;
    }
    *ret_uid = uid;
    *ret_gid = gid;
    return TRUE;
}

/* The guest would not start without it, long after its disks were copied. */
static gboolean check_working_folder(const DestinationDisks *disks, GError **error)
{
    const MigrateDestinationHost *host = disks->move->host;
    g_autofree char *folder = host->map(disks->message.working_directory, host->user);

    if (g_file_test(folder, G_FILE_TEST_IS_DIR))
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND,
              "the guest's working folder %s does not exist here: create it, or add a map rule "
              "to agent.conf ([map] NAME = %s => FOLDER)",
              folder, disks->message.working_directory);
    return FALSE;
}

static gboolean take_plan(DestinationDisks *disks, const Frame *frame, GError **error)
{
    if (!disks_message_decode((const char *)frame->payload, frame->length, &disks->message, error))
        return FALSE;
    if (!disks->move->guest &&
        !disks->move->host->begin(disks->message.guest, disks->move->host->user, error))
        return FALSE;
    session_set_transaction(disks->move->session, disks->message.transaction);
    if (disks->message.retry_for_ms > 0)
        session_allow_reconnect(disks->move->session, NULL, disks->message.retry_for_ms);
    disks->files = g_new0(DestinationFile, count_files(disks) + 1);
    for (guint i = 0; i < count_files(disks); i++) {
        disks->files[i].wire = &disks->message.files[i];
        disks->files[i].path = resolve(disks->move, &disks->message, disks->files[i].wire->path);
    }
    return check_working_folder(disks, error) &&
           find_owner(disks, &disks->uid, &disks->gid, error) && answer(disks, error);
}

/* ---- is there room? ---- */

static uint64_t count_needed(const DestinationDisks *disks, dev_t device)
{
    uint64_t needed = 0;

    for (guint i = 0; i < count_files(disks); i++) {
        const DestinationFile *file = &disks->files[i];
        g_autofree char *folder = g_path_get_dirname(file->path);
        struct stat info;

        if (file->make != DISK_MAKE_NOTHING && stat(folder, &info) == 0 && info.st_dev == device)
            needed += MIN(file->wire->allocated_bytes, UINT64_MAX - needed);
    }
    return needed;
}

static gboolean check_folder(const DestinationDisks *disks, const DestinationFile *file,
                             GError **error)
{
    g_autofree char *folder = g_path_get_dirname(file->path);
    struct statvfs room;
    struct stat info;
    uint64_t needed, available;

    if (stat(folder, &info) < 0 || statvfs(folder, &room) < 0) {
        error_set_errno(error, errno, "%s cannot be made: folder %s", file->path, folder);
        return FALSE;
    }
    needed = count_needed(disks, info.st_dev);
    available = (uint64_t)room.f_bavail * room.f_frsize;
    if (needed <= available)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE,
              "the disks need %" G_GUINT64_FORMAT " MiB in %s, where %" G_GUINT64_FORMAT
              " MiB are free",
              (needed + (1 << 20) - 1) >> 20, folder, available >> 20);
    return FALSE;
}

static gboolean check_room(const DestinationDisks *disks, GError **error)
{
    for (guint i = 0; i < count_files(disks); i++)
        if (disks->files[i].make != DISK_MAKE_NOTHING &&
            !check_folder(disks, &disks->files[i], error))
            return FALSE;
    return TRUE;
}

/* ---- making ---- */

/* Names what is set aside, after a look that it may be. */
static gboolean plan_file(DestinationDisks *disks, DestinationFile *file, GError **error)
{
    g_autoptr(ImageView) view = NULL;
    struct stat info;

    if (g_str_has_prefix(file->path, "/dev/")) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "%s is not made: make the device, or a map rule that leads to a file, and share "
                  "the disk or copy it there yourself",
                  file->path);
        return FALSE;
    }
    if (lstat(file->path, &info) < 0)
        return TRUE;
    if (!disks->message.overwrite) {
        error_set(error, VMFERRY_ERROR_EXISTS, "%s exists", file->path);
        return FALSE;
    }
    if (!S_ISREG(info.st_mode)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s is not a regular file and is not replaced",
                  file->path);
        return FALSE;
    }
    view = image_view_open(file->path, error);
    if (!view)
        return FALSE;
    if (is_same(file->path, file->wire->lock) || image_view_is_write_locked(view)) {
        error_set(error, VMFERRY_ERROR_BUSY, "%s is in use and is not replaced", file->path);
        return FALSE;
    }
    file->set_aside = g_strdup_printf("%s.replaced-%.8s", file->path, disks->message.transaction);
    return TRUE;
}

static gboolean put_on_record(DestinationDisks *disks, GError **error)
{
    const MigrateDestinationHost *host = disks->move->host;
    g_autoptr(json_t) list = json_array();

    for (guint i = 0; i < count_files(disks); i++) {
        const DestinationFile *file = &disks->files[i];

        if (file->make != DISK_MAKE_NOTHING)
            json_array_append_new(
                list, json_pack("{s:s, s:s?}", "path", file->path, "set_aside", file->set_aside));
    }
    disks->on_record = host->note_files(disks->message.transaction, list, host->user, error);
    return disks->on_record;
}

/* Never in place of something: a file that is named twice is ours by now. */
static gboolean set_aside(const DestinationFile *file, GError **error)
{
    struct stat info;

    if (lstat(file->set_aside, &info) == 0) {
        error_set(error, VMFERRY_ERROR_EXISTS, "%s exists already, and %s is not replaced",
                  file->set_aside, file->path);
        return FALSE;
    }
    if (rename(file->path, file->set_aside) == 0)
        return TRUE;
    error_set_errno(error, errno, "set %s aside", file->path);
    return FALSE;
}

/* Its name is to outlast a loss of power, as its content will. */
static gboolean sync_folder(const DestinationFile *file, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(file->path);
    autofd int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0 && fsync(fd) == 0)
        return TRUE;
    error_set_errno(error, errno, "write out the folder %s", folder);
    return FALSE;
}

static gboolean make_empty(DestinationDisks *disks, DestinationFile *file, GError **error)
{
    autofd int fd = -1;

    if (file->set_aside && !set_aside(file, error))
        return FALSE;
    fd = open(file->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    file->made = fd >= 0;
    if (fd < 0 || fchown(fd, disks->uid, disks->gid) < 0 || fchmod(fd, file->wire->mode) < 0) {
        error_set_errno(error, errno, "make %s", file->path);
        return FALSE;
    }
    if (file->make == DISK_MAKE_FILE && ftruncate(fd, (off_t)file->wire->file_bytes) < 0) {
        error_set_errno(error, errno, "make %s of %" G_GUINT64_FORMAT " bytes", file->path,
                        file->wire->file_bytes);
        return FALSE;
    }
    return sync_folder(file, error);
}

static gboolean make_image(DestinationDisks *disks, const DestinationFile *file, GError **error)
{
    const MigrateDestinationHost *host = disks->move->host;
    g_autofree char *backing =
        file->wire->backing ? host->map(file->wire->backing, host->user) : NULL;
    VmmImageRequest request = {
        .path = file->path,
        .format = file->wire->format,
        .bytes = file->wire->bytes,
        .options = file->wire->options,
        .backing = backing,
        .backing_format = file->wire->backing_format,
    };

    return vmm_storage_create(disks->storage, &request, error);
}

static gboolean open_storage(DestinationDisks *disks, GError **error)
{
    const MigrateDestinationHost *host = disks->move->host;

    disks->storage = host->open_storage(&disks->message, host->user, error);
    if (!disks->storage)
        return FALSE;
    disks->guard = guard_start_kill(vmm_storage_get_pid(disks->storage), error);
    return disks->guard != NULL;
}

static gboolean has_images(const DestinationDisks *disks)
{
    for (guint i = 0; i < count_files(disks); i++)
        if (disks->files[i].make == DISK_MAKE_IMAGE)
            return TRUE;
    return FALSE;
}

static gboolean make_files(DestinationDisks *disks, GError **error)
{
    for (guint i = 0; i < count_files(disks); i++)
        if (disks->files[i].make != DISK_MAKE_NOTHING && !plan_file(disks, &disks->files[i], error))
            return FALSE;
    if (!check_room(disks, error) || !put_on_record(disks, error) ||
        (has_images(disks) && !open_storage(disks, error)))
        return FALSE;
    for (guint i = 0; i < count_files(disks); i++) {
        DestinationFile *file = &disks->files[i];

        if (file->make == DISK_MAKE_NOTHING)
            continue;
        if (!make_empty(disks, file, error) ||
            (file->make == DISK_MAKE_IMAGE && !make_image(disks, file, error)))
            return FALSE;
    }
    return !fault_point("destination.disks-made", error);
}

/* ---- receiving ---- */

static DiskTarget *open_image(DestinationDisks *disks, guint number, GError **error)
{
    DestinationFile *file = &disks->files[number];
    g_autofree char *name = g_strdup_printf("disk%u", number);
    g_autofree char *socket = vmm_storage_get_socket(disks->storage);
    DiskTarget *target = NULL;

    file->exported =
        vmm_storage_open_image(disks->storage, name, file->path, file->wire->format, TRUE, error);
    if (file->exported)
        target = disk_target_open_export(socket, name, file->wire->bytes, error);
    if (target && !file->wire->backing)
        disk_target_keep_holes(target);
    return target;
}

static DiskTarget *open_file(const DestinationFile *file, GError **error)
{
    autofd int fd = open(file->path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    DiskTarget *target;

    if (fd < 0) {
        error_set_errno(error, errno, "open %s", file->path);
        return NULL;
    }
    target = disk_target_open_file(fd, file->wire->file_bytes, error);
    if (target)
        disk_target_keep_holes(target);
    return target;
}

static DiskTarget *on_open(guint number, gpointer user, GError **error)
{
    DestinationDisks *disks = user;
    const DestinationFile *file = &disks->files[number];

    switch (file->make) {
    case DISK_MAKE_IMAGE:
        return open_image(disks, number, error);
    case DISK_MAKE_FILE:
        return open_file(file, error);
    case DISK_MAKE_NOTHING:
        break;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "content of %s, which was not to be made", file->path);
    return NULL;
}

static OldFile *on_open_old(guint number, gpointer user, GError **error)
{
    DestinationDisks *disks = user;
    const DestinationFile *file = &disks->files[number];

    if (file->make == DISK_MAKE_FILE)
        return old_file_open(file->set_aside, file->wire->file_bytes, error);
    error_set(error, VMFERRY_ERROR_INVALID, "%s to be compared, which was not to be made as a file",
              file->path);
    return NULL;
}

static gboolean start_receiver(DestinationDisks *disks, GError **error)
{
    DestinationMove *move = disks->move;
    DiskReceiverOptions options = {count_files(disks), on_open, on_open_old, disks};

    if (!session_send_bytes(move->session, FRAME_DISKS_MADE, NULL, 0, error) ||
        !session_await_channel(move->session, TRAFFIC_DISK, JOIN_MS, error))
        return FALSE;
    disks->receiver = disk_receiver_start(move->session, &options, error);
    return disks->receiver != NULL;
}

static gboolean take_makes(DestinationDisks *disks, gboolean *ret_any, GError **error)
{
    g_autofree DiskMake *makes = g_new0(DiskMake, count_files(disks) + 1);
    Frame frame;

    *ret_any = FALSE;
    if (!session_expect(disks->move->session, FRAME_DISKS_MAKE, MAKE_MS, &frame, error) ||
        !disks_make_message_decode((const char *)frame.payload, frame.length, count_files(disks),
                                   makes, error))
        return FALSE;
    for (guint i = 0; i < count_files(disks); i++) {
        disks->files[i].make = makes[i];
        *ret_any |= makes[i] != DISK_MAKE_NOTHING;
    }
    return TRUE;
}

gboolean destination_take_disks(DestinationMove *move, const Frame *frame, GError **error)
{
    DestinationDisks *disks = g_new0(DestinationDisks, 1);
    gboolean any;

    disks->move = move;
    move->disks = disks;
    if (!take_plan(disks, frame, error) || !take_makes(disks, &any, error))
        return FALSE;
    return !any || (make_files(disks, error) && start_receiver(disks, error));
}

gboolean destination_are_disks_of(const DestinationMove *move, const GuestMessage *guest,
                                  GError **error)
{
    const DisksMessage *message = &move->disks->message;

    if (strcmp(message->transaction, guest->transaction) == 0 &&
        strcmp(message->guest, guest->guest) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "GUEST is about another guest than DISKS");
    return FALSE;
}

gboolean destination_await_after_disks(DestinationMove *move, FrameType type, Frame *ret,
                                       GError **error)
{
    for (;;) {
        g_autoptr(GError) quiet = NULL;

        if (!destination_check_disks(move, error))
            return FALSE;
        if (session_expect(move->session, type, SLICE_MS, ret, &quiet))
            return TRUE;
        if (!error_is(quiet, VMFERRY_ERROR_TIMEOUT)) {
            g_propagate_error(error, g_steal_pointer(&quiet));
            return FALSE;
        }
    }
}

gboolean destination_check_disks(DestinationMove *move, GError **error)
{
    return !move->disks || !move->disks->receiver ||
           disk_receiver_check(move->disks->receiver, error);
}

/* ---- the pause ---- */

static char *make_digest(DestinationDisks *disks, guint number, GError **error)
{
    const DestinationFile *file = &disks->files[number];
    g_autofree char *name = g_strdup_printf("verify%u", number);
    g_autoptr(ImageView) view = NULL;
    g_autofree char *socket = NULL;
    char *digest;

    if (file->make == DISK_MAKE_FILE) {
        view = image_view_open(file->path, error);
        return view ? image_view_digest_content(view, file->wire->file_bytes, NULL, error) : NULL;
    }
    socket = vmm_storage_get_socket(disks->storage);
    if (!vmm_storage_open_image(disks->storage, name, file->path, file->wire->format, FALSE, error))
        return NULL;
    digest = disk_digest_export(socket, name, NULL, error);
    vmm_storage_close_image(disks->storage, name, NULL);
    return digest;
}

/* An empty disk gets no content. */
static gboolean close_images(DestinationDisks *disks, GError **error)
{
    for (guint i = 0; i < count_files(disks); i++) {
        g_autofree char *name = g_strdup_printf("disk%u", i);

        /* A disk may be empty. */
        if (disks->files[i].exported && !vmm_storage_close_image(disks->storage, name, error))
            return FALSE;
    }
    return TRUE;
}

gboolean destination_complete_disks(DestinationMove *move, GError **error)
{
    DestinationDisks *disks = move->disks;

    if (!disks || !disks->receiver || disks->complete)
        return TRUE;
    disks->complete = disk_receiver_finish(disks->receiver, error) && close_images(disks, error);
    return disks->complete;
}

gboolean destination_verify_disks(DestinationMove *move, GError **error)
{
    DestinationDisks *disks = move->disks;
    g_auto(GStrv) digests = NULL;
    g_autofree char *text = NULL;

    if (!disks || !disks->receiver) {
        error_set(error, VMFERRY_ERROR_INVALID, "there are no disks to verify");
        return FALSE;
    }
    if (!destination_complete_disks(move, error))
        return FALSE;
    digests = g_new0(char *, count_files(disks) + 1);
    for (guint i = 0; i < count_files(disks); i++) {
        digests[i] =
            disks->files[i].make == DISK_MAKE_NOTHING ? g_strdup("") : make_digest(disks, i, error);
        if (!digests[i])
            return FALSE;
    }
    text = disks_digests_message_encode(digests, count_files(disks));
    return session_send_bytes(move->session, FRAME_DISKS_DIGESTS, text, strlen(text), error);
}

/* ---- the end ---- */

static void end_storage(DestinationDisks *disks)
{
    const MigrateDestinationHost *host = disks->move->host;

    g_clear_pointer(&disks->receiver, disk_receiver_free);
    /* First: it would be told that its process has ended. */
    g_clear_pointer(&disks->guard, guard_free);
    if (disks->storage)
        host->close_storage(g_steal_pointer(&disks->storage), host->user);
}

static void forget(DestinationDisks *disks)
{
    const MigrateDestinationHost *host = disks->move->host;

    if (disks->on_record)
        host->note_files(disks->message.transaction, NULL, host->user, NULL);
    disks->on_record = FALSE;
}

/* As it was before: what was made goes, what was set aside comes back. */
void destination_undo_disks(DestinationMove *move)
{
    DestinationDisks *disks = move->disks;

    if (!disks)
        return;
    /* The receiver may wait for it without end. */
    g_clear_pointer(&disks->guard, guard_free);
    if (disks->storage)
        vmm_storage_kill(disks->storage);
    end_storage(disks);
    for (guint i = 0; disks->files && i < count_files(disks); i++) {
        DestinationFile *file = &disks->files[i];

        if (file->made && unlink(file->path) < 0)
            log_warning("%s could not be removed: %s", file->path, g_strerror(errno));
        if (file->set_aside && rename(file->set_aside, file->path) < 0 && errno != ENOENT)
            log_warning("%s could not be put back as %s: %s", file->set_aside, file->path,
                        g_strerror(errno));
        file->made = FALSE;
    }
    forget(disks);
}

void destination_keep_disks(DestinationMove *move)
{
    DestinationDisks *disks = move->disks;

    if (!disks)
        return;
    end_storage(disks);
    for (guint i = 0; disks->files && i < count_files(disks); i++)
        if (disks->files[i].set_aside && unlink(disks->files[i].set_aside) < 0)
            log_warning("%s could not be removed: %s", disks->files[i].set_aside,
                        g_strerror(errno));
    forget(disks);
}

void destination_disks_free(DestinationDisks *disks)
{
    if (!disks)
        return;
    end_storage(disks);
    for (guint i = 0; disks->files && i < count_files(disks); i++) {
        g_free(disks->files[i].path);
        g_free(disks->files[i].set_aside);
    }
    g_free(disks->files);
    disks_message_clear(&disks->message);
    g_free(disks);
}

/*
 * Disks that move along: the source's half
 *
 * For each disk of the guest it is settled first what becomes of it.  Disks that both hosts share
 * stay what they are (source_images.c proves that they are the same).  The others are copied:
 *
 *   plan     DISKS names the image files, DISKS_SEEN says what is at their places there,
 *            DISKS_MAKE which of them are to be made
 *   files    what nobody writes to (backing files, CD-ROM images), and firmware variables, whose
 *            content is guest memory as well: byte by byte, before the destination's VMM starts,
 *            which opens them
 *   mirror   what the guest writes to: the VMM itself copies the disk, live, into an NBD server of
 *            ours for each disk, whose requests a DiskSender takes to the destination; memory
 *            follows when all disks are in sync; of an image above another one, only what has changed
 *            since (disk_base.h, disk_changes.h)
 *   finish   in the pause: the VMM ends the copies, which it does only when they are complete, and
 *            a last flush puts all of it on the destination's storage
 *
 * A guest's write waits for the NBD server.  So a connection that takes nothing for a second while
 * a request waits is given up: the NBD servers are closed, the VMM drops the copies, the guest goes
 * on, and the move fails.
 *
 * Where the session survives breaks, writes do not wait for one either: after 0.4 s the connection is made
 * anew, and requests are answered, since the session keeps what it was sent until it has arrived.  The VMM holds its own
 * copying meanwhile.  Only a guest that writes more than is kept (disk_sender.c) ends the move so.
 */
#include "migrate/disk_base.h"
#include "migrate/disk_changes.h"
#include "migrate/saved_disks.h"
#include "migrate/source_move.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/page.h"
#include "disk/disk_sender.h"
#include "disk/disk_target.h"
#include "disk/image_view.h"
#include "disk/nbd_server.h"
#include "policy/disk_pace.h"
#include "vmm/vmm_driver.h"
#include "wire/disk_frame.h"

#define ANSWER_MS 60000
#define JOIN_MS 10000
#define POLL_NS 20000000ULL
#define PAUSED_POLL_NS 200000ULL
#define FLUSH_MS 60000
#define DIGESTS_SLICE_MS 100

#define ESTIMATE_AFTER_MS 500.0
#define STALL_NS 1000000000ULL
/* After that long a break is not waited for. */
#define AHEAD_NS 400000000ULL
#define READ_BYTES ((size_t)1 << 20)
/* A disk that is read for --verify is at least as fast. */
#define VERIFY_BYTES_PER_MS 50000u
#define COPY_PREFIX "vmferry-copy-"

/* An image file, each once, however many disks use it. */
typedef struct {
    VmmDiskFile *file;
    ImageView *view; /* locked, so that the destination can tell the very same file */
    uint64_t lock;
    DiskMake make;
    const char *format;  /* that it is made as */
    const char *backing; /* below it; NULL: nothing */
    const char *backing_format;
    guint mode;
} SourceFile;

typedef struct {
    struct SourceDisks *owner;
    const VmmDisk *disk;
    DiskMode mode; /* settled: shared, copy or top */
    guint number;  /* of its topmost file */
    char *copy;    /* its name; NULL: not begun */
    NbdServer *server;
    VmmCopyState state;
    uint64_t begun_ns, ready_ns, finished_ns;
    gboolean synchronous, finished;
    int verified;             /* 1, 0, -1 not asked for */
    const SaveBaseDisk *base; /* of an image: only what has changed since this copy; NULL: all … */
    char *whole;              /* … and why, where there is a base */
    char *bitmap;             /* of what changes from the pause on; NULL: none */
} SourceDisk;

struct SourceDisks {
    SourceMove *move;
    GPtrArray *list; /* of VmmDisk */
    GArray *disks;   /* of SourceDisk */
    GArray *files;   /* of SourceFile: those that DISKS names */
    DisksSeenMessage seen;
    gboolean makes; /* something is made there */
    DiskSender *sender;
    DiskChanges *changes; /* of disks with a base; NULL: there are none */
    double begun_ms;      /* since the move's start: the first content */
    uint64_t last_flush;
    char *directory; /* of a storage process, to read images for --verify; NULL: none */
    VmmStorage *storage;

    gint copying;    /* atomic: the VMM copies by itself, too */
    gint wants_hold; /* the same: it is to stop that, before requests that wait are answered … */
    gboolean holds;  /* … and was told so */

    GMutex lock;
    GError *failure; /* of the connection about disks; protected by lock */
};

static SourceDisk *get_disk(SourceDisks *disks, guint i)
{
    return &g_array_index(disks->disks, SourceDisk, i);
}

static SourceFile *get_file(SourceDisks *disks, guint i)
{
    return &g_array_index(disks->files, SourceFile, i);
}

static gboolean is_mirrored(SourceDisks *disks, const SourceDisk *disk)
{
    return disk->mode != DISK_MODE_SHARED && get_file(disks, disk->number)->make == DISK_MAKE_IMAGE;
}

/* ---- the plan ---- */

static gboolean find_number(const SourceDisks *disks, const char *path, guint *ret)
{
    for (guint i = 0; i < disks->files->len; i++) {
        *ret = i;
        if (strcmp(g_array_index(disks->files, SourceFile, i).file->path, path) == 0)
            return TRUE;
    }
    return FALSE;
}

static gboolean add_file(SourceDisks *disks, const VmmDisk *disk, guint i, GError **error)
{
    VmmDiskFile *file = disk->files->pdata[i];
    const VmmDiskFile *below =
        !disks->move->image && i + 1 < disk->files->len ? disk->files->pdata[i + 1] : NULL;
    SourceFile entry = {.file = file, .mode = 0600};
    struct stat info;
    guint number;

    if (find_number(disks, file->path, &number))
        return TRUE;
    entry.view = image_view_open(file->path, error);
    if (!entry.view || stat(file->path, &info) < 0) {
        g_prefix_error(error, "%s: ", disk->device);
        return FALSE;
    }
    entry.lock = image_lock_offset();
    if (!image_view_lock(entry.view, entry.lock, NULL))
        entry.lock = 0;
    entry.mode = info.st_mode & 0777;
    entry.format = file->format;
    entry.backing = below ? below->file : NULL;
    entry.backing_format = below ? below->format : NULL;
    g_array_append_val(disks->files, entry);
    return TRUE;
}

/* What its user wants, then what the disk can. */
static gboolean choose_mode(SourceMove *move, const VmmDisk *disk, DiskMode *ret, GError **error)
{
    const char *name = json_text_or(move->job->disk_modes, disk->id, NULL);
    const char *obstacle = disk->obstacle;

    *ret = move->job->options.disks;
    /* Nobody changes it: the image refers to it. */
    if (move->image && disk->read_only)
        *ret = DISK_MODE_SHARED;
    if (name && !disk_mode_from_name(name, ret)) {
        error_set(error, VMFERRY_ERROR_INVALID, "disk %s: \"%.32s\" is not a way to move a disk",
                  disk->id, name);
        return FALSE;
    }
    if (!obstacle && disk->files->len == 0)
        obstacle = "it is not a file";
    if (!obstacle || *ret == DISK_MODE_SHARED)
        return TRUE;
    if (*ret == DISK_MODE_AUTO) {
        *ret = DISK_MODE_SHARED;
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "disk %s (%s) cannot be copied: %s", disk->id,
              disk->device, obstacle);
    return FALSE;
}

/* ---- above copies of an earlier image ---- */

static gboolean on_changed(guint number, uint64_t offset, const uint8_t *data, size_t length,
                           gpointer user, GError **error)
{
    SourceDisks *disks = user;

    return source_deadline_check(disks->move, error) && source_disks_check(disks->move, error) &&
           disk_sender_write(disks->sender, number, offset, data, length, error) &&
           source_not_cancelled(disks->move, error) && source_hear_peer(disks->move, error);
}

static gboolean open_changes(SourceDisks *disks, GError **error)
{
    SourceMove *move = disks->move;
    DiskChangesOptions options = {
        .vmm = move->job->vmm,
        .transaction = move->transaction,
        .write = on_changed,
        .user = disks,
    };

    if (disks->changes)
        return TRUE;
    if (!disks->directory)
        disks->directory = move->job->host.make_directory(move->job->host.user, error);
    options.directory = disks->directory;
    if (disks->directory)
        disks->changes = disk_changes_new(&options, error);
    return disks->changes != NULL;
}

/* Where it cannot be above the base's copy it is copied whole. */
static void choose_base(SourceDisks *disks, SourceDisk *entry)
{
    SourceMove *move = disks->move;
    const SaveBaseDisk *base = disk_base_find(move->base, entry->disk->id);
    g_autoptr(GError) problem = NULL;

    entry->whole = g_strdup(disk_base_find_obstacle(move->job->vmm, entry->disk, base));
    if (!entry->whole && !open_changes(disks, &problem))
        entry->whole = g_strdup_printf("QEMU does not show it: %s", problem->message);
    if (!entry->whole)
        entry->base = base;
}

static void put_above(SourceFile *file, const SaveBaseDisk *base)
{
    if (strcmp(file->format, DISK_BASE_FORMAT) != 0)
        file->format = DISK_BASE_FORMAT;
    file->backing = base->saved;
    file->backing_format = base->format;
}

/* ---- what becomes of a disk ---- */

/* Of its files, those that are made there; in an image all that it has is in one. */
static guint count_layers(const SourceDisks *disks, const VmmDisk *disk)
{
    return disks->move->image ? 1 : disk->files->len;
}

static gboolean add_disk(SourceDisks *disks, const VmmDisk *disk, GError **error)
{
    SourceDisk entry = {.owner = disks, .disk = disk, .verified = -1};

    if (!choose_mode(disks->move, disk, &entry.mode, error))
        return FALSE;
    for (guint i = 0; entry.mode != DISK_MODE_SHARED && i < count_layers(disks, disk); i++)
        if (!add_file(disks, disk, i, error))
            return FALSE;
    if (entry.mode != DISK_MODE_SHARED)
        find_number(disks, ((VmmDiskFile *)disk->files->pdata[0])->path, &entry.number);
    if (disks->move->base && entry.mode != DISK_MODE_SHARED && !disk->read_only && !disk->flash)
        choose_base(disks, &entry);
    if (entry.base)
        put_above(get_file(disks, entry.number), entry.base);
    g_array_append_val(disks->disks, entry);
    return TRUE;
}

static gboolean check_names(const SourceDisks *disks, GError **error)
{
    const char *name;
    json_t *value;

    json_object_foreach(disks->move->job->disk_modes, name, value)
    {
        g_autoptr(GString) known = g_string_new(NULL);
        gboolean found = FALSE;

        for (guint i = 0; i < disks->list->len && !found; i++) {
            const VmmDisk *disk = disks->list->pdata[i];

            found = strcmp(disk->id, name) == 0;
            g_string_append_printf(known, "%s%s", i > 0 ? ", " : "", disk->id);
        }
        if (found)
            continue;
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "the guest has no disk \"%.64s\"; it has %s",
                  name, known->len > 0 ? known->str : "none");
        return FALSE;
    }
    return TRUE;
}

static gboolean list_disks(SourceDisks *disks, GError **error)
{
    disks->list = vmm_list_disks(disks->move->job->vmm, error);
    if (!disks->list || !check_names(disks, error))
        return FALSE;
    for (guint i = 0; i < disks->list->len; i++)
        if (!add_disk(disks, disks->list->pdata[i], error))
            return FALSE;
    return TRUE;
}

/* What a file is called there. */
static char *name_there(const SourceDisks *disks, guint number)
{
    const char *image = disks->move->image;

    return image ? saved_disk_name(image, disks->move->transaction, number)
                 : g_strdup(g_array_index(disks->files, SourceFile, number).file->file);
}

/* What it is above, of an image beside it.  QEMU takes what is before a colon for a protocol, unless a slash comes
 * first. */
static char *name_below(const SourceDisks *disks, const SourceFile *file)
{
    return file->backing && disks->move->image ? g_strconcat("./", file->backing, NULL)
                                               : g_strdup(file->backing);
}

static char *encode_question(SourceDisks *disks)
{
    SourceMove *move = disks->move;
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) below = g_ptr_array_new_with_free_func(g_free);
    g_autofree WireDiskFile *files = g_new0(WireDiskFile, disks->files->len + 1);
    DisksMessage message = {
        .transaction = move->transaction,
        .guest = (char *)move->job->guest,
        .vmm_kind = move->description->kind,
        .program = move->command_line[0],
        .working_directory =
            (char *)(move->job->working_directory && !move->image ? move->job->working_directory
                                                                  : "/"),
        .process = move->process,
        .overwrite = move->job->options.overwrite,
        .retry_for_ms = move->retry_for_ms,
        .files = files,
        .file_count = disks->files->len,
    };

    for (guint i = 0; i < disks->files->len; i++) {
        const SourceFile *entry = get_file(disks, i);

        g_ptr_array_add(names, name_there(disks, i));
        g_ptr_array_add(below, name_below(disks, entry));
        files[i] = (WireDiskFile){
            .path = names->pdata[i],
            .format = (char *)entry->format,
            .bytes = entry->file->bytes,
            .file_bytes = entry->file->file_bytes,
            /* How much has changed is not known yet. */
            .allocated_bytes = move->image && entry->backing ? 0 : entry->file->allocated_bytes,
            .mode = entry->mode,
            .lock = entry->lock,
            .backing = below->pdata[i],
            .backing_format = (char *)entry->backing_format,
            .options = entry->format == entry->file->format ? entry->file->options : NULL,
        };
    }
    return disks_message_encode(&message);
}

static gboolean ask(SourceDisks *disks, GError **error)
{
    SourceMove *move = disks->move;
    g_autofree char *text = NULL;
    Frame frame;

    /* The other side does so by DISKS. */
    source_allow_breaks(move);
    text = encode_question(disks);
    if (!session_send_bytes(move->session, FRAME_DISKS, text, strlen(text), error) ||
        !source_await(move, FRAME_DISKS_SEEN, ANSWER_MS, &frame, error) ||
        !disks_seen_message_decode((const char *)frame.payload, frame.length, &disks->seen, error))
        return FALSE;
    if (disks->seen.count == disks->files->len)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "DISKS_SEEN about %u files, asked about %u",
              disks->seen.count, disks->files->len);
    return FALSE;
}

static const DiskFileSeen *find_seen(const SourceDisks *disks, const VmmDiskFile *file,
                                     guint *ret_number)
{
    *ret_number = 0;
    find_number(disks, file->path, ret_number);
    return &disks->seen.files[*ret_number];
}

/* The length of a raw image tells for certain; one of another format may just be growing. */
static gboolean is_other(const VmmDiskFile *file, const DiskFileSeen *seen)
{
    return seen->exists && seen->bytes > 0 && strcmp(file->format, "raw") == 0 &&
           seen->bytes != file->file_bytes;
}

static gboolean refuse_existing(SourceDisks *disks, const SourceDisk *disk,
                                const DiskFileSeen *seen, GError **error)
{
    const char *peer = session_get_peer_name(disks->move->session);

    if (seen->same)
        error_set(error, VMFERRY_ERROR_EXISTS,
                  "disk %s (%s) is not copied: %s on %s is the very same file; both hosts share it",
                  disk->disk->id, disk->disk->device, seen->path, peer);
    else if (is_other(disk->disk->files->pdata[0], seen))
        error_set(error, VMFERRY_ERROR_EXISTS,
                  "disk %s (%s): %s exists on %s and is another file (%" G_GUINT64_FORMAT
                  " bytes here, %" G_GUINT64_FORMAT " bytes there); --overwrite replaces it",
                  disk->disk->id, disk->disk->device, seen->path, peer,
                  ((VmmDiskFile *)disk->disk->files->pdata[0])->file_bytes, seen->bytes);
    else
        error_set(error, VMFERRY_ERROR_EXISTS,
                  "disk %s (%s) is not copied: %s exists on %s; --overwrite replaces it",
                  disk->disk->id, disk->disk->device, seen->path, peer);
    return FALSE;
}

/* What is written to while it is copied is of one disk, and below none. */
static gboolean set_make(SourceDisks *disks, const SourceDisk *disk, guint number, DiskMake make,
                         GError **error)
{
    SourceFile *file = get_file(disks, number);

    if (file->make == DISK_MAKE_NOTHING ||
        (file->make == DISK_MAKE_FILE && make == DISK_MAKE_FILE)) {
        file->make = make;
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "disk %s (%s) cannot be copied: another disk of the guest uses %s, too",
              disk->disk->id, disk->disk->device, file->file->file);
    return FALSE;
}

static gboolean settle_top(SourceDisks *disks, SourceDisk *disk, GError **error)
{
    const VmmDiskFile *file = disk->disk->files->pdata[0];
    guint number;
    const DiskFileSeen *seen = find_seen(disks, file, &number);
    gboolean replaces = disks->move->job->options.overwrite && !seen->same;

    /* What is there may be shared: source_images.c finds out. */
    if (disk->mode == DISK_MODE_AUTO && seen->exists && !is_other(file, seen) &&
        (seen->same || !disks->move->frozen)) {
        disk->mode = DISK_MODE_SHARED;
        return TRUE;
    }
    if (seen->exists && !replaces)
        return refuse_existing(disks, disk, seen, error);
    if (disk->mode == DISK_MODE_AUTO)
        disk->mode = DISK_MODE_COPY;
    return set_make(disks, disk, number,
                    disk->disk->read_only || disk->disk->flash || disks->move->frozen
                        ? DISK_MAKE_FILE
                        : DISK_MAKE_IMAGE,
                    error);
}

/* Backing files that are there are left alone, and proven to be the same. */
static gboolean settle_backing(SourceDisks *disks, SourceDisk *disk, GError **error)
{
    for (guint i = 1; i < count_layers(disks, disk->disk); i++) {
        guint number;
        const DiskFileSeen *seen = find_seen(disks, disk->disk->files->pdata[i], &number);

        if (seen->exists && (seen->same || !disks->move->frozen))
            continue;
        if (seen->exists && !disks->move->job->options.overwrite)
            return refuse_existing(disks, disk, seen, error);
        if (disk->mode == DISK_MODE_TOP) {
            error_set(error, VMFERRY_ERROR_NOT_FOUND,
                      "disk %s (%s): its backing file %s is not there on %s", disk->disk->id,
                      disk->disk->device, seen->path, session_get_peer_name(disks->move->session));
            return FALSE;
        }
        if (!set_make(disks, disk, number, DISK_MAKE_FILE, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean settle(SourceDisks *disks, GError **error)
{
    for (guint i = 0; i < disks->disks->len; i++) {
        SourceDisk *disk = get_disk(disks, i);

        if (disk->mode == DISK_MODE_SHARED)
            continue;
        if (!settle_top(disks, disk, error) ||
            (disk->mode != DISK_MODE_SHARED && !settle_backing(disks, disk, error)))
            return FALSE;
        disks->makes |= disk->mode != DISK_MODE_SHARED;
    }
    return TRUE;
}

/* ---- the connection ---- */

static void note_failure(SourceDisks *disks, const GError *why)
{
    lock_guard(&disks->lock);

    if (!disks->failure)
        disks->failure = g_error_copy(why);
}

/* NULL until its copy begins, which the sender's thread may see in between. */
static NbdServer *get_server(SourceDisks *disks, guint i)
{
    return g_atomic_pointer_get(&get_disk(disks, i)->server);
}

static void close_servers(SourceDisks *disks, const GError *why)
{
    for (guint i = 0; i < disks->disks->len; i++)
        if (get_server(disks, i))
            nbd_server_close(get_server(disks, i), why);
}

static void on_answer(guint number, uint64_t id, gpointer user)
{
    SourceDisks *disks = user;

    for (guint i = 0; i < disks->disks->len; i++)
        if (get_server(disks, i) && get_disk(disks, i)->number == number)
            nbd_server_answer(get_server(disks, i), id, 0);
}

static void on_failed(const GError *why, gpointer user)
{
    SourceDisks *disks = user;

    note_failure(disks, why);
    close_servers(disks, why);
}

static uint64_t get_wait_ns(SourceDisks *disks)
{
    uint64_t wait_ns = 0;

    for (guint i = 0; i < disks->disks->len; i++)
        if (get_server(disks, i))
            wait_ns = MAX(wait_ns, nbd_server_get_wait_ns(get_server(disks, i)));
    return wait_ns;
}

/* What waits is answered. */
static void run_ahead(SourceDisks *disks, DiskSender *sender)
{
    Session *session = disks->move->session;
    g_autoptr(GError) cause = NULL;

    error_set(&cause, VMFERRY_ERROR_DISCONNECTED, "%s has taken no content of disks for %.1f s",
              session_get_peer_name(session), AHEAD_NS / 1e9);
    channel_renew(session_get_channel(session, TRAFFIC_DISK), cause);
    disk_sender_run_ahead(sender);
}

/* The guest is not to wait for a link that carries nothing. */
static void on_tick(DiskSender *sender, gpointer user)
{
    SourceDisks *disks = user;
    uint64_t stall_ns = disk_sender_get_stall_ns(sender), wait_ns = get_wait_ns(disks);
    g_autoptr(GError) why = NULL;

    if (MIN(stall_ns, wait_ns) >= AHEAD_NS && disks->move->retry_for_ms > 0 &&
        !disk_sender_is_ahead(sender)) {
        /* What the VMM copies by itself would fill up what is kept: see hold_copies(). */
        if (!g_atomic_int_get(&disks->copying)) {
            run_ahead(disks, sender);
            return;
        }
        g_atomic_int_set(&disks->wants_hold, 1);
    }
    if (MIN(stall_ns, wait_ns) < STALL_NS)
        return;
    error_set(&why, VMFERRY_ERROR_TIMEOUT,
              "%s has taken no content of disks for a second, and the guest's writes must not wait "
              "longer",
              session_get_peer_name(disks->move->session));
    on_failed(why, disks);
}

static gboolean connect_sender(SourceDisks *disks, GError **error)
{
    SourceMove *move = disks->move;
    DiskSenderOptions options = {
        .files = disks->files->len,
        .pack = move->job->options.compress != PACKING_NONE,
        .answer = on_answer,
        .tick = on_tick,
        .failed = on_failed,
        .user = disks,
    };

    if (!session_join(move->session, TRAFFIC_DISK, &move->job->channel, JOIN_MS, move->cancellable,
                      error))
        return FALSE;
    disks->sender = disk_sender_start(move->session, &options, error);
    return disks->sender != NULL;
}

static gboolean make_there(SourceDisks *disks, GError **error)
{
    SourceMove *move = disks->move;
    g_autofree DiskMake *makes = g_new0(DiskMake, disks->files->len + 1);
    g_autofree char *text = NULL;
    Frame frame;

    for (guint i = 0; i < disks->files->len; i++)
        makes[i] = get_file(disks, i)->make;
    text = disks_make_message_encode(makes, disks->files->len);
    return session_send_bytes(move->session, FRAME_DISKS_MAKE, text, strlen(text), error) &&
           (!disks->makes || (source_await(move, FRAME_DISKS_MADE, ANSWER_MS, &frame, error) &&
                              connect_sender(disks, error)));
}

gboolean source_disks_check(SourceMove *move, GError **error)
{
    SourceDisks *disks = move->disks;
    g_autoptr(GError) failure = NULL;

    if (!disks)
        return TRUE;
    g_mutex_lock(&disks->lock);
    failure = disks->failure ? g_error_copy(disks->failure) : NULL;
    g_mutex_unlock(&disks->lock);
    if (!failure)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* ---- progress ---- */

/* What is left of disks and all of memory at the pace at which disks have gone so far. */
static void estimate(SourceDisks *disks)
{
    SourceMove *move = disks->move;
    const MigrateProgress *progress = &move->progress;
    double elapsed_ms = source_now_ms(move) - disks->begun_ms;
    double left = (double)(progress->disk_bytes - progress->disk_bytes_done) +
                  (double)(move->populated_pages * PAGE_BYTES);

    move->disk_eta_ms = -1;
    if (elapsed_ms < ESTIMATE_AFTER_MS || progress->disk_bytes_done == 0)
        return;
    move->disk_bytes_per_ms = (double)progress->disk_bytes_done / elapsed_ms;
    move->disk_eta_ms = left / move->disk_bytes_per_ms + SOURCE_EXPECTED_DEVICE_MS;
}

static void report_progress(SourceDisks *disks)
{
    SourceMove *move = disks->move;
    MigrateProgress *progress = &move->progress;

    progress->disk_bytes = progress->disk_bytes_done = 0;
    progress->disk_same_bytes = progress->disk_wire_bytes = 0;
    for (guint i = 0; i < disks->files->len; i++) {
        const SourceFile *file = get_file(disks, i);
        DiskCounts counts;

        if (file->make == DISK_MAKE_NOTHING)
            continue;
        disk_sender_get_counts(disks->sender, i, &counts);
        progress->disk_bytes += file->file->allocated_bytes;
        progress->disk_bytes_done +=
            MIN(counts.data_bytes + counts.same_bytes, file->file->allocated_bytes);
        progress->disk_same_bytes += MIN(counts.same_bytes, file->file->allocated_bytes);
        progress->disk_wire_bytes += counts.wire_bytes;
    }
    estimate(disks);
    source_report_progress(move);
}

static void set_held(SourceDisks *disks, gboolean held)
{
    disks->holds = held;
    for (guint i = 0; i < disks->disks->len; i++) {
        SourceDisk *disk = get_disk(disks, i);
        g_autoptr(GError) problem = NULL;

        /* One that has failed is found where it is looked at. */
        if (disk->copy && !disk->finished &&
            !vmm_hold_copy(disks->move->job->vmm, disk->copy, held, &problem))
            log_debug("disk %s: %s", disk->disk->id, problem->message);
    }
}

static void hold_copies(SourceDisks *disks)
{
    gboolean wanted = g_atomic_int_compare_and_exchange(&disks->wants_hold, 1, 0);

    /* Not one that was asked for a moment before there was nothing more to hold. */
    if (wanted && g_atomic_int_get(&disks->copying)) {
        set_held(disks, TRUE);
        run_ahead(disks, disks->sender);
    } else if (disks->holds && !disk_sender_is_ahead(disks->sender)) {
        set_held(disks, FALSE);
    }
}

/* A slice of waiting. */
static gboolean wait_slice(SourceDisks *disks, GError **error)
{
    clock_sleep_ns(POLL_NS);
    hold_copies(disks);
    if (clock_now_ns() - disks->move->last_progress_ns > 5 * POLL_NS)
        report_progress(disks);
    return source_not_cancelled(disks->move, error) &&
           source_note_break(disks->move, session_is_broken(disks->move->session), error) &&
           source_hear_peer(disks->move, error);
}

static gboolean await_flush(SourceDisks *disks, uint64_t number, GError **error)
{
    uint64_t end = clock_now_ns() + (uint64_t)FLUSH_MS * 1000000;

    while (!disk_sender_is_flushed(disks->sender, number)) {
        if (!disks->move->paused && session_is_broken(disks->move->session))
            end = clock_now_ns() + (uint64_t)FLUSH_MS * 1000000;
        if (clock_now_ns() > end) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "%s did not write the disks out within %d s",
                      session_get_peer_name(disks->move->session), FLUSH_MS / 1000);
            return FALSE;
        }
        if (!source_deadline_check(disks->move, error) || !source_disks_check(disks->move, error))
            return FALSE;
        if (disks->move->paused) {
            if (!source_not_cancelled(disks->move, error) || !source_hear_peer(disks->move, error))
                return FALSE;
            clock_sleep_ns(PAUSED_POLL_NS);
        } else if (!wait_slice(disks, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- files ---- */

static gboolean read_failed(const SourceFile *file, int problem, GError **error)
{
    error_set_errno(error, problem, "read %s", file->file->file);
    return FALSE;
}

/* The next piece with data at or behind *offset*; *ret_length* 0 at the end. */
static gboolean find_data(int fd, const SourceFile *file, uint64_t *offset, size_t *ret_length,
                          GError **error)
{
    off_t begin = lseek(fd, (off_t)*offset, SEEK_DATA), end;

    *ret_length = 0;
    if (begin < 0)
        return errno == ENXIO || read_failed(file, errno, error);
    end = lseek(fd, begin, SEEK_HOLE);
    if (end < 0)
        return read_failed(file, errno, error);
    end = MIN(end, (off_t)file->file->file_bytes);
    *offset = (uint64_t)begin;
    *ret_length = begin < end ? MIN((size_t)(end - begin), READ_BYTES) : 0;
    return TRUE;
}

static gboolean read_piece(int fd, const SourceFile *file, uint64_t offset, uint8_t *buffer,
                           size_t length, GError **error)
{
    size_t done = 0;

    while (done < length) {
        ssize_t got = pread(fd, buffer + done, length - done, (off_t)(offset + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return read_failed(file, got < 0 ? errno : EIO, error);
        done += (size_t)got;
    }
    return TRUE;
}

/* What it replaces may have most of it, as after a fail-over. */
static gboolean begin_file(SourceDisks *disks, guint number)
{
    const SourceFile *file = get_file(disks, number);
    const DiskFileSeen *seen = &disks->seen.files[number];
    g_autoptr(GError) problem = NULL;
    gboolean compares;

    disk_sender_begin_file(disks->sender, number, file->file->file_bytes, FALSE);
    compares = seen->exists && seen->bytes > 0 &&
               peer_has_feature(&disks->move->peer, FEATURE_DISK_DIGESTS) &&
               disk_sender_compare_file(disks->sender, number, seen->bytes, &problem);
    if (problem)
        log_warning("guest %s: %s is sent whole: %s", disks->move->job->guest, file->file->file,
                    problem->message);
    return compares;
}

/* Whole granules, in a range of which all is told. */
static void widen_piece(const SourceFile *file, uint64_t *offset, size_t *length)
{
    uint64_t begin = *offset / DISK_GRANULE_BYTES * DISK_GRANULE_BYTES;
    uint64_t end = *offset + *length + DISK_GRANULE_BYTES - 1;

    end = MIN(end / DISK_GRANULE_BYTES * DISK_GRANULE_BYTES, begin + READ_BYTES);
    end = MIN(end, MIN(disk_sender_end_of_range(begin), file->file->file_bytes));
    *offset = begin;
    *length = (size_t)(end - begin);
}

static gboolean await_digests(SourceDisks *disks, guint number, uint64_t offset, GError **error)
{
    SourceMove *move = disks->move;
    uint64_t end = clock_now_ns() + (uint64_t)ANSWER_MS * 1000000;
    gboolean known = FALSE;

    while (!known) {
        if (!disk_sender_await_digests(disks->sender, number, offset, DIGESTS_SLICE_MS, &known,
                                       error) ||
            !source_not_cancelled(move, error) || !source_hear_peer(move, error))
            return FALSE;
        if (session_is_broken(move->session))
            end = clock_now_ns() + (uint64_t)ANSWER_MS * 1000000;
        if (known || clock_now_ns() < end)
            continue;
        error_set(error, VMFERRY_ERROR_TIMEOUT, "%s did not tell what the old %s has within %d s",
                  session_get_peer_name(move->session), get_file(disks, number)->file->file,
                  ANSWER_MS / 1000);
        return FALSE;
    }
    return TRUE;
}

static gboolean send_piece(SourceDisks *disks, guint number, uint64_t offset, const uint8_t *bytes,
                           size_t length, GError **error)
{
    if (!source_await_connection(disks->move, error) ||
        !disk_sender_write_compared(disks->sender, number, offset, bytes, length, error) ||
        !source_not_cancelled(disks->move, error) || !source_hear_peer(disks->move, error))
        return FALSE;
    if (clock_now_ns() - disks->move->last_progress_ns > 5 * POLL_NS)
        report_progress(disks);
    return TRUE;
}

static gboolean send_file(SourceDisks *disks, guint number, GError **error)
{
    const SourceFile *file = get_file(disks, number);
    g_autofree uint8_t *buffer = g_malloc(READ_BYTES);
    autofd int fd = open(file->file->path, O_RDONLY | O_CLOEXEC);
    gboolean compares = begin_file(disks, number);
    uint64_t offset = 0;
    size_t length;

    if (fd < 0)
        return read_failed(file, errno, error);
    for (;;) {
        if (!find_data(fd, file, &offset, &length, error))
            return FALSE;
        if (length == 0)
            return TRUE;
        if (compares)
            widen_piece(file, &offset, &length);
        if (!await_digests(disks, number, offset, error) ||
            !read_piece(fd, file, offset, buffer, length, error) ||
            !send_piece(disks, number, offset, buffer, length, error))
            return FALSE;
        offset += length;
    }
}

static gboolean await_files(SourceDisks *disks, GError **error)
{
    uint64_t number;

    if (!disk_sender_flush(disks->sender, FALSE, &number, error) ||
        !await_flush(disks, number, error))
        return FALSE;
    report_progress(disks);
    return TRUE;
}

static gboolean send_files(SourceDisks *disks, GError **error)
{
    gboolean any = FALSE;

    for (guint i = 0; i < disks->files->len; i++) {
        if (get_file(disks, i)->make != DISK_MAKE_FILE)
            continue;
        if (!send_file(disks, i, error))
            return FALSE;
        any = TRUE;
    }
    return !any || await_files(disks, error);
}

/* ---- the old images ---- */

/* On this host, whatever the VMM's process has for a root; NULL: not to be found. */
static char *find_host_path(const char *path)
{
    g_autofree char *found = realpath(path, NULL);
    struct stat wanted, info;

    if (found && stat(path, &wanted) == 0 && stat(found, &info) == 0 &&
        wanted.st_dev == info.st_dev && wanted.st_ino == info.st_ino)
        return g_steal_pointer(&found);
    return NULL;
}

/* What other guests may use stays: only what this one writes to. */
static gboolean is_retired(SourceDisks *disks, const SourceDisk *disk)
{
    return is_mirrored(disks, disk) ||
           (disk->mode != DISK_MODE_SHARED && disk->disk->flash && !disk->disk->read_only);
}

static gboolean note_images(SourceDisks *disks, GError **error)
{
    const MigrateSourceJob *job = disks->move->job;
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; !job->options.keep_source && i < disks->disks->len; i++) {
        const SourceDisk *disk = get_disk(disks, i);
        const VmmDiskFile *file = disk->disk->files->len > 0 ? disk->disk->files->pdata[0] : NULL;
        char *path = file && is_retired(disks, disk) ? find_host_path(file->path) : NULL;

        if (path)
            g_ptr_array_add(paths, path);
        else if (file && is_retired(disks, disk))
            log_warning("guest %s: %s is not found from here: it will keep its name", job->guest,
                        file->file);
    }
    g_ptr_array_add(paths, NULL);
    return paths->len == 1 ||
           job->host.note_images((char **)paths->pdata, job->options.delete_source, job->host.user,
                                 error);
}

gboolean source_disks_list(SourceMove *move, GError **error)
{
    SourceDisks *disks;

    if (move->job->options.disks == DISK_MODE_SHARED &&
        json_object_size(move->job->disk_modes) == 0)
        return TRUE;
    disks = move->disks = g_new0(SourceDisks, 1);
    disks->move = move;
    disks->disks = g_array_new(FALSE, TRUE, sizeof(SourceDisk));
    disks->files = g_array_new(FALSE, TRUE, sizeof(SourceFile));
    g_mutex_init(&disks->lock);
    return list_disks(disks, error);
}

/* They were written to since they were listed. */
static gboolean measure_files(SourceDisks *disks, GError **error)
{
    for (guint i = 0; i < disks->files->len; i++) {
        VmmDiskFile *file = get_file(disks, i)->file;
        struct stat info;

        if (stat(file->path, &info) < 0) {
            error_set_errno(error, errno, "%s", file->file);
            return FALSE;
        }
        if (!S_ISREG(info.st_mode))
            continue;
        file->file_bytes = (uint64_t)info.st_size;
        file->allocated_bytes = (uint64_t)info.st_blocks * 512;
    }
    return TRUE;
}

gboolean source_disks_prepare(SourceMove *move, GError **error)
{
    SourceDisks *disks;

    if (!move->disks && !source_disks_list(move, error))
        return FALSE;
    disks = move->disks;
    if (!disks || disks->files->len == 0)
        return TRUE;
    if (move->frozen && !measure_files(disks, error))
        return FALSE;
    if (!peer_has_feature(&move->peer, FEATURE_DISKS)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s cannot take disks",
                  session_get_peer_name(move->session));
        return FALSE;
    }
    if (!ask(disks, error) || !settle(disks, error) || !make_there(disks, error))
        return FALSE;
    if (!disks->makes)
        return TRUE;
    disks->begun_ms = source_now_ms(move);
    move->disk_eta_ms = -1;
    source_set_phase(move, MIGRATE_PHASE_DISKS);
    return !fault_point("source.disks-made", error) && note_images(disks, error) &&
           send_files(disks, error);
}

gboolean source_disks_makes(const SourceMove *move, const char *path)
{
    guint number;

    return move->disks && path && find_number(move->disks, path, &number) &&
           get_file(move->disks, number)->make != DISK_MAKE_NOTHING;
}

/* ---- the mirrors ---- */

static void on_request(const NbdRequest *request, gpointer user)
{
    SourceDisk *disk = user;
    SourceDisks *disks = disk->owner;
    g_autoptr(GError) problem = NULL;
    gboolean sent = TRUE;

    switch (request->kind) {
    case NBD_REQUEST_WRITE:
        sent = disk_sender_write(disks->sender, disk->number, request->offset, request->data,
                                 request->length, &problem);
        break;
    case NBD_REQUEST_ZERO:
    case NBD_REQUEST_TRIM:
        sent = disk_sender_zero(disks->sender, disk->number, request->offset, request->length,
                                &problem);
        break;
    case NBD_REQUEST_FLUSH:
        /* See source_disks_finish(): only the last flush counts. */
        break;
    }
    if (sent) {
        disk_sender_answer(disks->sender, disk->number, request->id);
        return;
    }
    note_failure(disks, problem);
    nbd_server_answer(disk->server, request->id, EIO);
}

/* That the VMM has gone is found by the state of its copy. */
static void on_ended(const GError *why, gpointer user)
{
    const SourceDisk *disk = user;

    if (why)
        log_debug("disk %s: %s", disk->disk->id, why->message);
}

/* Some versions of a VMM lose writes of a running guest when a copy of only the topmost image
 * begins. */
static gboolean start_copy(SourceMove *move, const VmmCopy *copy, GError **error)
{
    g_autoptr(GError) problem = NULL;
    gboolean begun = vmm_start_copy(move->job->vmm, copy, &problem);

    if (!begun && copy->top && error_is(problem, VMFERRY_ERROR_UNSUPPORTED)) {
        g_clear_error(&problem);
        begun = source_hold(move, &problem) && vmm_start_copy(move->job->vmm, copy, &problem);
        source_let_go(move);
    }
    if (problem)
        g_propagate_error(error, g_steal_pointer(&problem));
    return begun;
}

static gboolean start_mirror(SourceDisks *disks, SourceDisk *disk, GError **error)
{
    SourceMove *move = disks->move;
    const VmmDiskFile *file = disk->disk->files->pdata[0];
    gboolean covers = count_layers(disks, disk->disk) > 1;
    NbdServerOptions options = {
        .export_name = disk->copy,
        .bytes = file->bytes,
        .client = vmm_get_pid(move->job->vmm),
        .request = on_request,
        .ended = on_ended,
        .user = disk,
    };
    VmmCopy copy = {
        .name = disk->copy,
        .node = disk->disk->node,
        .bytes = file->bytes,
        .export_name = disk->copy,
        .top = covers,
    };

    disk_sender_begin_file(disks->sender, disk->number, file->bytes, covers);
    g_atomic_pointer_set(&disk->server, nbd_server_start(&options, error));
    if (!disk->server)
        return FALSE;
    copy.address = nbd_server_get_address(disk->server);
    disk->begun_ns = clock_now_ns();
    if (start_copy(move, &copy, error))
        return TRUE;
    g_prefix_error(error, "disk %s: ", disk->disk->id);
    return FALSE;
}

static gboolean start_mirrors(SourceDisks *disks, GError **error)
{
    for (guint i = 0; i < disks->disks->len; i++) {
        SourceDisk *disk = get_disk(disks, i);

        if (!is_mirrored(disks, disk) || disk->base)
            continue;
        disk->copy = g_strdup_printf(COPY_PREFIX "%.8s-%u", disks->move->transaction, i);
        if (!start_mirror(disks, disk, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean keep_pace(SourceDisks *disks, SourceDisk *disk, GError **error)
{
    SourceMove *move = disks->move;
    DiskPaceFacts facts = {
        .now_ms = source_now_ms(move),
        .deadline_ms = move->job->options.deadline_ms,
        .ready = disk->state != VMM_COPY_RUNNING,
        .synchronous = disk->synchronous,
        .stored_bytes = get_file(disks, disk->number)->file->allocated_bytes,
    };
    DiskCounts counts;

    disk_sender_get_counts(disks->sender, disk->number, &counts);
    facts.sent_bytes = counts.data_bytes;
    switch (disk_pace_decide(&facts)) {
    case DISK_PACE_GO_ON:
        return TRUE;
    case DISK_PACE_SYNCHRONOUS:
        disk->synchronous = TRUE;
        return vmm_sync_copy(move->job->vmm, disk->copy, error);
    case DISK_PACE_GIVE_UP:
        break;
    }
    error_set(error, VMFERRY_ERROR_REFUSED,
              "disk %s: the deadline of %u ms has passed before its copy was complete: "
              "%" G_GUINT64_FORMAT " MiB were sent, %" G_GUINT64_FORMAT " MiB are stored in it",
              disk->disk->id, move->job->options.deadline_ms, facts.sent_bytes >> 20,
              facts.stored_bytes >> 20);
    return FALSE;
}

/* A mirror's own error is only "I/O error" where the connection has failed. */
static gboolean look_at(SourceDisks *disks, SourceDisk *disk, GError **error)
{
    Vmm *vmm = disks->move->job->vmm;
    g_autoptr(GError) problem = NULL;

    if (!source_disks_check(disks->move, error))
        return FALSE;
    if (!vmm_get_copy(vmm, disk->copy, &disk->state, &problem) || disk->state == VMM_COPY_FAILED) {
        if (source_disks_check(disks->move, error) && source_hear_peer(disks->move, error))
            g_propagate_prefixed_error(error, g_steal_pointer(&problem),
                                       "disk %s: copying: ", disk->disk->id);
        return FALSE;
    }
    if (disk->state != VMM_COPY_RUNNING && disk->ready_ns == 0)
        disk->ready_ns = clock_now_ns();
    return keep_pace(disks, disk, error);
}

static gboolean await_sync(SourceDisks *disks, GError **error)
{
    gboolean all = FALSE;

    while (!all) {
        all = TRUE;
        for (guint i = 0; i < disks->disks->len; i++) {
            SourceDisk *disk = get_disk(disks, i);

            if (!disk->copy)
                continue;
            if (!look_at(disks, disk, error))
                return FALSE;
            all = all && disk->state == VMM_COPY_IN_SYNC;
        }
        if (!all && !wait_slice(disks, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean await_all(SourceDisks *disks, GError **error)
{
    gboolean all;

    g_atomic_int_set(&disks->copying, 1);
    all = await_sync(disks, error);
    g_atomic_int_set(&disks->copying, 0);
    /* Nobody looks any more, and a copy that is held would not end in the pause. */
    if (disks->holds)
        set_held(disks, FALSE);
    return all;
}

/* The rest of it follows before and in the pause. */
static gboolean send_changes(SourceDisks *disks, GError **error)
{
    for (guint i = 0; i < disks->disks->len; i++) {
        const SourceDisk *disk = get_disk(disks, i);
        uint64_t bytes = disk->base ? disk->base->bytes : 0;

        if (!disk->base)
            continue;
        disk_sender_begin_file(disks->sender, disk->number, bytes, TRUE);
        disk_changes_add(disks->changes, disk->number, disk->disk->node, bytes, disk->base->bitmap);
    }
    return !disks->changes || disk_changes_send_most(disks->changes, error);
}

gboolean source_disks_catch_up(SourceMove *move, GError **error)
{
    return !move->disks || !move->disks->changes ||
           disk_changes_send_most(move->disks->changes, error);
}

gboolean source_disks_mirror(SourceMove *move, GError **error)
{
    SourceDisks *disks = move->disks;

    if (!disks || !disks->makes)
        return TRUE;
    if (!start_mirrors(disks, error) || fault_point("source.disks-begun", error) ||
        !send_changes(disks, error) || !await_all(disks, error) ||
        fault_point("source.disks-in-sync", error))
        return FALSE;
    report_progress(disks);
    return TRUE;
}

/* ---- bitmaps of what changes after an image ---- */

/* In the pause, with its copy complete.  Without one the next image has all of the disk. */
static void begin_bitmaps(SourceDisks *disks)
{
    SourceMove *move = disks->move;

    for (guint i = 0; move->notes_changes && i < disks->disks->len; i++) {
        SourceDisk *disk = get_disk(disks, i);
        g_autoptr(GError) problem = NULL;

        if (!is_mirrored(disks, disk))
            continue;
        disk->bitmap = disk_bitmap_begin(move->job->vmm, disk->disk, move->transaction, &problem);
        if (problem)
            log_warning("guest %s: disk %s: the next image will have all of it: %s",
                        move->job->guest, disk->disk->id, problem->message);
    }
}

/* Those of an image that was not completed. */
static void drop_bitmaps(SourceDisks *disks)
{
    for (guint i = 0; i < disks->disks->len; i++) {
        SourceDisk *disk = get_disk(disks, i);

        if (disk->bitmap)
            disk_bitmap_drop(disks->move->job->vmm, disk->disk, disk->bitmap);
        g_clear_pointer(&disk->bitmap, g_free);
    }
}

void source_disks_keep_bitmaps(SourceMove *move)
{
    SourceDisks *disks = move->disks;

    for (guint i = 0; disks && i < disks->disks->len; i++) {
        SourceDisk *disk = get_disk(disks, i);

        if (disk->bitmap)
            disk_bitmap_keep_newest(move->job->vmm, disk->disk);
        g_clear_pointer(&disk->bitmap, g_free);
    }
}

void source_disks_abort(SourceMove *move)
{
    SourceDisks *disks = move->disks;
    g_autoptr(GError) why = NULL;

    if (!disks)
        return;
    error_set(&why, VMFERRY_ERROR_CANCELLED, "the move is over");
    /* First, since the VMM may wait for an answer. */
    close_servers(disks, why);
    g_clear_pointer(&disks->changes, disk_changes_free);
    drop_bitmaps(disks);
    for (guint i = 0; i < disks->disks->len; i++) {
        SourceDisk *disk = get_disk(disks, i);
        g_autoptr(GError) problem = NULL;

        if (disk->copy && !disk->finished && !vmm_abort_copy(move->job->vmm, disk->copy, &problem))
            log_warning("guest %s: disk %s: its copy could not be ended: %s", move->job->guest,
                        disk->disk->id, problem->message);
    }
}

/* ---- the pause ---- */

gboolean source_disks_finish(SourceMove *move, GError **error)
{
    SourceDisks *disks = move->disks;
    uint64_t left;

    if (!disks || !disks->makes)
        return TRUE;
    /* Before anything is read for the last time: rather too much is noted than too little. */
    begin_bitmaps(disks);
    for (guint i = 0; i < disks->disks->len; i++) {
        SourceDisk *disk = get_disk(disks, i);

        if (!disk->copy)
            continue;
        if (!vmm_finish_copy(move->job->vmm, disk->copy, error)) {
            g_prefix_error(error, "disk %s: ", disk->disk->id);
            return FALSE;
        }
        disk->finished = TRUE;
        disk->finished_ns = clock_now_ns();
    }
    if (disks->changes && !disk_changes_send(disks->changes, TRUE, &left, error))
        return FALSE;
    return !fault_point("source.disks-finished", error) && source_disks_check(move, error) &&
           disk_sender_flush(disks->sender, TRUE, &disks->last_flush, error);
}

gboolean source_disks_end_in_pause(const SourceMove *move)
{
    SourceDisks *disks = move->disks;

    if (!disks || !disks->makes)
        return FALSE;
    for (guint i = 0; i < disks->disks->len; i++)
        if (get_disk(disks, i)->copy)
            return TRUE;
    return disks->changes != NULL;
}

gboolean source_disks_complete(SourceMove *move, GError **error)
{
    SourceDisks *disks = move->disks;

    return !disks || !disks->makes ||
           (disk_sender_flush(disks->sender, TRUE, &disks->last_flush, error) &&
            await_flush(disks, disks->last_flush, error));
}

/* ---- verifying ---- */

static gboolean needs_storage(SourceDisks *disks)
{
    for (guint i = 0; i < disks->disks->len; i++)
        if (is_mirrored(disks, get_disk(disks, i)))
            return TRUE;
    return FALSE;
}

gboolean source_disks_prepare_verify(SourceMove *move, GError **error)
{
    SourceDisks *disks = move->disks;
    const VmmDriver *driver = vmm_driver_find(move->description->kind, NULL);
    VmmStorageLaunch launch = {
        .program = move->job->command_line[0],
        .working_directory = move->job->working_directory,
    };

    if (!disks || !move->job->options.verify || !needs_storage(disks))
        return TRUE;
    disks->directory = move->job->host.make_directory(move->job->host.user, error);
    if (!disks->directory)
        return FALSE;
    launch.directory = disks->directory;
    disks->storage = driver && driver->open_storage ? driver->open_storage(&launch, error) : NULL;
    if (disks->storage)
        return TRUE;
    g_prefix_error(error, "disks cannot be verified: ");
    return FALSE;
}

static char *make_digest(SourceDisks *disks, guint number, GError **error)
{
    const SourceFile *file = get_file(disks, number);
    g_autofree char *socket = NULL;
    g_autofree char *name = g_strdup_printf("verify-%u", number);
    char *digest;

    if (file->make == DISK_MAKE_FILE)
        return image_view_digest_content(file->view, file->file->file_bytes, NULL, error);
    if (!vmm_storage_open_image(disks->storage, name, file->file->path, file->file->format, FALSE,
                                error))
        return NULL;
    socket = vmm_storage_get_socket(disks->storage);
    digest = disk_digest_export(socket, name, NULL, error);
    vmm_storage_close_image(disks->storage, name, NULL);
    return digest;
}

/* A firmware's variables were verified as guest memory. */
static gboolean is_verified_here(SourceDisks *disks, guint number)
{
    for (guint i = 0; i < disks->disks->len; i++) {
        const SourceDisk *disk = get_disk(disks, i);

        if (disk->mode != DISK_MODE_SHARED && disk->number == number && disk->disk->flash)
            return FALSE;
    }
    return get_file(disks, number)->make != DISK_MAKE_NOTHING;
}

static gboolean compare(SourceDisks *disks, char **here, char **there, GError **error)
{
    for (guint i = 0; i < disks->files->len; i++) {
        if (!here[i] || g_strcmp0(here[i], there[i]) == 0)
            continue;
        error_set(error, VMFERRY_ERROR_FAILED, "the copy of %s on %s is not equal to it",
                  get_file(disks, i)->file->file, session_get_peer_name(disks->move->session));
        return FALSE;
    }
    for (guint i = 0; i < disks->disks->len; i++)
        if (get_disk(disks, i)->mode != DISK_MODE_SHARED)
            get_disk(disks, i)->verified = 1;
    return TRUE;
}

uint64_t source_disks_verify_ms(const SourceMove *move)
{
    return move->disks ? move->progress.disk_bytes / VERIFY_BYTES_PER_MS : 0;
}

/* Both sides read at the same time. */
static gboolean verify(SourceDisks *disks, GError **error)
{
    SourceMove *move = disks->move;
    g_autofree char **there = g_new0(char *, disks->files->len + 1);
    g_auto(GStrv) here = g_new0(char *, disks->files->len + 1);
    int timeout_ms = (int)MIN(ANSWER_MS + source_disks_verify_ms(move), G_MAXINT);
    gboolean equal = FALSE;
    Frame frame;

    if (!session_send_bytes(move->session, FRAME_DISKS_VERIFY, NULL, 0, error))
        return FALSE;
    for (guint i = 0; i < disks->files->len; i++)
        if (is_verified_here(disks, i) && !(here[i] = make_digest(disks, i, error)))
            return FALSE;
    if (source_await(move, FRAME_DISKS_DIGESTS, timeout_ms, &frame, error) &&
        disks_digests_message_decode((const char *)frame.payload, frame.length, disks->files->len,
                                     there, error))
        equal = compare(disks, here, there, error);
    for (guint i = 0; i < disks->files->len; i++)
        g_free(there[i]);
    return equal;
}

gboolean source_disks_await(SourceMove *move, GError **error)
{
    SourceDisks *disks = move->disks;

    if (!disks || !disks->makes)
        return TRUE;
    return await_flush(disks, disks->last_flush, error) &&
           (!move->job->options.verify || verify(disks, error));
}

/* ---- report ---- */

static double span_ms(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns > 0 && to_ns > from_ns ? clock_ns_to_ms(to_ns - from_ns) : 0;
}

static void add_counts(SourceDisks *disks, const SourceDisk *disk, DiskCounts *sum)
{
    for (guint i = 0; i < disk->disk->files->len; i++) {
        const VmmDiskFile *file = disk->disk->files->pdata[i];
        DiskCounts counts;
        guint number;

        if (!disks->sender || !find_number(disks, file->path, &number) ||
            get_file(disks, number)->make == DISK_MAKE_NOTHING)
            continue;
        disk_sender_get_counts(disks->sender, number, &counts);
        sum->data_bytes += counts.data_bytes;
        sum->zero_bytes += counts.zero_bytes;
        sum->same_bytes += counts.same_bytes;
        sum->wire_bytes += counts.wire_bytes;
    }
}

/* Of an image. */
static void describe_base(const SourceDisks *disks, const SourceDisk *disk, json_t *object)
{
    if (!disks->move->image)
        return;
    json_object_set_new(object, "backing", disk_base_list_backing(disk->base));
    if (disk->base)
        json_object_set_new(object, "format", json_string(DISK_BASE_FORMAT));
    json_object_set_new(object, "bitmap", disk->bitmap ? json_string(disk->bitmap) : NULL);
    json_object_set_new(object, "whole", disk->whole ? json_string(disk->whole) : NULL);
}

static json_t *describe(SourceDisks *disks, const SourceDisk *disk)
{
    const VmmDiskFile *file = disk->disk->files->len > 0 ? disk->disk->files->pdata[0] : NULL;
    gboolean copied = disk->mode != DISK_MODE_SHARED;
    DiskCounts sum = {0};
    json_t *object;

    if (copied)
        add_counts(disks, disk, &sum);
    object = json_pack(
        "{s:s, s:s, s:s, s:s?, s:s?, s:I, s:I, s:I, s:I, s:f, s:f, s:o}", "id", disk->disk->id,
        "device", disk->disk->device, "mode", disk_mode_name(disk->mode), "source",
        file ? file->file : NULL, "destination",
        copied && disks->seen.count > disk->number ? disks->seen.files[disk->number].path : NULL,
        "copied_bytes", (json_int_t)sum.data_bytes, "zero_bytes", (json_int_t)sum.zero_bytes,
        "same_bytes", (json_int_t)sum.same_bytes, "wire_bytes", (json_int_t)sum.wire_bytes,
        "copy_ms", span_ms(disk->begun_ns, disk->ready_ns), "in_sync_ms",
        span_ms(disk->ready_ns, disk->finished_ns), "verified",
        disk->verified < 0 ? json_null() : json_boolean(disk->verified));
    describe_base(disks, disk, object);
    return object;
}

void source_disks_describe(SourceMove *move)
{
    SourceDisks *disks = move->disks;

    json_decref(move->report->copies);
    move->report->copies = json_array();
    for (guint i = 0; disks && i < disks->disks->len; i++)
        if (get_disk(disks, i)->mode != DISK_MODE_SHARED)
            json_array_append_new(move->report->copies, describe(disks, get_disk(disks, i)));
}

/* ---- the end ---- */

/* The sender's thread calls the servers, whose threads give content to the sender, and answers to
 * each other; one that sends ends with the session.  A server's own thread names it to the end. */
static void end_threads(SourceDisks *disks)
{
    if (disks->sender)
        disk_sender_stop(disks->sender);
    if (disks->sender && !disks->last_flush)
        session_shutdown(disks->move->session);
    for (guint i = 0; i < disks->disks->len; i++)
        nbd_server_free(get_disk(disks, i)->server);
    disk_sender_free(disks->sender);
}

void source_disks_free(SourceDisks *disks)
{
    if (!disks)
        return;
    disk_changes_free(disks->changes);
    end_threads(disks);
    for (guint i = 0; i < disks->disks->len; i++) {
        g_free(get_disk(disks, i)->copy);
        g_free(get_disk(disks, i)->whole);
        g_free(get_disk(disks, i)->bitmap);
    }
    vmm_storage_free(disks->storage);
    if (disks->directory)
        disks->move->job->host.remove_directory(disks->directory, disks->move->job->host.user);
    g_free(disks->directory);
    for (guint i = 0; i < disks->files->len; i++)
        image_view_free(get_file(disks, i)->view);
    disks_seen_message_clear(&disks->seen);
    g_array_unref(disks->files);
    g_array_unref(disks->disks);
    if (disks->list)
        g_ptr_array_unref(disks->list);
    g_clear_error(&disks->failure);
    g_mutex_clear(&disks->lock);
    g_free(disks);
}

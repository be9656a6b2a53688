/*
 * The journal's data: two generations of files, and what they are for
 *
 * A crash between any two calls leaves, of each disk, one of these:
 *
 *     N.map N.data                            one generation
 *     full-N.map        N.data                about to become full: its data follows its map
 *     full-N.map full-N.data                  full; the present one is made anew
 *                full-N.data (N.map N.data)   about to go: its map has gone first
 */
#include "disk/write_journal_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#define APPLY_BYTES (1u << 20) /* read and written at once */
#define BLOCK_BYTES 512u       /* of st_blocks */
#define PRESENT ""
#define FULL "full-"

/* ---- files ---- */

gboolean journal_write_at(int fd, const void *data, size_t length, uint64_t offset, GError **error)
{
    const uint8_t *at = data;

    while (length > 0) {
        ssize_t put = pwrite(fd, at, length, (off_t)offset);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0) {
            error_set_errno(error, errno, "write");
            return FALSE;
        }
        at += put;
        offset += (uint64_t)put;
        length -= (size_t)put;
    }
    return TRUE;
}

gboolean journal_read_at(int fd, void *data, size_t length, uint64_t offset, GError **error)
{
    uint8_t *at = data;

    while (length > 0) {
        ssize_t got = pread(fd, at, length, (off_t)offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            error_set_errno(error, errno, "read");
        if (got <= 0)
            return FALSE;
        at += got;
        offset += (uint64_t)got;
        length -= (size_t)got;
    }
    return TRUE;
}

int journal_open_file(const char *directory, const char *name, int flags, GError **error)
{
    g_autofree char *path = g_build_filename(directory, name, NULL);
    int fd = open(path, flags | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        error_set_errno(error, errno, "%s", path);
    return fd;
}

static gboolean set_length(int fd, uint64_t bytes, GError **error)
{
    if (ftruncate(fd, (off_t)bytes) == 0)
        return TRUE;
    error_set_errno(error, errno, "make a file of %" G_GUINT64_FORMAT " bytes", bytes);
    return FALSE;
}

/* ---- generations ---- */

static char *name_file(const char *generation, guint disk, const char *what)
{
    return g_strdup_printf("%s%u.%s", generation, disk, what);
}

static gboolean exists(const WriteJournal *journal, const char *generation, guint disk,
                       const char *what)
{
    g_autofree char *name = name_file(generation, disk, what);
    g_autofree char *path = g_build_filename(journal->directory, name, NULL);

    return access(path, F_OK) == 0;
}

static gboolean make_full(const WriteJournal *journal, guint disk, const char *what, GError **error)
{
    g_autofree char *name = name_file(PRESENT, disk, what);
    g_autofree char *full = name_file(FULL, disk, what);
    g_autofree char *from = g_build_filename(journal->directory, name, NULL);
    g_autofree char *to = g_build_filename(journal->directory, full, NULL);

    if (rename(from, to) == 0)
        return TRUE;
    error_set_errno(error, errno, "rename %s to %s", from, to);
    return FALSE;
}

static gboolean remove_full(const WriteJournal *journal, guint disk, const char *what,
                            GError **error)
{
    g_autofree char *name = name_file(FULL, disk, what);
    g_autofree char *path = g_build_filename(journal->directory, name, NULL);

    if (unlink(path) == 0 || errno == ENOENT)
        return TRUE;
    error_set_errno(error, errno, "remove %s", path);
    return FALSE;
}

static void close_files(DiskFiles *files)
{
    fd_close(&files->data);
    g_clear_pointer(&files->map, sector_map_free);
}

static gboolean open_files(const WriteJournal *journal, const char *generation, guint disk,
                           int flags, DiskFiles *ret, GError **error)
{
    g_autofree char *data = name_file(generation, disk, "data");
    g_autofree char *map = name_file(generation, disk, "map");
    autofd int map_fd = -1;

    ret->data = journal_open_file(journal->directory, data, flags, error);
    if (ret->data < 0 || !set_length(ret->data, journal->bytes[disk], error))
        return FALSE;
    map_fd = journal_open_file(journal->directory, map, flags, error);
    if (map_fd < 0)
        return FALSE;
    ret->map = sector_map_open(fd_steal(&map_fd), journal->bytes[disk] / WRITE_SECTOR_BYTES, error);
    return ret->map != NULL;
}

static gboolean open_disk(WriteJournal *journal, guint disk, gboolean fresh, GError **error)
{
    gboolean full = exists(journal, FULL, disk, "map");

    if (full && !exists(journal, FULL, disk, "data") && !make_full(journal, disk, "data", error))
        return FALSE;
    if (!full && !remove_full(journal, disk, "data", error))
        return FALSE;
    return (!full || open_files(journal, FULL, disk, 0, &journal->full[disk], error)) &&
           open_files(journal, PRESENT, disk,
                      fresh  ? O_CREAT | O_EXCL
                      : full ? O_CREAT
                             : 0,
                      &journal->disks[disk], error);
}

gboolean journal_open_disks(WriteJournal *journal, gboolean fresh, GError **error)
{
    journal->disks = g_new0(DiskFiles, journal->count);
    journal->full = g_new0(DiskFiles, journal->count);
    for (guint i = 0; i < journal->count; i++)
        journal->disks[i].data = journal->full[i].data = -1;
    for (guint i = 0; i < journal->count; i++)
        if (!open_disk(journal, i, fresh, error))
            return FALSE;
    return TRUE;
}

void journal_close_disks(WriteJournal *journal)
{
    for (guint i = 0; journal->disks && i < journal->count; i++) {
        close_files(&journal->disks[i]);
        close_files(&journal->full[i]);
    }
    g_clear_pointer(&journal->disks, g_free);
    g_clear_pointer(&journal->full, g_free);
}

gboolean write_journal_has_full(const WriteJournal *journal)
{
    for (guint i = 0; i < journal->count; i++)
        if (journal->full[i].data >= 0)
            return TRUE;
    return FALSE;
}

static gboolean rotate_disk(WriteJournal *journal, guint disk, GError **error)
{
    DiskFiles fresh = {-1, NULL};

    if (!make_full(journal, disk, "map", error) || !make_full(journal, disk, "data", error))
        return FALSE;
    journal->full[disk] = journal->disks[disk];
    journal->disks[disk] = fresh;
    return open_files(journal, PRESENT, disk, O_CREAT | O_EXCL, &journal->disks[disk], error);
}

/* Where it fails half-way nothing can be folded any more, and what is there can be applied. */
gboolean write_journal_rotate(WriteJournal *journal, GError **error)
{
    if (journal->failure || journal->folded != journal->committed ||
        write_journal_has_full(journal)) {
        error_set(error, VMFERRY_ERROR_BUSY, "journal of disk writes: not now");
        return FALSE;
    }
    for (guint i = 0; i < journal->count; i++)
        if (!rotate_disk(journal, i, &journal->failure)) {
            g_prefix_error(&journal->failure, "journal of disk writes: ");
            if (error)
                *error = g_error_copy(journal->failure);
            return FALSE;
        }
    return TRUE;
}

gboolean write_journal_drop_full(WriteJournal *journal, GError **error)
{
    for (guint i = 0; i < journal->count; i++) {
        if (!remove_full(journal, i, "map", error) || !remove_full(journal, i, "data", error)) {
            g_prefix_error(error, "journal of disk writes: ");
            return FALSE;
        }
        close_files(&journal->full[i]);
    }
    return TRUE;
}

static uint64_t blocks_of(int fd)
{
    struct stat info;

    return fstat(fd, &info) == 0 ? (uint64_t)info.st_blocks * BLOCK_BYTES : 0;
}

static uint64_t count_used(const DiskFiles *files)
{
    return files->data < 0 ? 0 : blocks_of(files->data) + blocks_of(sector_map_get_fd(files->map));
}

uint64_t write_journal_get_used(const WriteJournal *journal)
{
    uint64_t used = journal->log_end;

    for (guint i = 0; i < journal->count; i++)
        used += count_used(&journal->disks[i]) + count_used(&journal->full[i]);
    return used;
}

/* ---- applying ---- */

typedef struct {
    const DiskFiles *files;
    guint disk;
    DiskTarget *target;
    uint8_t *buffer; /* of APPLY_BYTES */
} Apply;

static gboolean apply_data(Apply *apply, uint64_t from, uint64_t to, GError **error)
{
    while (from < to) {
        size_t length = (size_t)MIN(to - from, APPLY_BYTES);
        int fd = apply->files->data;

        if (!journal_read_at(fd, apply->buffer, length, from, error)) {
            if (error && !*error)
                error_set(error, VMFERRY_ERROR_INVALID, "the data has become shorter");
            return FALSE;
        }
        if (!disk_target_write(apply->target, from, apply->buffer, length, error))
            return FALSE;
        from += length;
    }
    return TRUE;
}

/* Where data begins (*whence* SEEK_DATA) or ends (SEEK_HOLE). */
static uint64_t seek(int fd, uint64_t from, uint64_t to, int whence)
{
    off_t found = lseek(fd, (off_t)from, whence);

    if (found < 0)
        return errno == ENXIO || whence == SEEK_HOLE ? to : from;
    return MIN((uint64_t)found, to);
}

/* Holes of the data are zeros of the disk. */
static gboolean apply_run(uint64_t first, uint64_t count, gpointer user, GError **error)
{
    Apply *apply = user;
    int fd = apply->files->data;
    uint64_t from = first * WRITE_SECTOR_BYTES, to = from + count * WRITE_SECTOR_BYTES;

    while (from < to) {
        uint64_t data = seek(fd, from, to, SEEK_DATA);
        uint64_t hole = data < to ? seek(fd, data, to, SEEK_HOLE) : to;

        if ((data > from && !disk_target_zero(apply->target, from, data - from, error)) ||
            !apply_data(apply, data, hole, error))
            return FALSE;
        from = hole;
    }
    return TRUE;
}

static gboolean apply_record(const WriteJournal *journal G_GNUC_UNUSED, const WriteRecord *record,
                             gpointer user, GError **error)
{
    Apply *apply = user;

    if (record->disk != apply->disk)
        return TRUE;
    if (!record->data)
        return disk_target_zero(apply->target, record->offset, record->length, error);
    return disk_target_write(apply->target, record->offset, record->data, record->length, error);
}

static gboolean apply_files(Apply *apply, const DiskFiles *files, GError **error)
{
    apply->files = files;
    return files->data < 0 || sector_map_walk(files->map, apply_run, apply, error);
}

/* The older generation first. */
gboolean write_journal_apply(const WriteJournal *journal, guint disk, DiskTarget *target,
                             GError **error)
{
    g_autofree uint8_t *buffer = g_malloc(APPLY_BYTES);
    Apply apply = {.disk = disk, .target = target, .buffer = buffer};

    if (apply_files(&apply, &journal->full[disk], error) &&
        apply_files(&apply, &journal->disks[disk], error) &&
        journal_walk_log(journal, apply_record, &apply, error) && disk_target_flush(target, error))
        return TRUE;
    g_prefix_error(error, "journal of disk writes, disk %u: ", disk);
    return FALSE;
}

gboolean write_journal_apply_full(const WriteJournal *journal, guint disk, DiskTarget *target,
                                  GError **error)
{
    g_autofree uint8_t *buffer = g_malloc(APPLY_BYTES);
    Apply apply = {.disk = disk, .target = target, .buffer = buffer};

    if (apply_files(&apply, &journal->full[disk], error) && disk_target_flush(target, error))
        return TRUE;
    g_prefix_error(error, "journal of disk writes, disk %u: ", disk);
    return FALSE;
}

/* ---- is there anything? ---- */

static gboolean note_disk(const WriteJournal *journal G_GNUC_UNUSED, const WriteRecord *record,
                          gpointer user, GError **error G_GNUC_UNUSED)
{
    gboolean *written = user;

    written[record->disk] = TRUE;
    return TRUE;
}

static gboolean has_any(const DiskFiles *files, gboolean *ret, GError **error)
{
    *ret = FALSE;
    return files->data < 0 || sector_map_has_any(files->map, ret, error);
}

gboolean write_journal_has_writes(const WriteJournal *journal, guint disk, gboolean *ret,
                                  GError **error)
{
    g_autofree gboolean *written = g_new0(gboolean, journal->count);

    if (!has_any(&journal->full[disk], &written[disk], error) ||
        (!written[disk] && !has_any(&journal->disks[disk], &written[disk], error)) ||
        !journal_walk_log(journal, note_disk, written, error)) {
        g_prefix_error(error, "journal of disk writes: ");
        return FALSE;
    }
    *ret = written[disk];
    return TRUE;
}

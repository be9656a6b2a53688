/*
 * The disks of a guest that was saved into an image
 *
 * Theory of operation: the image's note has an entry for each disk, with how it is kept:
 *
 *     copy        a file beside the image has all of it, as it was at that moment: IMAGE.01234567.disk0, …
 *     reference   the disk itself, which must not have changed since: each file of its chain has its length and
 *                 the time of its last change on the note
 *
 *     [{"id", "device", "read_only", "mode": "copy"|"reference", "saved": NAME of the copy, or null,
 *       "saved_format": of the copy, or null: "format"; "backing": [NAMES of what is below the copy],
 *       "bitmap": NAME, or null, "format", "bytes",
 *       "files": [{"file", "format", "file_bytes", "mtime_ns"}]}]
 *
 * A copy above that of an earlier image (disk_changes.h) has its files beside that one, by their names.  The bitmap is
 * the guest's VMM's, of what has changed since; who finds it there may make such a copy.
 *
 * A file that is written to gets another time of change, so one that has the same length and time is taken for
 * unchanged; who copies files to another host must keep their times (cp -p, rsync -t).
 *
 * Pure, but for stat(2).
 */
#pragma once

#include "base/json.h"
#include "migrate/options.h"
#include "vmm/vmm.h"

#define SAVED_DISKS_MOST 256u

/* The path of the copy with this number, for a save with this transaction (hexadecimal digits); free with g_free().  No
 * two saves give the same name: images that are above a copy go on needing it when its own image is replaced. */
char *saved_disk_name(const char *image, const char *transaction, guint number);
/* Whether *name* (without folders) is such a name, of *image*. */
gboolean saved_disk_is_of(const char *name, const char *image);

/* How disks are kept where their user has no wish. */
static inline DiskMode saved_disks_default(gboolean ends)
{
    return ends ? DISK_MODE_SHARED : DISK_MODE_COPY;
}

/* FALSE (REFUSED) where the image would refer to a disk that the guest goes on to write to, or (UNSUPPORTED) to one
 * that is not a file.  *disks*: of VmmDisk; *mode*: COPY or SHARED (which is by reference). */
gboolean saved_disks_check(const GPtrArray *disks, DiskMode mode, gboolean ends, GError **error);

/* *copies*: of the report (source_disks_describe()).  In the pause; looks at the files by reference. */
json_t *saved_disks_note(const GPtrArray *disks, json_t *copies, GError **error);

/* What the note of an image says of a disk; texts are the note's. */
typedef struct {
    const char *id, *device;
    gboolean read_only;
    const char *saved;        /* name of the copy, without folders; NULL: by reference */
    const char *format;       /* of the topmost file */
    const char *saved_format; /* of the copy: raw or qcow2 */
    uint64_t bytes;           /* size of the disk */
    json_t *files;            /* array; the topmost one first; borrowed from the note */
    json_t *backing;    /* array of names of files below the copy, the next one first; NULL: none */
    const char *bitmap; /* NULL: none */
} SavedDisk;

#define SAVED_DISK_MAX_BACKING 64u

/* Checks everything.  Of SavedDisk; free with g_array_unref(). */
GArray *saved_disks_read(json_t *note, GError **error);

/* Of copies: that all of their files are beside the image, in *folder*; NOT_FOUND with the first that is not. */
gboolean saved_disk_check_files(const SavedDisk *disk, const char *folder, GError **error);

/* As the VMM named it when the guest was saved. */
const char *saved_disk_get_file(const SavedDisk *disk);

/* FALSE (REFUSED) with what has changed since, in the files of a disk by reference.  *map*: how they are called here;
 * its answer is freed with g_free(). */
gboolean saved_disk_check_unchanged(const SavedDisk *disk,
                                    char *(*map)(const char *text, gpointer user), gpointer user,
                                    GError **error);

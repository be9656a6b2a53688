/*
 * Writing a saved image (image_format.h)
 *
 * Theory of operation: page frames are taken as a peer would get them, and their pages stored as
 * they came, packed or not: nothing is unpacked.  A page may come again; where all pages of an
 * extent have come again, or are zero now, its room is given back (a hole; not in a pipe).
 *
 * The file has no name until image_writer_commit(), so that a death of this process leaves nothing
 * and an image under its name is whole.  On file systems without such files (O_TMPFILE) it has a
 * temporary name, which begins with a dot; a killed process leaves that.
 *
 * Memory in use: 5 bytes for each page of RAM that came, in pieces of 512 pages, some bytes for each
 * extent, and a buffer.
 *
 * What can fail: a full file system (NO_SPACE), a reader of the pipe that ended.  After an error
 * only image_writer_free() makes sense.  SIGPIPE and SIGXFSZ are the caller's to ignore.
 *
 * Threads: one at a time.
 */
#pragma once

#include "image/image_format.h"
#include "wire/channel.h"

typedef struct ImageWriter ImageWriter;

typedef struct {
    ImageId id;                 /* image_id_make() */
    ImageId base;               /* none: a full image; else pages that do not come are as there */
    const char *base_name;      /* of the base's file, looked for beside this one; without folders.
                                 * NULL: will be given when it is opened */
    const PageRegions *regions; /* copied */
    GBytes *key;                /* NULL: digests without a key */
} ImageHead;

/* What stands beside the pages. */
typedef struct {
    const char *machine; /* JSON object of at most IMAGE_MAX_MACHINE_BYTES */
    const char *note;    /* JSON object of at most IMAGE_MAX_NOTE_BYTES, or NULL */
    GBytes *state;       /* of devices, at most IMAGE_MAX_STATE_BYTES */
} ImageTail;

/* A file that will be *path*, mode 0600.  Whether there is one already is seen by
 * image_writer_commit(). */
ImageWriter *image_writer_create(const char *path, const ImageHead *head, GError **error);

/* Writes to *fd* from where it stands on, one byte after the other: a pipe, a socket.  Borrows it. */
ImageWriter *image_writer_on_fd(int fd, const ImageHead *head, GError **error);

/* Forgets what is not committed: no file stays.  NULL-safe. */
void image_writer_free(ImageWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageWriter, image_writer_free)

/* Takes a frame of pages, PAGES, PAGES_LZ4 or PAGES_ZSTD; INVALID for other ones, and where its runs
 * or length are wrong.  That it unpacks is not tried.  The payload is not used afterwards. */
gboolean image_writer_add_frame(ImageWriter *writer, const Frame *frame, GError **error);

/* Stores the pages of *runs* (of one region, ascending, together at most IMAGE_MAX_EXTENT_PAGES), the
 * *length* bytes that *method* made of them. */
gboolean image_writer_add_pages(ImageWriter *writer, guint region, const PageSpan *runs,
                                guint count, PackMethod method, const void *stored, size_t length,
                                GError **error);

/* These pages are zero now. */
gboolean image_writer_add_zero(ImageWriter *writer, guint region, PageSpan span, GError **error);

/* Whether this image tells of the page: stored, or (above a base) zero. */
gboolean image_writer_has_page(const ImageWriter *writer, guint region, uint64_t page);

/* In which order the machine first used its pages, as far as known: who restores it places
 * these first.  Replaces what was set before; copied.  INVALID where a run is not in its region. */
gboolean image_writer_set_order(ImageWriter *writer, const ImageRun *runs, guint count,
                                GError **error);

/* Writes index and footer, and gives the file its name once all of it is on the disk (a pipe: once
 * it is written).  *replace*: in the place of another file; else EXISTS where there is one. */
gboolean image_writer_commit(ImageWriter *writer, const ImageTail *tail, gboolean replace,
                             GError **error);

typedef struct {
    uint64_t written_bytes; /* so far */
    uint64_t freed_bytes;   /* of those, given back */
    uint64_t pages;         /* stored, and named by the map */
    uint64_t extents;
} ImageWriterTotals;

void image_writer_get_totals(const ImageWriter *writer, ImageWriterTotals *ret);

/*
 * Packing page content with reference to what was packed before
 *
 * Theory of operation: a *window* is one Zstandard frame that is never ended; each piece of content is
 * packed into it and flushed, so that it can be unpacked as soon as it is there, and refers to the
 * content of the last PACK_WINDOW_LOG bits' worth of bytes, near and far (long-distance matching).  Where
 * the link is slow, batches are small, and a block of its own would have little to refer to.  In return
 * pieces must be unpacked in the order in which they were packed, each once.
 *
 * A window *begins* with a piece that says so (what was before does not count any more): the first one,
 * one of another level, one after a piece that could not be packed.
 *
 * Unpacking is for bytes from the network: the caller knows how many bytes must come out, and neither
 * they nor the memory in use can become more than that and the largest window.  What is wrong with a
 * piece spoils the window: the next one must begin another.
 *
 * Memory: on either side the window (2^log bytes); to pack, up to 40 MiB of tables for the dearer levels.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

/* log2 of the longest window that anybody has to take, and of the shortest that is of use. */
#define PACK_WINDOW_MOST_LOG 25u
#define PACK_WINDOW_LEAST_LOG 21u

typedef struct PackWindow PackWindow;

/* *log*: PACK_WINDOW_LEAST_LOG to PACK_WINDOW_MOST_LOG.  Takes memory at its first use. */
PackWindow *pack_window_new(guint log);
/* NULL-safe. */
void pack_window_free(PackWindow *window);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PackWindow, pack_window_free)

/* Room that a piece of *length* bytes needs at most: more than itself. */
size_t pack_window_bound(size_t length);

/* Packs the next piece at *level* (1 to 19) into *out*, which has room for pack_window_bound() bytes; a
 * piece that does not shrink comes out a little longer.  *ret_begins*: another window begins with it.
 * Returns the bytes; 0 without the memory for it, and the piece is in no window. */
size_t pack_window_pack(PackWindow *window, int level, const void *in, size_t length, void *out,
                        gboolean *ret_begins);

/* The other end. */
typedef struct UnpackWindow UnpackWindow;

UnpackWindow *unpack_window_new(void);
/* NULL-safe. */
void unpack_window_free(UnpackWindow *window);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(UnpackWindow, unpack_window_free)

/* Unpacks the next piece, which must become exactly *length* bytes; never writes more to *out*.  INVALID
 * where it does not, where it goes on with no window, or asks for a longer one than
 * PACK_WINDOW_MOST_LOG. */
gboolean unpack_window(UnpackWindow *window, gboolean begins, const void *in, size_t packed_length,
                       void *out, size_t length, GError **error);

/*
 * Is compression worth its time on this path, with this data?
 *
 * A pure policy, asked after every window of frames.  Compressing makes sense
 * where the path is slower than the compressor and the data shrinks; both are
 * measured while sending and decided anew, since links get busy and guests
 * change what they hold.  Data that does not shrink turns it off for a while.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef enum { PACKING_AUTO, PACKING_NONE, PACKING_LZ4, PACKING_ZSTD } PackingMode;

/* "auto", "none", "lz4", "zstd" */
const char *packing_mode_name(PackingMode mode);
gboolean packing_mode_from_name(const char *name, PackingMode *ret);

#define PACKING_WINDOW_FRAMES 4
/* After a window that did not shrink: off for so many, doubled each time. */
#define PACKING_FIRST_PAUSE 4
#define PACKING_LONGEST_PAUSE 128
/* On a faster path (1.3 Gbit/s) the CPU is better spent on sending: measured
 * with bench/migrate.py, where packing made moves over an unlimited link
 * slower. */
#define PACKING_SLOW_PATH_BYTES_PER_MS 160000.0
#define PACKING_WORTH_SHARE 0.9

typedef struct {
    PackingMode mode;
    gboolean on;
    guint frames;         /* in this window */
    guint paused_windows; /* left before it is tried again */
    guint next_pause;
    uint64_t raw_bytes, sent_bytes; /* in this window */
    double send_ms;                 /* time spent handing frames to the channel */
} Packing;

Packing packing_make(PackingMode mode);

/* Notes a sent frame; at the end of a window decides anew. */
void packing_note(Packing *packing, uint64_t raw_bytes, uint64_t sent_bytes, double send_ms);

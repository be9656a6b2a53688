/*
 * Is compression worth its time on this link, with this data?
 *
 * A pure policy, asked for every batch and told what became of it.  The ways
 * to pack are a ladder of steps: none, lz4, and some levels of zstd, each
 * dearer than the one below, and as a rule making less of the data.  With a
 * link of b bytes per ms, a step that makes r bytes of one and packs s bytes
 * per ms in each of w workers carries
 *
 *     min(b / r, s · w)
 *
 * guest bytes per ms; none carries b.  The link's rate is the caller's
 * (link_rate.h); ratio and speed of each step are measured, smoothed, and the
 * choice is made anew after each window of batches, since links get busy and
 * guests change what they hold.  Where data packs better or worse than before
 * with the step in use, it is taken to do so with the others.  From the bottom
 * up, a step is chosen before the best so far if it carries so much more that
 * it is worth its CPU, and kept for less.  The first level of zstd is chosen
 * before lz4 even where it carries half as much: bytes cost both hosts and the
 * network something too.
 *
 * A step that is not in use is tried for one window now and then: the next one
 * up while the link is what limits, the next one down while packing does and
 * carries little more than the link would by itself.
 * The batches of a trial are packed in both ways, so that it is steps that are
 * compared and not data.
 * Each trial that does not pay doubles the pause before the next, so data
 * that cannot be compressed costs next to nothing.  (Batches of which a sample
 * does not shrink are not packed at all and say nothing about a step:
 * page_encoder.c.)
 *
 * Before the link's rate is known (the destination still starts its VMM, and
 * there is nothing else to do) everything is packed with zstd, which also
 * shows what that makes of this data.
 *
 * Where packing is what takes the time, the link's rate does not show; sending
 * without is tried then: soon where the link was never seen to limit, and
 * rarely after that, since it may have become fast.  On a link as fast as
 * memory nothing else is tried.
 *
 * Slow links: where bytes are dear, zstd packs better than one block at a time: *linked*, with reference
 * to what was packed before (page/pack_window.h).  One thread does that, whatever the workers, which is
 * also the bound of what it takes from the guests.  Below PACKING_LINKED_BYTES_PER_MS the steps are linked
 * ones of a ladder of their own.  A change of level forgets what was before, so nothing is tried: what a
 * step would make is taken from what the step in use makes, by figures measured with the lab's guests.
 * They are weighed after twice as many windows each time; a step that is too slow
 * for the link is left at once for the next cheaper one, the cheapest for blocks, as above, for a while.
 * Where the user's limit is what limits, nothing is linked: once that is lifted, what packs slowly would
 * be what is in the way.
 * The dear one is used only where half of one core's time is enough for it, and not before the link has
 * shown for some time what it carries.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "page/pack.h"

typedef enum { PACKING_AUTO, PACKING_NONE, PACKING_LZ4, PACKING_ZSTD } PackingMode;

/* "auto", "none", "lz4", "zstd" */
const char *packing_mode_name(PackingMode mode);
gboolean packing_mode_from_name(const char *name, PackingMode *ret);

#define PACKING_METHODS 3u /* PackMethod */
#define PACKING_STEPS 8u   /* none, lz4, zstd 1, 3, 6; linked: zstd 3, 9, 18 */
#define PACKING_WINDOW_BATCHES 4u
/* What a window must have packed to say anything. */
#define PACKING_LEAST_BYTES (256u * 1024)
/* Windows until a step that did not pay is tried again; doubled each time. */
#define PACKING_FIRST_PAUSE 16u
#define PACKING_LONGEST_PAUSE 256u
/* Until sending without is tried, where it is known what the link carries. */
#define PACKING_LINK_PAUSE 128u
/* On a faster link (1.3 Gbit/s) the CPU is better spent on sending: measured
 * with bench/migrate.py, where packing made moves over an unlimited link
 * slower. */
#define PACKING_SLOW_LINK_BYTES_PER_MS 160000.0
#define PACKING_WORTH_RATIO 0.95
/* Linked from this rate on downwards (240 Mbit/s). */
#define PACKING_LINKED_BYTES_PER_MS 30000.0
/* Windows: between two weighings at first; until a dear step is thought of; until what is linked is tried
 * again where it was too slow. */
#define PACKING_LINKED_FIRST_PAUSE 2u
#define PACKING_LINKED_BEFORE_DEAR 16u
#define PACKING_LINKED_PAUSE 64u

typedef struct {
    PackMethod method;
    int level;       /* of PACK_ZSTD */
    gboolean linked; /* of PACK_ZSTD: in a window (pack_window.h) */
} PackWay;

/* How a batch is to be packed, and, to compare, what else: the baseline, whose output is thrown
 * away. PACK_NONE: not. */
typedef struct {
    PackWay way, baseline;
} PackingChoice;

/* What the same bytes took and became; all 0: not compared. */
typedef struct {
    uint64_t bytes, baseline_bytes;
    double ms, baseline_ms;
} PackComparison;

typedef struct {
    PackWay way;      /* as chosen */
    gboolean skipped; /* it would not have shrunk, and was sent as it is */
    uint64_t raw_bytes, packed_bytes;
    double pack_ms; /* without the baseline */
    PackComparison compared;
    double link_bytes_per_ms; /* what the link carries; 0: not known yet */
    gboolean link_busy;       /* and it is what limits */
    gboolean link_limited;    /* by the user */
} PackingSample;

typedef struct {
    uint64_t raw_bytes[PACKING_METHODS], packed_bytes[PACKING_METHODS];
    uint64_t linked_raw_bytes, linked_packed_bytes; /* of PACK_ZSTD's */
} PackingTotals;

typedef struct {
    gboolean usable;
    double ratio, bytes_per_ms; /* smoothed; ratio 0: never tried */
    guint paused_windows, next_pause;
} PackingStep;

typedef struct {
    PackingMode mode;
    guint workers;
    guint now;     /* a step */
    guint settled; /* what to go back to after a trial */
    PackingStep steps[PACKING_STEPS];
    double link_bytes_per_ms; /* 0: not known */
    gboolean link_busy, link_seen, link_limited;
    guint batches; /* in this window */
    guint busy;    /* of them: the link limited */
    guint to_try;  /* batches that are still to be chosen for, of a trial */
    uint64_t raw_bytes, packed_bytes;
    double pack_ms;
    PackComparison compared;
    PackingTotals totals;
    gboolean may_link;
    guint linked_windows;   /* so far */
    guint linked_wait;      /* until they are weighed again */
    guint linked_next_wait; /* … after that */
    guint unlinked_wait;    /* blocks for so long */
    guint dearest;          /* step that the link has left time for */
} Packing;

Packing packing_make(PackingMode mode, gboolean with_lz4, gboolean with_zstd, guint workers);

/* Whether anything may be linked from now on; at first not. */
void packing_allow_links(Packing *packing, gboolean allowed);

/* What is in use. */
PackWay packing_get_way(const Packing *packing);

/* For the next batch.  A trial is of one window's batches: those that follow
 * before it is known what became of them go as before. */
PackingChoice packing_choose(Packing *packing);

/* Notes a batch that was sent; at the end of a window decides anew.  Batches
 * that were chosen for before the last decision count for the totals only. */
void packing_note(Packing *packing, const PackingSample *sample);

/*
 * What the destination holds, within a memory budget
 *
 * Theory of operation: whenever a page's content goes out it is *noted*, and
 * noting compares it with what was noted before.  What the store keeps of a
 * page is one of
 *
 *   nothing      the content must be sent whole
 *   "zero"       compared byte by byte with zeroes
 *   fingerprints of its blocks (fingerprint.h): 8 bytes for 128 to 1024, the
 *                smallest that fit the budget; whole dirty blocks are sent
 *   a shadow     a copy: what is sent is exact to the byte
 *
 * SENT_STORE_AUTO starts with fingerprints.  A page of which few blocks were
 * dirty changes sparsely and will again, so it gets a shadow, as long as there
 * is memory; one that came out whole twice in a row gives its shadow back.
 * Groups of 64 pages get memory for fingerprints when they are first noted; a
 * group that comes when the budget is used up is sent whole for ever.
 *
 * The content must not change while it is noted, and those very bytes must be
 * sent: a page in shared memory is copied first.  Fingerprints are wrong with
 * a probability below 2^-32 for a whole move; see fingerprint.h.
 *
 * Threads: any number may note different pages at a time.  A page belongs to
 * one thread at a time; the caller orders the threads that note it one after
 * the other.
 *
 * Limits: besides the budget's pieces a store takes 1.1 bytes per page of the
 * regions, which count, too; with a budget below that it is as if OFF.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "page/segments.h"

typedef enum {
    SENT_STORE_AUTO,        /* fingerprints, and copies of the pages that pay for it */
    SENT_STORE_FINGERPRINT, /* fingerprints of small blocks only */
    SENT_STORE_SHADOW,      /* copies of pages only */
    SENT_STORE_OFF,         /* nothing: whole pages are sent */
} SentStoreMode;

/* "auto", "fingerprint", "shadow", "off" */
const char *sent_store_mode_name(SentStoreMode mode);
gboolean sent_store_mode_from_name(const char *name, SentStoreMode *ret);

typedef enum {
    PAGE_UNCHANGED, /* the destination has this content: send nothing */
    PAGE_SEGMENTS,  /* send the segments */
    PAGE_WHOLE,     /* send the page */
} PageVerdict;

typedef struct SentStore SentStore;

/* *region_pages*: pages of each region (copied).  *populated_pages*: how many of
 * all are expected to be sent, by which the block size is chosen.  Never NULL:
 * what can't be had (memory, random bytes) makes whole pages. */
SentStore *sent_store_new(const uint64_t *region_pages, guint region_count,
                          uint64_t populated_pages, uint64_t budget_bytes, SentStoreMode mode);
void sent_store_free(SentStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SentStore, sent_store_free)

/* What must be sent so that the destination, which holds the last noted content
 * of this page, holds *content* (4096 bytes); notes *content* as held from now
 * on, so it must be sent (a move that loses it is over).  *ret* is set for
 * PAGE_SEGMENTS only. */
PageVerdict sent_store_note(SentStore *store, guint region, uint64_t page, const uint8_t *content,
                            SegmentList *ret);

/* The destination holds zeroes there now: a ZERO page was sent, or it never had
 * content. */
void sent_store_note_zero(SentStore *store, guint region, uint64_t page);

/* The destination does not have what was noted last: the page must be sent whole. */
void sent_store_forget(SentStore *store, guint region, uint64_t page);

/* Memory in use; it never shrinks.  Bytes of a fingerprinted block; 0 where
 * there are no fingerprints. */
uint64_t sent_store_get_bytes(const SentStore *store);
guint sent_store_get_block_bytes(const SentStore *store);

/* Verdicts so far, segments by what they were found with (zero counts as a
 * shadow, being exact). */
typedef struct {
    uint64_t unchanged, by_shadow, by_fingerprint, whole;
} SentStoreCounts;

void sent_store_get_counts(const SentStore *store, SentStoreCounts *ret);

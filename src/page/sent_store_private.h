/* The inside of a SentStore; see sent_store.h. */
#pragma once

#include <stdatomic.h>

#include "base/page.h"
#include "page/fingerprint.h"
#include "page/sent_memory.h"
#include "page/sent_store.h"

#define STORE_GROUP_PAGES 64u
#define BLOCK_BYTES_MIN 128u
#define BLOCK_BYTES_MAX 1024u
#define BLOCKS_MAX (PAGE_BYTES / BLOCK_BYTES_MIN)
#define CACHE_LINE_BYTES 64u

/* What is kept of a page; a byte each, so that threads which note neighbours
 * do not meet. */
enum {
    KEPT_NOTHING,
    KEPT_ZERO,
    KEPT_FINGERPRINTS,   /* in its words */
    KEPT_SHADOW,         /* its first word is the address */
    KEPT_SHADOW_DOUBTED, /* a shadow, and the page came out whole last time */
};
typedef uint8_t Kept;

typedef struct {
    uint64_t pages;
    Kept *kept; /* of each page */
    gpointer
        *groups; /* of STORE_GROUP_PAGES pages: page_words words each; see sent_memory_ensure() */
} Region;

struct SentStore {
    SentStoreMode mode;
    FingerprintKey *key; /* in AUTO and FINGERPRINT only, as are blocks */
    guint block_bytes, blocks;
    guint page_words;
    SentMemory *memory;
    uint64_t fixed_bytes;
    Region *regions;
    guint region_count;
    /* Written by all threads, so not on a cache line of what they read. */
    _Atomic uint64_t unchanged __attribute__((aligned(CACHE_LINE_BYTES)));
    _Atomic uint64_t by_shadow, by_fingerprint, whole;
};

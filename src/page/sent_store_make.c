/* Shares out a store's budget. */
#include "base/page.h"
#include "page/sent_store_private.h"

/* The smallest blocks whose fingerprints fit into this memory, else the largest. */
static guint choose_block_bytes(uint64_t populated_pages, uint64_t bytes)
{
    guint block_bytes = BLOCK_BYTES_MIN;

    while (block_bytes < BLOCK_BYTES_MAX &&
           populated_pages > bytes / (PAGE_BYTES / block_bytes * sizeof(uint64_t)))
        block_bytes *= 2;
    return block_bytes;
}

/* FALSE where the budget or memory does not suffice for a byte a page. */
static gboolean make_regions(SentStore *store, const uint64_t *region_pages, uint64_t budget_bytes)
{
    store->regions = g_new0(Region, store->region_count);
    for (guint i = 0; i < store->region_count; i++) {
        uint64_t pages = region_pages[i], groups = pages / STORE_GROUP_PAGES + 1;

        /* First a bound, so that the sum does not wrap around. */
        if (pages > budget_bytes)
            return FALSE;
        store->fixed_bytes += pages * sizeof(Kept) + groups * sizeof(gpointer);
        if (store->fixed_bytes > budget_bytes)
            return FALSE;
        store->regions[i].kept = g_try_malloc0_n(pages + 1, sizeof(Kept));
        store->regions[i].groups = g_try_malloc0_n(groups, sizeof(gpointer));
        if (!store->regions[i].kept || !store->regions[i].groups)
            return FALSE;
        store->regions[i].pages = pages;
    }
    return TRUE;
}

static void free_regions(SentStore *store)
{
    for (guint i = 0; store->regions && i < store->region_count; i++) {
        g_free(store->regions[i].kept);
        g_free(store->regions[i].groups);
    }
    g_clear_pointer(&store->regions, g_free);
    store->fixed_bytes = 0;
}

/* Sets up fingerprints; returns the bytes that shadows may take. */
static uint64_t share_out(SentStore *store, uint64_t populated_pages, uint64_t bytes)
{
    uint64_t fingerprint_bytes;

    store->page_words = 1;
    if (store->mode == SENT_STORE_SHADOW)
        return bytes;
    /* Pages may appear later, and groups are not full: some is left over. */
    store->block_bytes = choose_block_bytes(
        populated_pages, store->mode == SENT_STORE_AUTO ? bytes / 4 * 3 : bytes / 8 * 7);
    store->blocks = PAGE_BYTES / store->block_bytes;
    store->page_words = store->blocks;
    if (store->mode == SENT_STORE_FINGERPRINT)
        return 0;
    /* No more than all fingerprints fit: that many pages bound the product, too. */
    populated_pages = MIN(populated_pages, bytes / (store->blocks * sizeof(uint64_t)));
    fingerprint_bytes = populated_pages * store->blocks * sizeof(uint64_t);
    fingerprint_bytes += fingerprint_bytes / 16;
    return bytes > fingerprint_bytes ? bytes - fingerprint_bytes : 0;
}

SentStore *sent_store_new(const uint64_t *region_pages, guint region_count,
                          uint64_t populated_pages, uint64_t budget_bytes, SentStoreMode mode)
{
    SentStore *store = g_aligned_alloc0(1, sizeof *store, CACHE_LINE_BYTES);
    uint64_t bytes, page_limit_bytes;

    store->mode = mode;
    store->region_count = region_count;
    if (mode == SENT_STORE_AUTO || mode == SENT_STORE_FINGERPRINT)
        store->key = fingerprint_key_new();
    if (mode == SENT_STORE_OFF || (mode != SENT_STORE_SHADOW && !store->key) ||
        !make_regions(store, region_pages, budget_bytes)) {
        free_regions(store);
        store->mode = SENT_STORE_OFF;
        return store;
    }
    bytes = budget_bytes - store->fixed_bytes;
    page_limit_bytes = share_out(store, populated_pages, bytes);
    store->memory = sent_memory_new(bytes, page_limit_bytes);
    return store;
}

void sent_store_free(SentStore *store)
{
    if (!store)
        return;
    free_regions(store);
    sent_memory_free(store->memory);
    fingerprint_key_free(store->key);
    g_aligned_free(store);
}

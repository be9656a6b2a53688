#include "transfer/page_index.h"

#include <sys/random.h>
#include <xxhash.h>

#include "base/page.h"

typedef struct {
    uint32_t region; /* its number + 1; 0: nothing */
    uint32_t unused;
    uint64_t page;
} Entry;

#define ENTRIES (PAGE_INDEX_TABLE_BYTES / sizeof(Entry))

struct PageIndex {
    const PageRegions *regions;
    uint64_t key;
    uint64_t **hashes; /* of each page of each region; 0: not sent, or zeros */
    Entry *table;
};

static uint64_t count_pages(const PageRegions *regions)
{
    uint64_t pages = 0;

    for (guint i = 0; i < regions->count; i++)
        pages += regions->pages[i];
    return pages;
}

PageIndex *page_index_new(const PageRegions *regions)
{
    PageIndex *index;
    uint64_t key;

    if (count_pages(regions) > PAGE_INDEX_MOST_PAGES ||
        getrandom(&key, sizeof key, 0) != (ssize_t)sizeof key)
        return NULL;
    index = g_new0(PageIndex, 1);
    index->regions = regions;
    index->key = key;
    index->hashes = g_new0(uint64_t *, regions->count + 1);
    for (guint i = 0; i < regions->count; i++)
        index->hashes[i] = g_new0(uint64_t, regions->pages[i]);
    index->table = g_new0(Entry, ENTRIES);
    return index;
}

void page_index_free(PageIndex *index)
{
    if (!index)
        return;
    for (guint i = 0; i < index->regions->count; i++)
        g_free(index->hashes[i]);
    g_free(index->hashes);
    g_free(index->table);
    g_free(index);
}

/* Never 0. */
static uint64_t hash(const PageIndex *index, const uint8_t *content)
{
    return XXH3_64bits_withSeed(content, PAGE_BYTES, index->key) | 1;
}

/* The lowest bit is always set. */
static Entry *place_of(const PageIndex *index, uint64_t hashed)
{
    return &index->table[(hashed >> 1) % ENTRIES];
}

void page_index_note(PageIndex *index, guint region, uint64_t page, const uint8_t *content)
{
    uint64_t hashed = content ? hash(index, content) : 0;

    index->hashes[region][page] = hashed;
    if (content)
        *place_of(index, hashed) = (Entry){.region = region + 1, .page = page};
}

gboolean page_index_find(const PageIndex *index, const uint8_t *content, guint *ret_region,
                         uint64_t *ret_page)
{
    uint64_t hashed = hash(index, content);
    const Entry *entry = place_of(index, hashed);

    if (entry->region == 0 || index->hashes[entry->region - 1][entry->page] != hashed)
        return FALSE;
    *ret_region = entry->region - 1;
    *ret_page = entry->page;
    return TRUE;
}

#include "page/sent_store.h"

#include <string.h>

#include "base/names.h"
#include "base/page.h"
#include "page/sent_store_private.h"

/* A page with no more dirty bytes than this, by its fingerprints, gets a shadow. */
#define SPARSE_BYTES 1024u

/* A page as one note sees it. */
typedef struct {
    Kept *kept;
    uint64_t *words; /* NULL where the budget did not suffice */
} Page;

static const uint8_t zero_page[PAGE_BYTES];

static uint8_t *shadow_of(const Page *page)
{
    return (uint8_t *)(uintptr_t)page->words[0];
}

static gboolean is_shadow(Kept kept)
{
    return kept == KEPT_SHADOW || kept == KEPT_SHADOW_DOUBTED;
}

/* Changes nothing where there is no memory for a shadow. */
static void take_shadow(SentStore *store, Page *page, const uint8_t *content)
{
    uint8_t *shadow = sent_memory_take_page(store->memory);

    if (!shadow)
        return;
    memcpy(shadow, content, PAGE_BYTES);
    page->words[0] = (uintptr_t)shadow;
    *page->kept = KEPT_SHADOW;
}

/* Keeps the content of a page of which nothing useful is kept. */
static void keep(SentStore *store, Page *page, const uint8_t *content)
{
    *page->kept = KEPT_NOTHING;
    if (page->words && store->key) {
        fingerprint_page(store->key, content, store->block_bytes, page->words);
        *page->kept = KEPT_FINGERPRINTS;
    } else if (page->words) {
        take_shadow(store, page, content);
    }
}

static PageVerdict note_first(SentStore *store, Page *page, const uint8_t *content)
{
    keep(store, page, content);
    return PAGE_WHOLE;
}

static PageVerdict note_on_zero(SentStore *store, Page *page, const uint8_t *content,
                                SegmentList *ret)
{
    gboolean fits = segments_from_difference(zero_page, content, ret);

    if (fits && ret->count == 0)
        return PAGE_UNCHANGED;
    keep(store, page, content);
    return fits ? PAGE_SEGMENTS : PAGE_WHOLE;
}

static PageVerdict note_by_fingerprints(SentStore *store, Page *page, const uint8_t *content,
                                        SegmentList *ret)
{
    uint64_t fresh[BLOCKS_MAX], dirty_blocks = 0;

    fingerprint_page(store->key, content, store->block_bytes, fresh);
    for (guint i = 0; i < store->blocks; i++)
        dirty_blocks |= (uint64_t)(fresh[i] != page->words[i]) << i;
    if (dirty_blocks == 0)
        return PAGE_UNCHANGED;
    memcpy(page->words, fresh, store->blocks * sizeof fresh[0]);
    if (!segments_from_blocks(&dirty_blocks, store->block_bytes, ret))
        return PAGE_WHOLE;
    if (ret->bytes <= SPARSE_BYTES && store->mode == SENT_STORE_AUTO)
        take_shadow(store, page, content);
    return PAGE_SEGMENTS;
}

/* A page of which all is new: the second time its shadow is for others. */
static void note_whole(SentStore *store, Page *page, const uint8_t *content)
{
    if (*page->kept == KEPT_SHADOW_DOUBTED && store->key) {
        sent_memory_give_page(store->memory, shadow_of(page));
        keep(store, page, content);
        return;
    }
    memcpy(shadow_of(page), content, PAGE_BYTES);
    *page->kept = KEPT_SHADOW_DOUBTED;
}

static PageVerdict note_by_shadow(SentStore *store, Page *page, const uint8_t *content,
                                  SegmentList *ret)
{
    uint8_t *shadow = shadow_of(page);

    if (!segments_from_difference(shadow, content, ret)) {
        note_whole(store, page, content);
        return PAGE_WHOLE;
    }
    if (ret->count == 0)
        return PAGE_UNCHANGED;
    for (guint i = 0; i < ret->count; i++)
        memcpy(shadow + ret->items[i].offset, content + ret->items[i].offset, ret->items[i].length);
    *page->kept = KEPT_SHADOW;
    return PAGE_SEGMENTS;
}

static gboolean has_page(const SentStore *store, guint region, uint64_t page)
{
    return store->mode != SENT_STORE_OFF && region < store->region_count &&
           page < store->regions[region].pages;
}

static gboolean find_page(SentStore *store, guint region, uint64_t page, Page *ret)
{
    const Region *found;
    uint64_t *group;

    if (!has_page(store, region, page))
        return FALSE;
    found = &store->regions[region];
    group = sent_memory_ensure(store->memory, &found->groups[page / STORE_GROUP_PAGES],
                               sizeof(uint64_t) * STORE_GROUP_PAGES * store->page_words);
    ret->kept = &found->kept[page];
    ret->words = group ? group + page % STORE_GROUP_PAGES * store->page_words : NULL;
    return TRUE;
}

static void count_one(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

PageVerdict sent_store_note(SentStore *store, guint region, uint64_t page, const uint8_t *content,
                            SegmentList *ret)
{
    PageVerdict verdict = PAGE_WHOLE;
    gboolean exact = TRUE;
    Page found;

    if (find_page(store, region, page, &found)) {
        if (found.words && is_shadow(*found.kept)) {
            verdict = note_by_shadow(store, &found, content, ret);
        } else if (found.words && *found.kept == KEPT_FINGERPRINTS) {
            verdict = note_by_fingerprints(store, &found, content, ret);
            exact = FALSE;
        } else if (*found.kept == KEPT_ZERO) {
            verdict = note_on_zero(store, &found, content, ret);
        } else {
            verdict = note_first(store, &found, content);
        }
    }
    if (verdict == PAGE_UNCHANGED)
        count_one(&store->unchanged);
    else if (verdict == PAGE_WHOLE)
        count_one(&store->whole);
    else
        count_one(exact ? &store->by_shadow : &store->by_fingerprint);
    return verdict;
}

static void let_go(SentStore *store, guint region, uint64_t page, Kept kept)
{
    Page held;

    if (!has_page(store, region, page))
        return;
    held.kept = &store->regions[region].kept[page];
    if (is_shadow(*held.kept) && find_page(store, region, page, &held) && held.words)
        sent_memory_give_page(store->memory, shadow_of(&held));
    *held.kept = kept;
}

void sent_store_note_zero(SentStore *store, guint region, uint64_t page)
{
    let_go(store, region, page, KEPT_ZERO);
}

void sent_store_forget(SentStore *store, guint region, uint64_t page)
{
    let_go(store, region, page, KEPT_NOTHING);
}

uint64_t sent_store_get_bytes(const SentStore *store)
{
    return store->fixed_bytes + (store->memory ? sent_memory_get_bytes(store->memory) : 0);
}

guint sent_store_get_block_bytes(const SentStore *store)
{
    return store->mode == SENT_STORE_OFF ? 0 : store->block_bytes;
}

void sent_store_get_counts(const SentStore *store, SentStoreCounts *ret)
{
    ret->unchanged = atomic_load_explicit(&store->unchanged, memory_order_relaxed);
    ret->by_shadow = atomic_load_explicit(&store->by_shadow, memory_order_relaxed);
    ret->by_fingerprint = atomic_load_explicit(&store->by_fingerprint, memory_order_relaxed);
    ret->whole = atomic_load_explicit(&store->whole, memory_order_relaxed);
}

static const char *const sent_store_mode_names[] = {
    [SENT_STORE_AUTO] = "auto",
    [SENT_STORE_FINGERPRINT] = "fingerprint",
    [SENT_STORE_SHADOW] = "shadow",
    [SENT_STORE_OFF] = "off",
};
G_STATIC_ASSERT(G_N_ELEMENTS(sent_store_mode_names) == SENT_STORE_OFF + 1);
NAMES_DEFINE(sent_store_mode, SentStoreMode, sent_store_mode_names)

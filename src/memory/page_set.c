#include "memory/page_set.h"

#include <string.h>

#define WORD_BITS 64u

static uint64_t word_count(const PageSet *set)
{
    return (set->pages + WORD_BITS - 1) / WORD_BITS;
}

PageSet *page_set_new(uint64_t pages)
{
    PageSet *set = g_new0(PageSet, 1);

    set->pages = pages;
    set->words = g_new0(uint64_t, word_count(set) + 1);
    return set;
}

void page_set_free(PageSet *set)
{
    if (!set)
        return;
    g_free(set->words);
    g_free(set);
}

/* The bits of word *index* that lie in [first, end). */
static uint64_t mask_of(uint64_t index, uint64_t first, uint64_t end)
{
    uint64_t start = index * WORD_BITS;
    uint64_t mask = ~0ULL;

    if (first > start)
        mask &= ~0ULL << (first - start);
    if (end < start + WORD_BITS)
        mask &= ~0ULL >> (start + WORD_BITS - end);
    return mask;
}

/* Cuts a range at the end of the region; returns its end. */
static uint64_t cut_end(const PageSet *set, uint64_t first, uint64_t count)
{
    if (first >= set->pages)
        return first;
    return count > set->pages - first ? set->pages : first + count;
}

void page_set_add(PageSet *set, uint64_t first, uint64_t count)
{
    uint64_t end = cut_end(set, first, count);

    for (uint64_t i = first / WORD_BITS; first < end && i <= (end - 1) / WORD_BITS; i++)
        set->words[i] |= mask_of(i, first, end);
}

void page_set_remove(PageSet *set, uint64_t first, uint64_t count)
{
    uint64_t end = cut_end(set, first, count);

    for (uint64_t i = first / WORD_BITS; first < end && i <= (end - 1) / WORD_BITS; i++)
        set->words[i] &= ~mask_of(i, first, end);
}

void page_set_clear(PageSet *set)
{
    memset(set->words, 0, word_count(set) * sizeof *set->words);
}

gboolean page_set_has(const PageSet *set, uint64_t page)
{
    return page < set->pages && (set->words[page / WORD_BITS] >> (page % WORD_BITS) & 1);
}

uint64_t page_set_count(const PageSet *set)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < word_count(set); i++)
        count += (uint64_t)__builtin_popcountll(set->words[i]);
    return count;
}

void page_set_add_all(PageSet *set, const PageSet *other)
{
    for (uint64_t i = 0; i < word_count(set); i++)
        set->words[i] |= other->words[i];
}

void page_set_add_span(PageSet *set, const PageSet *other, PageSpan span)
{
    uint64_t end = cut_end(set, span.first, span.count);

    for (uint64_t i = span.first / WORD_BITS; span.first < end && i <= (end - 1) / WORD_BITS; i++)
        set->words[i] |= other->words[i] & mask_of(i, span.first, end);
}

void page_set_remove_all(PageSet *set, const PageSet *other)
{
    for (uint64_t i = 0; i < word_count(set); i++)
        set->words[i] &= ~other->words[i];
}

/* First page at or after *from* whose bit, flipped by *flip*, is one;
 * set->pages where there is none. */
static uint64_t find_bit(const PageSet *set, uint64_t from, uint64_t flip)
{
    for (uint64_t i = from / WORD_BITS; from < set->pages && i < word_count(set); i++) {
        uint64_t word = set->words[i] ^ flip;

        if (i == from / WORD_BITS)
            word &= ~0ULL << (from % WORD_BITS);
        if (word)
            return MIN(i * WORD_BITS + (uint64_t)__builtin_ctzll(word), set->pages);
    }
    return set->pages;
}

gboolean page_set_next_run(const PageSet *set, uint64_t from, uint64_t max, uint64_t *ret_first,
                           uint64_t *ret_count)
{
    uint64_t first = find_bit(set, from, 0);
    PageSet bounded = *set;

    if (first >= set->pages)
        return FALSE;
    /* No further than is asked for: the run may be long. */
    bounded.pages = max < set->pages - first ? first + max : set->pages;
    *ret_first = first;
    *ret_count = MIN(find_bit(&bounded, first, ~0ULL), bounded.pages) - first;
    return TRUE;
}

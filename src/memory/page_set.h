/* A set of page numbers of one RAM region: a bitmap.  Not thread-safe. */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct {
    uint64_t pages; /* page numbers are below this */
    uint64_t *words;
} PageSet;

/* A run of pages. */
typedef struct {
    uint64_t first, count;
} PageSpan;

PageSet *page_set_new(uint64_t pages);
void page_set_free(PageSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageSet, page_set_free)

/* Adds or removes [first, first + count), cut at the end of the region. */
void page_set_add(PageSet *set, uint64_t first, uint64_t count);
void page_set_remove(PageSet *set, uint64_t first, uint64_t count);
void page_set_clear(PageSet *set);

gboolean page_set_has(const PageSet *set, uint64_t page);
uint64_t page_set_count(const PageSet *set);

/* set |= other; set &= ~other.  Both of the same region. */
void page_set_add_all(PageSet *set, const PageSet *other);
void page_set_remove_all(PageSet *set, const PageSet *other);

/* set |= the pages of *other* in [first, first + count). */
void page_set_add_span(PageSet *set, const PageSet *other, PageSpan span);

/* Finds the next run of pages at or after *from*, of at most *max* pages.
 * Returns FALSE where there is none. */
gboolean page_set_next_run(const PageSet *set, uint64_t from, uint64_t max, uint64_t *ret_first,
                           uint64_t *ret_count);

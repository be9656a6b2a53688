#include "transfer/recheck.h"

#include <string.h>

#define WORD_BITS 64u

struct Recheck {
    GPtrArray *unsettled, *to_read;
    guint region; /* where to go on taking */
    uint64_t word;
};

static uint64_t count_words(const PageSet *set)
{
    return (set->pages + WORD_BITS - 1) / WORD_BITS;
}

/* Of region *i*; NULL for no sets at all. */
static const uint64_t *words_of(const GPtrArray *sets, guint i)
{
    return sets ? ((const PageSet *)g_ptr_array_index(sets, i))->words : NULL;
}

Recheck *recheck_new(GuestMemory *memory, GError **error)
{
    g_autoptr(Recheck) recheck = g_new0(Recheck, 1);

    recheck->unsettled = guest_memory_new_sets(memory);
    recheck->to_read = guest_memory_new_sets(memory);
    for (guint i = 0; i < memory->regions->len; i++)
        if (!guest_memory_add_populated(memory, i, g_ptr_array_index(recheck->unsettled, i), error))
            return NULL;
    return g_steal_pointer(&recheck);
}

void recheck_free(Recheck *recheck)
{
    if (!recheck)
        return;
    g_ptr_array_unref(recheck->unsettled);
    g_ptr_array_unref(recheck->to_read);
    g_free(recheck);
}

GPtrArray *recheck_get_unsettled(Recheck *recheck)
{
    return recheck->unsettled;
}

static uint64_t left_of(const uint64_t *unsettled, const uint64_t *pending, const uint64_t *next,
                        uint64_t word)
{
    return unsettled[word] & ~(pending ? pending[word] : 0) & ~(next ? next[word] : 0);
}

uint64_t recheck_count(const Recheck *recheck, const GPtrArray *pending, const GPtrArray *next)
{
    uint64_t pages = 0;

    for (guint i = 0; i < recheck->unsettled->len; i++) {
        const PageSet *set = g_ptr_array_index(recheck->unsettled, i);

        for (uint64_t word = 0; word < count_words(set); word++)
            pages += (uint64_t)__builtin_popcountll(
                left_of(set->words, words_of(pending, i), words_of(next, i), word));
    }
    return pages;
}

void recheck_settle(Recheck *recheck, const GPtrArray *pending, const GPtrArray *next)
{
    for (guint i = 0; i < recheck->unsettled->len; i++) {
        PageSet *set = g_ptr_array_index(recheck->unsettled, i);
        PageSet *to_read = g_ptr_array_index(recheck->to_read, i);

        for (uint64_t word = 0; word < count_words(set); word++)
            to_read->words[word] |=
                left_of(set->words, words_of(pending, i), words_of(next, i), word);
        page_set_clear(set);
    }
    recheck->region = 0;
    recheck->word = 0;
}

static void send_start(PageSet *set, uint64_t word, WorkBatch *batch)
{
    PageSpan span;

    while (set->words[word] &&
           page_set_next_run(set, word * WORD_BITS, WORD_BITS, &span.first, &span.count)) {
        span.count = MIN(span.count, (word + 1) * WORD_BITS - span.first);
        page_set_remove(set, span.first, span.count);
        batch->spans[batch->span_count++] = span;
        batch->pages += span.count;
    }
}

void recheck_take(Recheck *recheck, guint most, WorkBatch *ret)
{
    ret->span_count = 0;
    ret->pages = 0;
    for (; recheck->region < recheck->to_read->len; recheck->region++, recheck->word = 0) {
        PageSet *set = g_ptr_array_index(recheck->to_read, recheck->region);

        if (ret->pages > 0) /* one region a batch */
            return;
        ret->region = recheck->region;
        for (; recheck->word < count_words(set); recheck->word++) {
            if (ret->pages + (guint)__builtin_popcountll(set->words[recheck->word]) > most)
                return;
            send_start(set, recheck->word, ret);
        }
    }
}

void recheck_move_to(Recheck *recheck, GPtrArray *sets)
{
    for (guint i = 0; i < recheck->to_read->len; i++) {
        PageSet *set = g_ptr_array_index(recheck->to_read, i);

        page_set_add_all(g_ptr_array_index(sets, i), set);
        page_set_clear(set);
    }
}

gboolean recheck_is_drain_worth(double read_ms, double drain_ms)
{
    return read_ms > RECHECK_LEAST_MS && read_ms > drain_ms;
}

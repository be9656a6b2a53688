/*
 * Touches of the arena, and how long they take
 *
 * Theory of operation: a touch reads one word of a page, between two looks at the clock.  Those
 * that took 50 us or longer are kept, to be asked for: they are what the guest waited for a page
 * that was not there, as long as touches are few, since who touches all the time is also
 * interrupted all the time.  Pages are touched in passes: each page once, in an order that is
 * random and another one in every pass; so the first pass after its memory has gone finds every
 * page that is missing.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The number at *index* in a permutation of the *count* first numbers; each *seed* has its own. */
uint64_t touch_permute(uint64_t index, uint64_t count, uint64_t seed);

void touch_page(uint64_t page);

/* As timings_list(). */
uint64_t touch_list_long(uint64_t from, uint64_t *ret_first, char *line, size_t size);

/*
 * The memory that the workload writes, and what it must hold
 *
 * Theory of operation: what a page holds is a function of its entry in a table
 * (content.h), so every page can be checked at any time, also after the
 * machine was moved.  No locks: a page and its entry belong to one thread.
 *
 * Limits: the table itself is not checked other than through the pages it
 * describes.
 */
#pragma once

#include <stdint.h>

#include "content.h"
#include "settings.h"

/* All pages hold *kind* at first. */
void arena_make(uint64_t pages, Kind kind);
uint64_t arena_get_pages(void);
unsigned long long arena_get_errors(void);

/* Writes *page* as the pattern says; *random* is for PATTERN_MIXED. */
void arena_write_page(uint64_t page, Pattern pattern, uint64_t *random);
uint64_t arena_sum_page(uint64_t page);
/* Reads one word of it. */
void arena_touch_page(uint64_t page);

/* Says and counts a page that does not hold what it must. */
void arena_check_page(uint64_t page);
uint64_t arena_digest_page(uint64_t page);

/* The page is zero, and no memory is behind it until it is written. */
void arena_free_page(uint64_t page);

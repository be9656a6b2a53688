/*
 * Which bytes of a page differ
 *
 * Theory of operation: two pages are compared to a bitmap with one bit a byte,
 * by the widest instructions that this CPU has: AVX-512, AVX2 or plain 64-bit
 * integers.  The choice is made at each call from what libgcc found out when
 * the program started, which costs a load and a branch; no ifunc is used,
 * because sanitizers and clang do not link those.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/page.h"

#define DIFFERENCE_WORDS (PAGE_BYTES / 64)

/* Bit i of ret[w] is set where byte 64 * w + i differs.  TRUE if any does.
 * The pages need no alignment. */
gboolean difference_page(const uint8_t *old_page, const uint8_t *new_page,
                         uint64_t ret[DIFFERENCE_WORDS]);

/* For tests: the implementations by themselves.  NULL after the last; the
 * first, portable one is always available. */
typedef struct {
    const char *name;
    gboolean (*is_available)(void);
    gboolean (*compare)(const uint8_t *old_page, const uint8_t *new_page,
                        uint64_t ret[DIFFERENCE_WORDS]);
} DifferenceWay;

const DifferenceWay *difference_way(guint index);

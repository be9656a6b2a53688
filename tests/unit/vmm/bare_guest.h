/*
 * A guest without an operating system, for moves between VMMs
 *
 * In long mode, with interrupts of the interval timer 1000 times a second by way of the 8259A.  It
 * counts on each entry of a table of 1 MiB, over and over, and checks each before: a page that was lost, or
 * is old, is an error.  It also checks an SSE and an x87 register and that its TSC goes on.  At
 * BARE_GUEST_STATISTICS it has what came of that.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "memory/guest_memory.h"

#define BARE_GUEST_CODE 0x7c00u
#define BARE_GUEST_STATISTICS 0x5000u
#define BARE_GUEST_BYTES (16u << 20) /* of memory it needs */

/* 512 bytes; a boot sector. */
extern const uint8_t bare_guest[], bare_guest_end[];

typedef struct {
    uint64_t ticks;  /* interrupts */
    uint64_t rounds; /* through the table */
    uint64_t wrong;  /* entries that were not what they should be */
    uint64_t broken; /* rounds in which a register was not */
    uint64_t tsc;    /* at the end of the last round */
} BareGuestStatistics;

/* Of a guest whose main RAM is region *region*. */
BareGuestStatistics bare_guest_read(GuestMemory *memory, guint region);

/* Waits until there are so many ticks and rounds; the test fails after a minute. */
BareGuestStatistics bare_guest_await(GuestMemory *memory, guint region, uint64_t ticks,
                                     uint64_t rounds);

/* Fails the test where something was not what it should be. */
void bare_guest_expect_sound(const BareGuestStatistics *statistics);

/*
 * A guest of two processors without an operating system, for moves between VMMs
 *
 * In 32-bit protected mode without pages.  The first processor resets the second one, which then waits for its start-up IPI until
 * somebody sets PAIR_GUEST_START in memory (pair_guest_start()).  From then on both count on each entry of a table of their own
 * (512 KiB), over and over, and check each before, as well as an SSE and an x87 register, the number of their APIC and that their
 * TSC goes on; both have interrupts by the timer of their APIC, and a number that they count on together.  The first one sends the
 * second one an interrupt each round and waits until that has counted it: one that is lost, or comes twice, stops or shows.  The
 * second one halts after each round until it is interrupted.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "memory/guest_memory.h"

#define PAIR_GUEST_STATISTICS 0x5000u
#define PAIR_GUEST_BYTES (16u << 20) /* of memory it needs */

/* 1024 bytes; the first sectors of a disk. */
extern const uint8_t pair_guest[], pair_guest_end[];

typedef struct {
    uint64_t ticks;   /* interrupts of its timer */
    uint64_t rounds;  /* through its table */
    uint64_t wrong;   /* entries that were not what they should be */
    uint64_t broken;  /* rounds in which something else was not */
    uint64_t tsc;     /* at the end of the last round */
    uint64_t signals; /* interrupts from the first processor */
} PairGuestCpu;

typedef struct {
    PairGuestCpu cpus[2];
    uint32_t shared; /* rounds of both */
} PairGuestStatistics;

/* Of a guest whose main RAM is region *region*; it stands, where numbers are compared with each other. */
PairGuestStatistics pair_guest_read(GuestMemory *memory, guint region);

/* Lets the second processor begin. */
void pair_guest_start(GuestMemory *memory, guint region);

/* Waits until the first *cpus* of them have done so many more ticks and rounds than *before*; the test fails after a minute. */
PairGuestStatistics pair_guest_await(GuestMemory *memory, guint region, guint cpus,
                                     const PairGuestStatistics *before, uint64_t ticks,
                                     uint64_t rounds);

/* Of a guest that stands: fails the test where something was not what it should be. */
void pair_guest_expect_sound(const PairGuestStatistics *statistics);

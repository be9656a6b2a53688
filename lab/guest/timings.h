/*
 * When the last of many things ended, and how long each took, for a client that asks later
 *
 * They are numbered from 1 on; a client lists them a line at a time.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { TIMINGS_KEPT = 65536 };

typedef struct {
    uint32_t end_ms, took_us;
} Timing;

typedef struct {
    pthread_mutex_t lock; /* of those who add */
    atomic_ullong count;
    Timing kept[TIMINGS_KEPT]; /* by number; whole once *count* has it */
} Timings;

/* Times are of now_ms(). */
void timings_add(Timings *timings, double begin_ms, double end_ms);

/* Writes those from number *from* (at least 1) on into *line*, as many as it takes, as
 * "END-MS:MICROSECONDS," each.  Returns the number that follows the last one; *ret_first is the
 * first one, later than *from* where that is not known any more. */
uint64_t timings_list(const Timings *timings, uint64_t from, uint64_t *ret_first, char *line,
                      size_t size);

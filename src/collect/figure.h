/*
 * From counters to figures
 *
 * Theory of operation: the kernel and QEMU count; what people and policies want is a rate.  A rate is the
 * difference of two readings over the time between them, and that is told only where both are what they
 * seem to be: a reading that failed, a counter that went backwards (it wrapped, or what it counts was made
 * anew), a time that is not to be trusted, and a result that cannot be give FIGURE_UNKNOWN.  It is better to
 * know nothing for two seconds than to move a guest for a figure that never was.
 *
 * Pure.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

/* Of a figure; all others are 0 or more. */
#define FIGURE_UNKNOWN (-1.0)
/* Of a counter, or an amount. */
#define COUNTER_UNKNOWN UINT64_MAX

/* Between two readings; outside of it no rate is told. */
#define FIGURE_LEAST_MS 100.0
#define FIGURE_MOST_MS 60000.0

/* When something was read. */
typedef struct {
    uint64_t boot_ns, monotonic_ns; /* clock_boot_ns(), clock_now_ns() */
} LookTime;

LookTime look_time_now(void);

/* ms between two readings; FIGURE_UNKNOWN where the clock jumped, or the host slept in between, or where
 * it is too short or too long for a rate. */
double look_time_interval_ms(const LookTime *before, const LookTime *now);

/* How much *unit* times the counter grew in a second.  *most*: what is more than that cannot be. */
double figure_rate(uint64_t before, uint64_t now, double interval_ms, double unit, double most);

/* Limits for *most*: nothing that a host has does more bytes, or events, in a second. */
#define FIGURE_MOST_BYTES 1e12
#define FIGURE_MOST_EVENTS 1e9

/* The sum, or COUNTER_UNKNOWN where one of them is unknown. */
uint64_t counter_add(uint64_t a, uint64_t b);

/* *value* in another unit; COUNTER_UNKNOWN where it is, or where it does not fit. */
uint64_t counter_scale(uint64_t value, uint64_t factor);

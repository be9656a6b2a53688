/*
 * How long faults took: a histogram of fixed size
 *
 * Eight buckets a power of two of nanoseconds, so a percentile is at most one eighth too large.
 * Not thread-safe.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define FAULT_LATENCY_BUCKETS (62u * 8)

typedef struct {
    uint64_t buckets[FAULT_LATENCY_BUCKETS];
    uint64_t count, max_ns;
} FaultLatency;

void fault_latency_add(FaultLatency *latency, uint64_t ns);

/* What this share (0 to 1) of them did not take longer than; 0 where there are none. */
double fault_latency_get_ms(const FaultLatency *latency, double share);

#include "memory/fault_latency.h"

#include <math.h>

#include "base/clock.h"

#define PARTS_BITS 3u
#define PARTS (1u << PARTS_BITS)

/* Below 8 ns each has its own; from there on the three bits behind the highest count. */
static guint bucket_of(uint64_t ns)
{
    guint shift;

    if (ns < PARTS)
        return (guint)ns;
    shift = 63 - (guint)__builtin_clzll(ns) - PARTS_BITS;
    return (shift + 1) * PARTS + (guint)(ns >> shift & (PARTS - 1));
}

/* The longest time that falls in it. */
static uint64_t end_of(guint bucket)
{
    guint shift;

    if (bucket < PARTS)
        return bucket;
    shift = bucket / PARTS - 1;
    return ((uint64_t)(PARTS + bucket % PARTS) << shift) + ((1ULL << shift) - 1);
}

void fault_latency_add(FaultLatency *latency, uint64_t ns)
{
    latency->buckets[bucket_of(ns)]++;
    latency->count++;
    latency->max_ns = MAX(latency->max_ns, ns);
}

double fault_latency_get_ms(const FaultLatency *latency, double share)
{
    uint64_t rank = MAX((uint64_t)ceil(share * (double)latency->count), 1), seen = 0;

    for (guint i = 0; i < FAULT_LATENCY_BUCKETS; i++) {
        seen += latency->buckets[i];
        if (seen >= rank)
            return clock_ns_to_ms(MIN(end_of(i), latency->max_ns));
    }
    return 0;
}

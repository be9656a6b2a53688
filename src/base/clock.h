/* Clocks: monotonic time for durations; never wall-clock time. */
#pragma once

#include <stdint.h>

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_now_ns(void);

/* CLOCK_BOOTTIME in nanoseconds: goes on while the host is suspended. */
uint64_t clock_boot_ns(void);

/* CPU time of the calling thread in nanoseconds. */
uint64_t clock_thread_cpu_ns(void);

/* Sleeps for *ns* nanoseconds, also across signals. */
void clock_sleep_ns(uint64_t ns);

static inline double clock_ns_to_ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

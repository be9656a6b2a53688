#include "collect/figure.h"

#include <math.h>

#include "base/clock.h"

/* By which two clocks may differ that are read one after the other on a busy host. */
#define CLOCKS_MS 50.0

LookTime look_time_now(void)
{
    return (LookTime){.boot_ns = clock_boot_ns(), .monotonic_ns = clock_now_ns()};
}

double look_time_interval_ms(const LookTime *before, const LookTime *now)
{
    double boot, monotonic;

    if (now->boot_ns < before->boot_ns || now->monotonic_ns < before->monotonic_ns)
        return FIGURE_UNKNOWN;
    boot = clock_ns_to_ms(now->boot_ns - before->boot_ns);
    monotonic = clock_ns_to_ms(now->monotonic_ns - before->monotonic_ns);
    if (fabs(boot - monotonic) > CLOCKS_MS || boot < FIGURE_LEAST_MS || boot > FIGURE_MOST_MS)
        return FIGURE_UNKNOWN;
    return boot;
}

double figure_rate(uint64_t before, uint64_t now, double interval_ms, double unit, double most)
{
    double rate;

    if (before == COUNTER_UNKNOWN || now == COUNTER_UNKNOWN || now < before || !(interval_ms > 0))
        return FIGURE_UNKNOWN;
    rate = (double)(now - before) * unit * 1e3 / interval_ms;
    return rate <= most ? rate : FIGURE_UNKNOWN;
}

uint64_t counter_add(uint64_t a, uint64_t b)
{
    uint64_t sum;

    if (a == COUNTER_UNKNOWN || b == COUNTER_UNKNOWN || __builtin_add_overflow(a, b, &sum))
        return COUNTER_UNKNOWN;
    return sum;
}

uint64_t counter_scale(uint64_t value, uint64_t factor)
{
    uint64_t product;

    if (value == COUNTER_UNKNOWN || __builtin_mul_overflow(value, factor, &product))
        return COUNTER_UNKNOWN;
    return product;
}

#include "base/tsc.h"

#include <glib.h>
#include <time.h>

#include "base/clock.h"

#define MEASURE_NS 20000000
#define TRIES 5u

#if defined(__x86_64__)

/* Both clocks at one moment; of some tries the one that took least. */
static void read_both(uint64_t *ret_ns, uint64_t *ret_count)
{
    uint64_t least = G_MAXUINT64;

    for (guint i = 0; i < TRIES; i++) {
        uint64_t before = __builtin_ia32_rdtsc(), after;
        struct timespec now;

        (void)clock_gettime(CLOCK_MONOTONIC_RAW, &now);
        after = __builtin_ia32_rdtsc();
        if (after - before >= least)
            continue;
        least = after - before;
        *ret_count = before + least / 2;
        *ret_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    }
}

static uint64_t measure(void)
{
    uint64_t first_ns = 0, first = 0, second_ns = 0, second = 0;

    read_both(&first_ns, &first);
    clock_sleep_ns(MEASURE_NS);
    read_both(&second_ns, &second);
    if (second_ns <= first_ns || second <= first)
        return 0;
    return (uint64_t)((double)(second - first) * 1e9 / (double)(second_ns - first_ns) + 0.5);
}

#else

static uint64_t measure(void)
{
    return 0;
}

#endif

uint64_t tsc_hz(void)
{
    static gsize done;
    static uint64_t hz;

    if (g_once_init_enter(&done)) {
        hz = measure();
        g_once_init_leave(&done, 1);
    }
    return hz;
}

/*
 * Prints the frequency of this host's time stamp counter in kHz
 *
 * A microvm guest under TCG sees the host's counter and has no other clock to
 * measure it by once the host is busy; it is told with tsc_early_khz=.
 */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(void)
{
    struct timespec pause = {.tv_nsec = 100000000};
    double start_ns = now_ns();
    unsigned long long start = __rdtsc();

    nanosleep(&pause, NULL);

    double ms = (now_ns() - start_ns) / 1e6;

    printf("%.0f\n", (double)(__rdtsc() - start) / ms);
    return 0;
}

#define _GNU_SOURCE
#include "cpus.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "console.h"

enum { MAX_CPUS = 8, STEP_NS = 100000000 };

static struct {
    unsigned count;
    atomic_ullong steps[MAX_CPUS];
    atomic_ullong latest_ns; /* that any of them has seen */
    atomic_uint findings;
} cpus;

static uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * UINT64_C(1000000000) + now.tv_nsec;
}

/* The others' first: what is read after that is later. */
static void look(unsigned cpu)
{
    unsigned long long latest = atomic_load(&cpus.latest_ns), now = clock_ns();

    if (sched_getcpu() != (int)cpu && atomic_fetch_add(&cpus.findings, 1) < MAX_FINDINGS_SHOWN)
        say("lab: BAD cpu=%u is_on=%d", cpu, sched_getcpu());
    if (now < latest && atomic_fetch_add(&cpus.findings, 1) < MAX_FINDINGS_SHOWN)
        say("lab: BAD cpu=%u clock_back_ns=%llu", cpu, latest - now);
    while (latest < now && !atomic_compare_exchange_weak(&cpus.latest_ns, &latest, now))
        ;
}

static void *cpu_main(void *argument)
{
    const struct timespec step = {.tv_nsec = STEP_NS};
    unsigned cpu = (uintptr_t)argument;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        die("sched_setaffinity");
    for (;;) {
        look(cpu);
        atomic_fetch_add(&cpus.steps[cpu], 1);
        nanosleep(&step, NULL);
    }
}

void cpus_start(unsigned count)
{
    pthread_t thread;

    cpus.count = count < MAX_CPUS ? count : MAX_CPUS;
    for (uintptr_t i = 0; i < cpus.count; i++)
        if (pthread_create(&thread, NULL, cpu_main, (void *)i))
            die("cpu thread");
}

void cpus_tell(void)
{
    char line[MAX_LINE];
    size_t length = 0;

    for (unsigned i = 0; i < cpus.count; i++)
        length +=
            snprintf(line + length, sizeof(line) - length, " %llu", atomic_load(&cpus.steps[i]));
    if (cpus.count)
        say("lab: cpus%s", line);
}

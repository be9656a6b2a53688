#define _GNU_SOURCE
#include "noise.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "console.h"

enum { CALL_BYTES = 256 << 10, SECOND_NS = 1000000000 };

static struct {
    int64_t period_ns;
    int zero_fd;
    atomic_ullong errors;
} noise = {.zero_fd = -1};

static int64_t get_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND_NS + now.tv_nsec;
}

static void sleep_until_ns(int64_t due)
{
    struct timespec when = {due / SECOND_NS, due % SECOND_NS};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
        continue;
}

/* What is late is not caught up with: a guest that stood has missed many. */
static void *timers_main(void *data)
{
    int64_t before = get_ns(), due = before;

    (void)data;
    for (;;) {
        int64_t now;

        due = due + noise.period_ns > before ? due + noise.period_ns : before + noise.period_ns;
        sleep_until_ns(due);
        now = get_ns();
        if ((now < due || now < before) && atomic_fetch_add(&noise.errors, 1) < MAX_FINDINGS_SHOWN)
            say("lab: BAD timer due=%ld now=%ld before=%ld", due, now, before);
        before = now;
    }
    return NULL;
}

static void *calls_main(void *data)
{
    unsigned char *page = aligned_alloc(4096, CALL_BYTES);

    (void)data;
    for (;;) {
        memset(page, 0xEE, 4096);
        if (read(noise.zero_fd, page, CALL_BYTES) != CALL_BYTES || page[0] || page[4095])
            if (atomic_fetch_add(&noise.errors, 1) < MAX_FINDINGS_SHOWN)
                say("lab: BAD read of zeroes: %s", strerror(errno));
    }
    return NULL;
}

void noise_start(const Settings *settings)
{
    pthread_t thread;

    if (settings->wakeups) {
        noise.period_ns = SECOND_NS / settings->wakeups;
        if (pthread_create(&thread, NULL, timers_main, NULL))
            die("timer thread");
    }
    if (!settings->calls)
        return;
    noise.zero_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    if (noise.zero_fd < 0)
        die("/dev/zero");
    for (unsigned i = 0; i < settings->calls; i++)
        if (pthread_create(&thread, NULL, calls_main, NULL))
            die("thread of calls");
}

uint64_t noise_get_errors(void)
{
    return noise.errors;
}

/*
 * The lab guest's workload: writes memory in a known pattern and proves that
 * it still holds what was written
 *
 * Theory of operation: the arena (arena.h) is lab.mb MiB of anonymous memory;
 * writer threads (writers.h) write and check it, one more the disk (disk.h);
 * readers keep what they read of a second one (reader.h).
 *
 * The main thread runs at real-time priority, so that a busy guest answers in
 * time.  It serves TCP port 7000, one command a line:
 *
 *   beat MS              a line "beat SEQUENCE GUEST-MS PASSES ERRORS WRITTEN"
 *                        every MS ms; SEQUENCE counts from 0 per connection
 *   status               one line of key=value
 *   set KEY=VALUE ...    pattern, order, pps, span, check, disk-rate, disk-batch, readers;
 *                        answers "ok"
 *   check                checks the whole arena; "checked pages= errors= digest="
 *   free MB              gives the last MB MiB of the arena back to the kernel: they
 *                        are zero, and no memory is behind them until they are
 *                        written; "freed pages="
 *   block-fill NAME COUNT SEED
 *                        writes COUNT blocks of /dev/NAME; "filled blocks="
 *   block-digest NAME    of all of /dev/NAME; "digest bytes= digest="
 *   machine              what the kernel has: "cpus= mem_kb= blocks= nets="
 *   disk-check           reads every acknowledged block, and looks at all that readers keep;
 *                        "checked blocks= errors="
 *   disk-commits N       commits to the disk from number N (at least 1) on, as many as a
 *                        line takes: "commits first= next= list=END-MS:MICROSECONDS,..."
 *   touches N            the same of touches that took long (touch.h): "touches first= …"
 *   read PATH OFFSET N   N bytes of a file or a device, at most 100, in hexadecimal
 *   write PATH OFFSET X  writes the bytes X (hexadecimal) there; answers "ok"
 *   echo TEXT            answers the same line
 *   poweroff             ends the guest
 *
 * and reports on the console: "lab: ready", once a second "lab: beat …", and
 * "lab: BAD …" for every finding (the first hundred).
 *
 * lab.wakeups and lab.calls are in noise.h.  lab.content, on the kernel command line only, says what all
 * pages hold at first: random, text or zero; lab.disk which disk is written, vda where it is not said;
 * lab.cpus=1 that each processor counts (cpus.h).
 *
 * Limits: digest means something only while the pattern is idle.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "arena.h"
#include "block.h"
#include "console.h"
#include "cpus.h"
#include "disk.h"
#include "noise.h"
#include "orders.h"
#include "reader.h"
#include "writers.h"

enum { DEFAULT_PAGES = 64 << 8 };

static Kind kind_from_name(const char *name)
{
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        if (!strcmp(name, kind_names[kind]))
            return kind;
    }
    errno = EINVAL;
    die("lab.content");
}

/* Also what all pages hold at first. */
static void read_kernel_command_line(Settings *settings, uint64_t *pages, Kind *content)
{
    static char text[4096];
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
        die("/proc/cmdline");
    close(fd);
    for (int round = 0; round < 2; round++) { /* lab.mb first: span is limited by it */
        char words[4096];

        memcpy(words, text, sizeof(words));
        for (char *save = NULL, *word = strtok_r(words, " \n", &save); word;
             word = strtok_r(NULL, " \n", &save)) {
            char *equals = strchr(word, '=');

            if (strncmp(word, "lab.", 4) || !equals)
                continue;
            *equals = 0;
            if (round == 0 && !strcmp(word, "lab.mb"))
                *pages = strtoull(equals + 1, NULL, 10) << 8;
            else if (round == 0 && !strcmp(word, "lab.content"))
                *content = kind_from_name(equals + 1);
            else if (round == 1)
                settings_set(settings, word + 4, equals + 1, *pages);
        }
        if (round == 0)
            settings->span = *pages;
    }
}

/* So that a busy guest answers in time. */
static void take_priority(void)
{
    struct sched_param priority = {.sched_priority = 10};

    if (sched_setscheduler(0, SCHED_FIFO, &priority))
        say("lab: no real-time priority: %s", strerror(errno));
}

int main(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned threads = cpus < MAX_WRITERS ? cpus : MAX_WRITERS;
    int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t pages = DEFAULT_PAGES;
    Kind content = KIND_RANDOM;
    Settings settings = {.disk = "vda"};

    read_kernel_command_line(&settings, &pages, &content);
    arena_make(pages, content);
    writers_start(threads, &settings, wake_fd);
    disk_set_rate(settings.disk_rate, settings.disk_batch ? settings.disk_batch : 1,
                  settings.disk_buffered);
    disk_start(settings.disk, wake_fd);
    reader_set_count(settings.readers);
    reader_start();
    noise_start(&settings);
    block_start(wake_fd);
    if (settings.cpus)
        cpus_start(cpus);
    orders_open();
    take_priority();
    say("lab: ready pages=%lu threads=%u disk_blocks=%u", pages, threads, disk_get_status().blocks);
    orders_serve(&settings, wake_fd);
}

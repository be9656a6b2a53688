#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "console.h"
#include "content.h"
#include "reader.h"
#include "timings.h"

enum { DISK_MAX_BLOCKS = 16384, KEPT_READS = 256, IDLE_MS = 20 };

/* What a read has brought, to be looked at again: the page must stay as the device wrote it. */
typedef struct {
    uint64_t *page;    /* a page of its own */
    uint64_t sequence; /* 0: nothing read yet */
    uint32_t block;
} KeptRead;

static struct {
    int fd, buffered_fd, wake_fd;
    uint32_t blocks;
    atomic_uint rate;     /* blocks a second; 0: no writes */
    atomic_uint batch;    /* blocks of a commit */
    atomic_bool buffered; /* they go through the page cache, and stay there */
    uint64_t acknowledged[DISK_MAX_BLOCKS];
    atomic_ullong sequence;
    atomic_bool check_wanted, check_done;
    atomic_ullong checked, errors;
    KeptRead kept[KEPT_READS];
    unsigned next_kept;
    Timings commits; /* their numbers are their sequences */
} disk = {.fd = -1, .buffered_fd = -1, .batch = 1, .commits.lock = PTHREAD_MUTEX_INITIALIZER};

/* A block: its number, its sequence, and words that follow from both. */
static void fill_block(uint64_t *words, uint32_t block, uint64_t sequence)
{
    uint64_t x = hash3(block, sequence, 2) | 1;

    words[0] = block;
    words[1] = sequence;
    for (int i = 2; i < PAGE_WORDS; i++)
        words[i] = next_random(&x);
}

static void disk_failed(uint32_t block, uint64_t sequence, const char *what)
{
    if (atomic_fetch_add(&disk.errors, 1) < MAX_FINDINGS_SHOWN)
        say("lab: BAD disk block=%u sequence=%lu %s", block, sequence, what);
}

static bool holds(const uint64_t *page, uint32_t block, uint64_t sequence)
{
    uint64_t want[PAGE_WORDS];

    fill_block(want, block, sequence);
    return !memcmp(want, page, PAGE_SIZE);
}

static void check_kept(const KeptRead *read)
{
    if (read->sequence && !holds(read->page, read->block, read->sequence))
        disk_failed(read->block, read->sequence, "differs in the memory it was read into");
}

static void check_all_kept(void)
{
    for (int i = 0; i < KEPT_READS; i++)
        check_kept(&disk.kept[i]);
}

/* Reads a block into the page that was read into longest ago. */
static void disk_check_block(uint32_t block)
{
    KeptRead *read = &disk.kept[disk.next_kept];
    uint64_t sequence = disk.acknowledged[block];

    if (!sequence)
        return;
    disk.next_kept = (disk.next_kept + 1) % KEPT_READS;
    check_kept(read);
    read->sequence = 0;
    if (pread(disk.fd, read->page, PAGE_SIZE, (off_t)block * PAGE_SIZE) != PAGE_SIZE) {
        disk_failed(block, sequence, strerror(errno));
    } else if (!holds(read->page, block, sequence)) {
        disk_failed(block, sequence, "differs");
    } else {
        read->block = block;
        read->sequence = sequence;
    }
    disk.checked++;
}

static void disk_commit(uint64_t *buffer, uint32_t block, unsigned count)
{
    uint64_t sequence = disk.sequence + 1;
    ssize_t bytes = (ssize_t)count * PAGE_SIZE;
    int fd = disk.buffered ? disk.buffered_fd : disk.fd;
    double begin_ms;

    for (unsigned i = 0; i < count; i++)
        fill_block(buffer + (size_t)i * PAGE_WORDS, block + i, sequence);
    begin_ms = now_ms();
    if (pwrite(fd, buffer, (size_t)bytes, (off_t)block * PAGE_SIZE) != bytes || fdatasync(fd)) {
        disk_failed(block, sequence, strerror(errno));
        return;
    }
    timings_add(&disk.commits, begin_ms, now_ms());
    for (unsigned i = 0; i < count; i++)
        disk.acknowledged[block + i] = sequence;
    disk.sequence = sequence;
}

static void commit_somewhere(uint64_t *buffer, uint64_t *random)
{
    unsigned batch = disk.batch;

    if (batch > disk.blocks)
        batch = disk.blocks;
    disk_commit(buffer, next_random(random) % (disk.blocks / batch) * batch, batch);
    disk_check_block(next_random(random) % disk.blocks);
}

/* Until *due_ms; what is late is not caught up with. */
static void sleep_until(double *due_ms)
{
    double now = now_ms();

    if (*due_ms > now)
        usleep((useconds_t)((*due_ms - now) * 1000));
    else
        *due_ms = now;
}

static void check_all(void)
{
    uint64_t wake = 1;

    disk.checked = 0;
    check_all_kept();
    for (uint32_t block = 0; block < disk.blocks; block++)
        disk_check_block(block);
    atomic_fetch_add(&disk.errors, reader_check());
    disk.check_done = true;
    if (write(disk.wake_fd, &wake, sizeof(wake)) < 0)
        die("eventfd");
}

static void *disk_main(void *data)
{
    uint64_t random = 7;
    uint64_t *buffer = aligned_alloc(PAGE_SIZE, (size_t)DISK_MAX_BATCH * PAGE_SIZE);
    double due_ms = now_ms();

    (void)data;
    for (;;) {
        unsigned rate;

        if (atomic_exchange(&disk.check_wanted, false))
            check_all();
        /* Behind the check: with a rate of 0 that was set before it, nothing is written after. */
        rate = disk.rate;
        due_ms += rate ? 1000.0 * disk.batch / rate : IDLE_MS;
        if (rate)
            commit_somewhere(buffer, &random);
        sleep_until(&due_ms);
    }
    return NULL;
}

void disk_start(const char *name, int wake_fd)
{
    uint64_t bytes = 0;
    pthread_t thread;
    char path[32];

    disk.wake_fd = wake_fd;
    snprintf(path, sizeof(path), "/dev/%s", name);
    disk.fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (disk.fd < 0)
        return;
    disk.buffered_fd = open(path, O_RDWR | O_CLOEXEC);
    if (disk.buffered_fd < 0)
        die(path);
    if (ioctl(disk.fd, BLKGETSIZE64, &bytes))
        die(path);
    for (int i = 0; i < KEPT_READS; i++)
        disk.kept[i].page = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
    disk.blocks = bytes / PAGE_SIZE < DISK_MAX_BLOCKS ? bytes / PAGE_SIZE : DISK_MAX_BLOCKS;
    if (disk.blocks && pthread_create(&thread, NULL, disk_main, NULL))
        die("disk thread");
}

void disk_set_rate(unsigned blocks_per_second, unsigned batch, bool buffered)
{
    disk.buffered = buffered;
    disk.batch = batch;
    disk.rate = blocks_per_second;
}

DiskStatus disk_get_status(void)
{
    return (DiskStatus){disk.blocks, disk.sequence, disk.checked, disk.errors};
}

void disk_order_check(void)
{
    disk.check_wanted = true;
}

bool disk_has_checked(void)
{
    return atomic_exchange(&disk.check_done, false);
}

uint64_t disk_list_commits(uint64_t from, uint64_t *ret_first, char *line, size_t size)
{
    return timings_list(&disk.commits, from, ret_first, line, size);
}

#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "console.h"
#include "content.h"
#include "reader.h"

enum { DISK_MAX_BLOCKS = 16384 };

static struct {
    int fd, wake_fd;
    uint32_t blocks;
    atomic_uint rate; /* blocks a second; 0: no writes */
    uint64_t acknowledged[DISK_MAX_BLOCKS];
    atomic_ullong sequence;
    atomic_bool check_wanted, check_done;
    atomic_ullong checked, errors;
} disk = {.fd = -1};

/* A block: its number, its sequence, and words that follow from both. */
static void fill_block(uint64_t *words, uint32_t block, uint64_t sequence)
{
    uint64_t x = hash3(block, sequence, 2) | 1;

    words[0] = block;
    words[1] = sequence;
    for (int i = 2; i < PAGE_WORDS; i++)
        words[i] = next_random(&x);
}

static void disk_failed(uint32_t block, const char *what)
{
    if (atomic_fetch_add(&disk.errors, 1) < MAX_FINDINGS_SHOWN)
        say("lab: BAD disk block=%u sequence=%lu %s", block, disk.acknowledged[block], what);
}

static void disk_check_block(uint64_t *buffer, uint32_t block)
{
    uint64_t want[PAGE_WORDS];

    if (!disk.acknowledged[block])
        return;
    fill_block(want, block, disk.acknowledged[block]);
    if (pread(disk.fd, buffer, PAGE_SIZE, (off_t)block * PAGE_SIZE) != PAGE_SIZE)
        disk_failed(block, strerror(errno));
    else if (memcmp(want, buffer, PAGE_SIZE))
        disk_failed(block, "differs");
    disk.checked++;
}

static void disk_write_block(uint64_t *buffer, uint32_t block)
{
    uint64_t sequence = disk.sequence + 1;

    fill_block(buffer, block, sequence);
    if (pwrite(disk.fd, buffer, PAGE_SIZE, (off_t)block * PAGE_SIZE) != PAGE_SIZE ||
        fdatasync(disk.fd)) {
        disk_failed(block, strerror(errno));
        return;
    }
    disk.acknowledged[block] = sequence;
    disk.sequence = sequence;
}

static void *disk_main(void *data)
{
    uint64_t random = 7, wake = 1;
    uint64_t *buffer = aligned_alloc(PAGE_SIZE, PAGE_SIZE);

    (void)data;
    for (;;) {
        unsigned rate;

        if (atomic_exchange(&disk.check_wanted, false)) {
            disk.checked = 0;
            for (uint32_t block = 0; block < disk.blocks; block++)
                disk_check_block(buffer, block);
            atomic_fetch_add(&disk.errors, reader_check());
            disk.check_done = true;
            if (write(disk.wake_fd, &wake, sizeof(wake)) < 0)
                die("eventfd");
        }
        /* Behind the check: with a rate of 0 that was set before it, nothing is written after. */
        rate = disk.rate;
        if (rate) {
            disk_write_block(buffer, next_random(&random) % disk.blocks);
            disk_check_block(buffer, next_random(&random) % disk.blocks);
        }
        usleep(rate ? 1000000 / rate : 20000);
    }
    return NULL;
}

void disk_start(int wake_fd)
{
    uint64_t bytes = 0;
    pthread_t thread;

    disk.wake_fd = wake_fd;
    disk.fd = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
    if (disk.fd < 0)
        return;
    if (ioctl(disk.fd, BLKGETSIZE64, &bytes))
        die("size of /dev/vda");
    disk.blocks = bytes / PAGE_SIZE < DISK_MAX_BLOCKS ? bytes / PAGE_SIZE : DISK_MAX_BLOCKS;
    if (disk.blocks && pthread_create(&thread, NULL, disk_main, NULL))
        die("disk thread");
}

void disk_set_rate(unsigned blocks_per_second)
{
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

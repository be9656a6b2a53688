#define _GNU_SOURCE
#include "reader.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "console.h"
#include "content.h"

enum { SLOTS = 1024, MAX_READERS = 16, SPOILT = 0xEE };

static const uint64_t NOTHING = UINT64_MAX;

static struct {
    int fd;
    uint64_t blocks;
    uint8_t *pages;
    atomic_ullong held[SLOTS]; /* the block, or NOTHING */
    atomic_uint readers, next;
} reader = {.fd = -1};

static bool is_right(const uint64_t *words, uint64_t block)
{
    for (uint64_t i = 0; i < PAGE_WORDS; i++)
        if (words[i] != block * PAGE_SIZE + i * sizeof(*words))
            return false;
    return true;
}

static void read_one(uint64_t *random)
{
    unsigned slot = atomic_fetch_add(&reader.next, 1) % SLOTS;
    uint8_t *page = reader.pages + (size_t)slot * PAGE_SIZE;
    uint64_t block = next_random(random) % reader.blocks;

    reader.held[slot] = NOTHING;
    memset(page, SPOILT, PAGE_SIZE);
    if (pread(reader.fd, page, PAGE_SIZE, (off_t)(block * PAGE_SIZE)) != PAGE_SIZE) {
        say("lab: BAD read of block %lu of vdb: %s", block, strerror(errno));
        return;
    }
    reader.held[slot] = block;
}

static void *reader_main(void *data)
{
    unsigned number = (unsigned)(uintptr_t)data;
    uint64_t random = 11 + 2 * number;

    for (;;) {
        if (number < reader.readers)
            read_one(&random);
        else
            usleep(20000);
    }
    return NULL;
}

void reader_start(void)
{
    uint64_t bytes = 0;
    pthread_t thread;

    reader.fd = open("/dev/vdb", O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (reader.fd < 0)
        return;
    if (ioctl(reader.fd, BLKGETSIZE64, &bytes))
        die("size of /dev/vdb");
    reader.blocks = bytes / PAGE_SIZE;
    reader.pages = aligned_alloc(PAGE_SIZE, (size_t)SLOTS * PAGE_SIZE);
    for (unsigned i = 0; i < SLOTS; i++)
        reader.held[i] = NOTHING;
    for (uintptr_t i = 0; reader.blocks && i < MAX_READERS; i++)
        if (pthread_create(&thread, NULL, reader_main, (void *)i))
            die("reader thread");
}

void reader_set_count(unsigned readers)
{
    reader.readers = readers;
}

uint64_t reader_check(void)
{
    uint64_t errors = 0;

    for (unsigned i = 0; reader.fd >= 0 && i < SLOTS; i++) {
        uint64_t block = reader.held[i];
        const uint64_t *words = (const uint64_t *)(reader.pages + (size_t)i * PAGE_SIZE);

        /* One that is being read anew meanwhile says nothing. */
        if (block == NOTHING || is_right(words, block) || reader.held[i] != block)
            continue;
        if (errors++ < MAX_FINDINGS_SHOWN)
            say("lab: BAD page of block %lu of vdb holds %lx", block, words[0]);
    }
    return errors;
}

#define _GNU_SOURCE
#include "block.h"

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

#define CHUNK_BYTES (1u << 20)
#define DIGEST_START 0xcbf29ce484222325ull
#define DIGEST_FACTOR 0x100000001b3ull

static struct {
    int wake_fd;
    atomic_bool busy, done;
    bool fill;
    char name[32];
    uint64_t count, seed;
    char answer[128];
} block = {.wake_fd = -1};

static int open_device(int flags, uint64_t *bytes)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/dev/%s", block.name);
    fd = open(path, flags | O_DIRECT | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, bytes)) {
        snprintf(block.answer, sizeof(block.answer), "error: %s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

static void fill(void)
{
    uint64_t *page = aligned_alloc(PAGE_SIZE, PAGE_SIZE), bytes, x = block.seed | 1;
    int fd = open_device(O_RDWR, &bytes);

    if (fd < 0)
        return;
    snprintf(block.answer, sizeof(block.answer), "filled blocks=%lu", block.count);
    for (uint64_t i = 0; i < block.count; i++) {
        uint64_t at = next_random(&x) % (bytes / PAGE_SIZE);

        for (int word = 0; word < PAGE_WORDS; word++)
            page[word] = next_random(&x);
        if (pwrite(fd, page, PAGE_SIZE, (off_t)(at * PAGE_SIZE)) == PAGE_SIZE)
            continue;
        snprintf(block.answer, sizeof(block.answer), "error: %s: %s", block.name, strerror(errno));
        break;
    }
    if (fsync(fd))
        snprintf(block.answer, sizeof(block.answer), "error: %s: %s", block.name, strerror(errno));
    close(fd);
    free(page);
}

static void digest(void)
{
    uint64_t *chunk = aligned_alloc(PAGE_SIZE, CHUNK_BYTES), bytes, value = DIGEST_START;
    int fd = open_device(O_RDONLY, &bytes);

    if (fd < 0)
        return;
    for (uint64_t at = 0; at < bytes;) {
        ssize_t got = pread(fd, chunk, CHUNK_BYTES, (off_t)at);

        if (got <= 0) {
            snprintf(block.answer, sizeof(block.answer), "error: %s: %s", block.name,
                     strerror(errno));
            close(fd);
            return;
        }
        for (ssize_t word = 0; word < got / 8; word++)
            value = (value ^ chunk[word]) * DIGEST_FACTOR;
        at += got;
    }
    snprintf(block.answer, sizeof(block.answer), "digest bytes=%lu digest=%016lx", bytes, value);
    close(fd);
    free(chunk);
}

static void *work(void *data)
{
    uint64_t wake = 1;

    (void)data;
    (block.fill ? fill : digest)();
    block.done = true;
    if (write(block.wake_fd, &wake, sizeof(wake)) < 0)
        die("eventfd");
    return NULL;
}

static bool begin(const char *name)
{
    pthread_t thread;

    snprintf(block.name, sizeof(block.name), "%s", name);
    if (pthread_create(&thread, NULL, work, NULL))
        die("block thread");
    pthread_detach(thread);
    return true;
}

void block_start(int wake_fd)
{
    block.wake_fd = wake_fd;
}

bool block_order_fill(const char *name, uint64_t count, uint64_t seed)
{
    if (atomic_exchange(&block.busy, true))
        return false;
    block.fill = true;
    block.count = count;
    block.seed = seed;
    return begin(name);
}

bool block_order_digest(const char *name)
{
    if (atomic_exchange(&block.busy, true))
        return false;
    block.fill = false;
    return begin(name);
}

bool block_has_answer(char *line, int size)
{
    if (!atomic_exchange(&block.done, false))
        return false;
    snprintf(line, size, "%s", block.answer);
    block.busy = false;
    return true;
}

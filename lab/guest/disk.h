/*
 * The writer of the guest's disk (/dev/vda, unless another one is named)
 *
 * Theory of operation: a commit writes a batch of blocks in a row, past the
 * cache, and flushes them with fdatasync.  A block holds its number, the
 * sequence of its commit, and words that follow from both.  It counts as
 * acknowledged once fdatasync has said so; what was acknowledged is checked at
 * random while writing, and all of it on order.  When the last 65,536 commits
 * ended, and how long each took, can be asked for.  The device writes each read
 * into a page of its own, which is kept for the next few hundred reads and must
 * hold the same when it is looked at again: before its next use, and on order.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DISK_MAX_BATCH = 64 };

typedef struct {
    uint32_t blocks;                              /* 0: no disk */
    unsigned long long sequence, checked, errors; /* sequence: commits so far */
} DiskStatus;

/* *wake_fd* is an eventfd: it is written to when a check has ended.  *name* as in /dev. */
void disk_start(const char *name, int wake_fd);
/* *batch*: blocks of a commit, 1 to DISK_MAX_BATCH. */
void disk_set_rate(unsigned blocks_per_second, unsigned batch, bool buffered);
DiskStatus disk_get_status(void);

void disk_order_check(void);
/* True once for each order. */
bool disk_has_checked(void);

/* Lists commits as timings_list(): how long writing and flushing took. */
uint64_t disk_list_commits(uint64_t from, uint64_t *ret_first, char *line, size_t size);

/*
 * The writer of the guest's disk (/dev/vda, unless another one is named)
 *
 * Theory of operation: a block holds its number, a sequence, and words that
 * follow from both.  A block counts as acknowledged once fdatasync has said
 * so; what was acknowledged is checked at random while writing, and all of it
 * on order.  The device writes each read into a page of its own, which is kept
 * for the next few hundred reads and must hold the same when it is looked at
 * again: before its next use, and on order.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint32_t blocks; /* 0: no disk */
    unsigned long long sequence, checked, errors;
} DiskStatus;

/* *wake_fd* is an eventfd: it is written to when a check has ended.  *name* as in /dev. */
void disk_start(const char *name, int wake_fd);
void disk_set_rate(unsigned blocks_per_second);
DiskStatus disk_get_status(void);

void disk_order_check(void);
/* True once for each order. */
bool disk_has_checked(void);

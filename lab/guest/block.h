/*
 * Orders to any of the guest's block devices
 *
 * Theory of operation: devices come and go while the guest runs; an order opens
 * the one it names, works in a thread of its own, and leaves one line as its
 * answer.  One order at a time.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* *wake_fd* is an eventfd: it is written to when an order has been done. */
void block_start(int wake_fd);

/* Writes *count* blocks of 4096 bytes, at places and with content that follow
 * from *seed*, and flushes them.  false: another order is under way. */
bool block_order_fill(const char *name, uint64_t count, uint64_t seed);

/* Reads the whole device past the guest's cache and makes a digest. */
bool block_order_digest(const char *name);

/* True once for each order; *line* (of *size* bytes) gets its answer. */
bool block_has_answer(char *line, int size);

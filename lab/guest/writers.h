/*
 * The threads that write, read, check and free the arena
 *
 * Theory of operation: one writer thread per vCPU owns the pages whose number
 * modulo the threads is its own; it writes and checks them in turns, so
 * neither the pages nor their table entries need locks.  All randomness is
 * seeded.  Settings and orders are published under a lock; writers look at
 * them after each batch of pages.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "settings.h"

enum { MAX_WRITERS = 16 };

typedef struct {
    unsigned threads;
    unsigned long long passes, written, read;
} WritersStatus;

/* *wake_fd* is an eventfd: it is written to when an order has been carried out. */
void writers_start(unsigned threads, const Settings *settings, int wake_fd);
void writers_publish(const Settings *settings);
WritersStatus writers_get_status(void);

/* One check and one free at a time; the digest of a check means something only
 * while nothing is written. */
void writers_order_check(void);
bool writers_have_checked(uint64_t *ret_digest);
void writers_order_free(uint64_t first_page);
bool writers_have_freed(uint64_t *ret_pages);

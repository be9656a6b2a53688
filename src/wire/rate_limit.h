/*
 * A token bucket that is given the time
 *
 * Theory of operation: the bucket is kept as the moment at which everything
 * sent so far is paid for.  That moment may lie at most RATE_LIMIT_BURST_MS in
 * the past (saved-up credit) and any time in the future (debt, made by frames
 * that do not wait).  Over any span of time no more than rate × span + burst
 * is granted: 2 % over at most in any second.  Senders ask for pieces of at
 * most rate_limit_piece() bytes, a quarter of the burst, so that waking up
 * late costs no throughput.
 *
 * It never reads a clock itself; now_ns must not run backwards.
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

#define RATE_LIMIT_BURST_MS 20

typedef struct {
    uint64_t bytes_per_second; /* 0: no limit */
    uint64_t paid_at_ns;
    uint64_t remainder; /* of the last division, so that nothing is given away */
} RateLimit;

void rate_limit_init(RateLimit *limit, uint64_t bytes_per_second, uint64_t now_ns);

/* Largest number of bytes to ask for at once. */
size_t rate_limit_piece(const RateLimit *limit);

/* Nanoseconds to wait until *bytes* may be sent; 0: now. */
uint64_t rate_limit_delay_ns(const RateLimit *limit, size_t bytes, uint64_t now_ns);

/* Counts bytes that were sent, whether they waited or not. */
void rate_limit_charge(RateLimit *limit, size_t bytes, uint64_t now_ns);

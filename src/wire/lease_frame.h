/*
 * The LEASE frame: a split guest's leases of its source
 *
 *     0   u64  number of the question
 *     8   u32  milliseconds
 *
 * The destination asks for so long (0: for the longest) a few times in a lease's length; the source repeats
 * the number and says for how long the guest may run, counted from when that question was sent; 0: not
 * any more.
 * docs/witness.md has the rules.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "wire/frame.h"

typedef struct {
    uint64_t number;
    guint length_ms;
} LeaseFrame;

void lease_frame_encode(const LeaseFrame *frame, uint8_t out[FRAME_LEASE_BYTES]);
gboolean lease_frame_decode(const uint8_t *payload, size_t length, LeaseFrame *ret, GError **error);

/*
 * Frames of a store of pages: STORED, UNCOVERED
 *
 *     STORED          0   u8   1: the transaction is sealed, 0: not yet
 *                     1   u64  pages that the store could give out
 *
 *     UNCOVERED       0   u64  pages
 *
 * STORED goes from the store to the source: whenever more has come, and as its answer to STORE_SEAL
 * and PUSHED.  UNCOVERED goes from the source to the destination: for so many of the pages that were
 * outstanding at the switchover the store is not known to have them.
 *
 * STORE_SEAL is empty; STORE is JSON (messages.h).
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "wire/frame.h"

typedef struct {
    gboolean sealed;
    uint64_t pages;
} StoredFrame;

void stored_frame_encode(const StoredFrame *frame, uint8_t out[FRAME_STORED_BYTES]);
gboolean stored_frame_decode(const uint8_t *payload, size_t length, StoredFrame *ret,
                             GError **error);

void uncovered_frame_encode(uint64_t pages, uint8_t out[FRAME_UNCOVERED_BYTES]);
gboolean uncovered_frame_decode(const uint8_t *payload, size_t length, uint64_t *ret,
                                GError **error);

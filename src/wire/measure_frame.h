/*
 * MEASURE and MEASURED: what a way is measured with
 *
 *     MEASURE   0   u64  number; 0: no answer
 *               8   …    none to FRAME_MEASURE_MOST_BYTES that mean nothing
 *     MEASURED  0   u64  the number of the MEASURE that it answers
 *               8   u64  bytes of payload of all MEASURE frames so far, this one included
 */
#pragma once

#include "wire/frame.h"

typedef struct {
    uint64_t number;
    uint64_t bytes;
} MeasuredFrame;

void measure_frame_encode_head(uint64_t number, uint8_t out[FRAME_MEASURE_HEAD_BYTES]);
/* The number; a MEASURE frame has at least that (frame_header_check()). */
gboolean measure_frame_decode(const uint8_t *payload, size_t length, uint64_t *ret_number,
                              GError **error);

void measured_frame_encode(const MeasuredFrame *frame, uint8_t out[FRAME_MEASURED_BYTES]);
gboolean measured_frame_decode(const uint8_t *payload, size_t length, MeasuredFrame *ret,
                               GError **error);

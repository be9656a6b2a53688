/* OUTSTANDING and WANT payloads: what is accepted lies in its region and encodes to the same bytes.
 * The first byte says which it is. */
#include <stdlib.h>
#include <string.h>

#include "wire/postcopy_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint64_t regions[] = {16, 1ULL << 34, 0, 300};

static void try_outstanding(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) again = NULL;
    OutstandingFrame frame;
    uint64_t next = 0, first, pages;

    if (!outstanding_frame_decode(data, size, regions, G_N_ELEMENTS(regions), &frame, NULL))
        return;
    again = g_byte_array_new();
    outstanding_frame_encode_head(again, frame.region, frame.runs);
    for (uint32_t i = 0; i < frame.runs; i++) {
        outstanding_frame_next(&frame, &first, &pages);
        if (pages == 0 || first < next || first >= regions[frame.region] ||
            pages > regions[frame.region] - first)
            abort();
        next = first + pages;
        outstanding_frame_append(again, first, pages);
    }
    if (!byte_reader_ok(&frame.reader) || again->len != size ||
        memcmp(again->data, data, size) != 0)
        abort();
}

static void try_want(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_WANT_BYTES];
    WantFrame want;

    if (!want_frame_decode(data, size, regions, G_N_ELEMENTS(regions), &want, NULL))
        return;
    if (want.count == 0 || want.count > FRAME_WANT_MAX_PAGES ||
        want.first >= regions[want.region] || want.count > regions[want.region] - want.first)
        abort();
    want_frame_encode(&want, again);
    if (size != sizeof again || memcmp(again, data, size) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && data[0] % 2 == 0)
        try_outstanding(data + 1, size - 1);
    else if (size > 0)
        try_want(data + 1, size - 1);
    return 0;
}

/* DEVICE_STATE, DIGESTS, EPOCH_SEAL, EPOCH_APPLIED, (first byte 254) BULK_BARRIER and (255) EPOCH_EVENTS payloads: what is accepted lies in its
 * limits and encodes to the same bytes.  The first byte says which it is. */
#include <stdlib.h>
#include <string.h>

#include "wire/epoch_frame.h"
#include "wire/event_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_same(const GByteArray *again, const uint8_t *data, size_t size)
{
    if (again->len != size || (size > 0 && memcmp(again->data, data, size) != 0))
        abort();
}

static void try_state(GByteArray *again, const uint8_t *data, size_t size)
{
    StatePiece piece;

    if (!state_frame_decode(data, size, &piece, NULL))
        return;
    if (piece.length == 0 || piece.length > FRAME_DEVICE_STATE_PIECE_BYTES ||
        piece.total > FRAME_DEVICE_STATE_MAX_BYTES || piece.offset + piece.length > piece.total)
        abort();
    state_frame_encode_head(again, piece.total, piece.offset);
    g_byte_array_append(again, piece.bytes, (guint)piece.length);
    check_same(again, data, size);
}

static void try_digests(GByteArray *again, const uint8_t *data, size_t size)
{
    static const uint64_t regions[] = {16, 1ULL << 34, 0, 300};
    DigestFrame frame;

    if (!digest_frame_decode(data, size, regions, G_N_ELEMENTS(regions), &frame, NULL))
        return;
    if (frame.count == 0 || frame.count > FRAME_DIGESTS_MAX_PAGES ||
        frame.first + frame.count > regions[frame.region])
        abort();
    digest_frame_encode_head(again, frame.region, frame.first);
    for (uint64_t i = 0; i < frame.count; i++)
        digest_frame_append(again, digest_frame_next(&frame));
    if (!byte_reader_ok(&frame.reader))
        abort();
    check_same(again, data, size);
}

static void try_seal(GByteArray *again, const uint8_t *data, size_t size)
{
    EpochSeal seal;

    if (!seal_frame_decode(data, size, &seal, NULL))
        return;
    if (seal.state_bytes > FRAME_DEVICE_STATE_MAX_BYTES)
        abort();
    seal_frame_encode(again, &seal);
    check_same(again, data, size);
}

static void try_applied(GByteArray *again, const uint8_t *data, size_t size)
{
    uint32_t number;

    if (!applied_frame_decode(data, size, &number, NULL))
        return;
    applied_frame_encode(again, number);
    check_same(again, data, size);
}

static void try_barrier(GByteArray *again, const uint8_t *data, size_t size)
{
    BulkBarrier barrier;

    if (!barrier_frame_decode(data, size, &barrier, NULL))
        return;
    if (barrier.channels & 1)
        abort();
    barrier_frame_encode(again, &barrier);
    check_same(again, data, size);
}

static void try_events(GByteArray *again, const uint8_t *data, size_t size)
{
    static const uint64_t sizes[] = {1u << 20, UINT64_MAX / 2}, pages[] = {1000, 7};
    ByteReader reader = byte_reader_make(data, size);
    WriteEvent event;
    int got;

    while ((got = event_frame_read(&reader, sizes, 2, pages, 2, &event, NULL)) == 1) {
        if (event.offset + (uint64_t)event.pages * 4096 > sizes[event.disk] ||
            event.page + event.pages > pages[event.region])
            abort();
        event_frame_append(again, &event);
    }
    if (got == 0)
        check_same(again, data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const tries[])(GByteArray *, const uint8_t *, size_t) = {try_state, try_digests,
                                                                           try_seal, try_applied};
    g_autoptr(GByteArray) again = g_byte_array_new();

    if (size > 0 && data[0] == 255)
        try_events(again, data + 1, size - 1);
    else if (size > 0 && data[0] == 254)
        try_barrier(again, data + 1, size - 1);
    else if (size > 0)
        tries[data[0] % G_N_ELEMENTS(tries)](again, data + 1, size - 1);
    return 0;
}

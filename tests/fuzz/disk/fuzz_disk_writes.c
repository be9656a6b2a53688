/*
 * What a peer says that a guest has written to its disks
 *
 * Each record lies within its disk, and what has been read in this way, put into a batch and encoded
 * again is the same content.  Bit 0 of the first byte: the second part of the input is a newer batch.
 * Bit 1: the input is a piece.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "disk/write_batch.h"
#include "disk/write_piece.h"

#define DISKS 3u
#define DISK_BYTES 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint64_t sizes[DISKS] = {DISK_BYTES, DISK_BYTES, 512};

typedef struct {
    uint8_t content[DISKS][DISK_BYTES];
} Image;

static void put(Image *image, const WriteRecord *record)
{
    if (record->disk >= DISKS || record->length == 0 || record->offset >= sizes[record->disk] ||
        record->length > sizes[record->disk] - record->offset)
        abort();
    if (record->data)
        memcpy(image->content[record->disk] + record->offset, record->data, record->length);
    else
        memset(image->content[record->disk] + record->offset, 0, record->length);
}

/* Into the image and the batch. */
static void take(const uint8_t *data, size_t size, Image *image, WriteBatch *batch)
{
    ByteReader reader = byte_reader_make(data, size);
    g_autoptr(GError) error = NULL;
    WriteRecord record;
    int got;

    while ((got = write_record_read(&reader, sizes, DISKS, &record, &error)) == 1) {
        put(image, &record);
        if (batch)
            write_batch_add(batch, record.disk, record.offset, record.length, record.data);
    }
    if ((got < 0) != error_is(error, VMFERRY_ERROR_INVALID))
        abort();
}

static void take_back(const WriteBatch *batch, size_t max, Image *image)
{
    WriteBatchWalk walk = write_batch_walk(batch);
    g_autoptr(GByteArray) piece = g_byte_array_new();

    for (; write_batch_encode(&walk, max, piece); g_byte_array_set_size(piece, 0)) {
        if (piece->len > max)
            abort();
        take(piece->data, piece->len, image, NULL);
    }
}

static void take_piece(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) records = g_byte_array_new();
    static Image image;

    if (!write_piece_decode(data, size, records, NULL))
        return;
    if (records->len == 0 || records->len > WRITE_PIECE_MAX_BYTES)
        abort();
    take(records->data, records->len, &image, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Image wanted, got;
    g_autoptr(WriteBatch) batch = write_batch_new(DISKS), newer = write_batch_new(DISKS);
    size_t first;

    if (size < 2)
        return 0;
    if (data[0] & 2) {
        take_piece(data + 1, size - 1);
        return 0;
    }
    first = data[0] & 1 ? (size - 2) / 2 : size - 2;
    memset(&wanted, 0x5a, sizeof wanted);
    memset(&got, 0x5a, sizeof got);
    take(data + 2, first, &wanted, batch);
    take(data + 2 + first, size - 2 - first, &wanted, newer);
    write_batch_add_all(batch, newer);
    take_back(batch, WRITE_PIECE_MIN_BYTES + (size_t)data[1] * 64, &got);
    if (memcmp(&wanted, &got, sizeof wanted) != 0)
        abort();
    return 0;
}

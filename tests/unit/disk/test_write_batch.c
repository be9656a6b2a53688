/* Batches of writes, and their records. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glib.h>
#include <string.h>

#include "base/error.h"
#include "disk/write_batch.h"
#include "disk/write_piece.h"

#define DISKS 2u
#define BYTES 65536u

static const uint64_t sizes[DISKS] = {BYTES, BYTES};

typedef struct {
    uint8_t content[DISKS][BYTES];
    uint8_t written[DISKS][BYTES];
} Model;

static void model_add(Model *model, guint disk, uint64_t offset, uint64_t length,
                      const uint8_t *data)
{
    memset(model->written[disk] + offset, 1, length);
    if (data)
        memcpy(model->content[disk] + offset, data, length);
    else
        memset(model->content[disk] + offset, 0, length);
}

static void write_at_random(GRand *random, WriteBatch *batch, Model *model)
{
    static uint8_t data[BYTES];
    guint disk = (guint)g_rand_int_range(random, 0, DISKS);
    guint length = (guint)g_rand_int_range(random, 1, 20) * 512;
    guint offset = (guint)g_rand_int_range(random, 0, (gint32)(BYTES - length) / 512 + 1) * 512;
    gboolean zeros = g_rand_int_range(random, 0, 4) == 0;

    for (guint i = 0; i < length; i++)
        data[i] = (uint8_t)g_rand_int(random);
    write_batch_add(batch, disk, offset, length, zeros ? NULL : data);
    model_add(model, disk, offset, length, zeros ? NULL : data);
}

/* Each piece by itself; returns how many there were. */
static guint apply(const WriteBatch *batch, size_t max, Model *model)
{
    WriteBatchWalk walk = write_batch_walk(batch);
    g_autoptr(GByteArray) piece = g_byte_array_new();
    guint pieces = 0;

    while (write_batch_encode(&walk, max, piece)) {
        ByteReader reader = byte_reader_make(piece->data, piece->len);
        WriteRecord record;
        int got;

        assert_true(piece->len <= max);
        while ((got = write_record_read(&reader, sizes, DISKS, &record, NULL)) == 1) {
            assert_true(record.offset % 512 == 0 && record.length % 512 == 0);
            model_add(model, record.disk, record.offset, record.length, record.data);
        }
        assert_int_equal(got, 0);
        g_byte_array_set_size(piece, 0);
        pieces++;
    }
    return pieces;
}

static void expect_same(const WriteBatch *batch, size_t max, const Model *wanted)
{
    g_autofree Model *got = g_new0(Model, 1);

    apply(batch, max, got);
    assert_memory_equal(got->written, wanted->written, sizeof got->written);
    assert_memory_equal(got->content, wanted->content, sizeof got->content);
}

static void test_later_writes_win(void **unused)
{
    for (guint seed = 0; seed < 200; seed++) {
        g_autoptr(GRand) random = g_rand_new_with_seed(seed);
        g_autoptr(WriteBatch) batch = write_batch_new(DISKS);
        g_autofree Model *model = g_new0(Model, 1);

        for (guint i = 0; i < seed; i++)
            write_at_random(random, batch, model);
        assert_int_equal(write_batch_is_empty(batch), seed == 0);
        expect_same(batch, (size_t)g_rand_int_range(random, WRITE_PIECE_MIN_BYTES, 40000), model);
    }
}

static void test_batches_are_joined(void **unused)
{
    for (guint seed = 0; seed < 100; seed++) {
        g_autoptr(GRand) random = g_rand_new_with_seed(seed);
        g_autoptr(WriteBatch) older = write_batch_new(DISKS), newer = write_batch_new(DISKS);
        g_autofree Model *model = g_new0(Model, 1);

        for (guint i = 0; i < 30; i++)
            write_at_random(random, older, model);
        for (guint i = 0; i < 30; i++)
            write_at_random(random, newer, model);
        write_batch_add_all(older, newer);
        assert_true(write_batch_is_empty(newer));
        assert_int_equal(write_batch_get_cost(newer), 0);
        expect_same(older, 1u << 20, model);
    }
}

/* What is covered costs nothing any more. */
static void test_cost(void **unused)
{
    g_autoptr(WriteBatch) batch = write_batch_new(1);
    uint8_t data[4096] = {1};
    uint64_t once;

    assert_int_equal(write_batch_get_cost(batch), 0);
    write_batch_add(batch, 0, 8192, sizeof data, data);
    once = write_batch_get_cost(batch);
    assert_true(once >= sizeof data);
    for (guint i = 0; i < 1000; i++)
        write_batch_add(batch, 0, 8192, sizeof data, data);
    assert_int_equal(write_batch_get_cost(batch), once);
    write_batch_add(batch, 0, 0, UINT64_C(1) << 40, NULL);
    assert_true(write_batch_get_cost(batch) < sizeof data);
}

/* One write is a record for each MiB, zeros one for each GiB. */
static void test_long_writes(void **unused)
{
    g_autoptr(WriteBatch) batch = write_batch_new(1);
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autofree uint8_t *data = g_malloc0(5u << 20);
    uint64_t bytes = UINT64_C(1) << 42, zeros = 0, written = 0;
    WriteBatchWalk walk = write_batch_walk(batch);
    WriteRecord record;
    ByteReader reader;

    write_batch_add(batch, 0, 0, 5u << 20, data);
    write_batch_add(batch, 0, 8u << 20, UINT64_C(5) << 30, NULL);
    assert_true(write_batch_encode(&walk, 64u << 20, out));
    assert_false(write_batch_encode(&walk, 64u << 20, out));
    reader = byte_reader_make(out->data, out->len);
    while (write_record_read(&reader, &bytes, 1, &record, NULL) == 1)
        *(record.data ? &written : &zeros) += record.length;
    assert_int_equal(written, 5u << 20);
    assert_int_equal(zeros, UINT64_C(5) << 30);
}

static void expect_refused(uint32_t kind, uint32_t disk, uint64_t offset, uint32_t length,
                           size_t data, const char *text)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    WriteRecord record;
    ByteReader reader;

    byte_write_le32(out, kind);
    byte_write_le32(out, disk);
    byte_write_le64(out, offset);
    byte_write_le32(out, length);
    g_byte_array_set_size(out, (guint)(out->len + data));
    reader = byte_reader_make(out->data, out->len);
    assert_int_equal(write_record_read(&reader, sizes, DISKS, &record, &error), -1);
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    if (!strstr(error->message, text))
        fail_msg("%s", error->message);
}

static void test_bad_records(void **unused)
{
    uint8_t half[10] = {1};
    ByteReader reader = byte_reader_make(half, sizeof half);
    WriteRecord record;

    assert_int_equal(write_record_read(&reader, sizes, DISKS, &record, NULL), -1);
    expect_refused(3, 0, 0, 512, 512, "no known kind");
    expect_refused(0, 0, 0, 512, 512, "no known kind");
    expect_refused(1, DISKS, 0, 512, 512, "of no disk");
    expect_refused(1, 0, 0, 0, 0, "empty or beyond");
    expect_refused(2, 0, BYTES - 511, 512, 0, "empty or beyond");
    expect_refused(2, 0, UINT64_MAX - 10, 512, 0, "empty or beyond");
    expect_refused(1, 0, 0, 512, 511, "cut off");
}

/* ---- pieces ---- */

static void add_records(Model *model, const GByteArray *records)
{
    ByteReader reader = byte_reader_make(records->data, records->len);
    WriteRecord record;

    while (write_record_read(&reader, sizes, DISKS, &record, NULL) == 1)
        model_add(model, record.disk, record.offset, record.length, record.data);
}

static void test_pieces(void **unused)
{
    for (guint seed = 0; seed < 20; seed++) {
        g_autoptr(GRand) random = g_rand_new_with_seed(seed);
        g_autoptr(WriteBatch) batch = write_batch_new(DISKS);
        g_autoptr(GByteArray) piece = g_byte_array_new(), records = g_byte_array_new();
        g_autofree Model *model = g_new0(Model, 1), *got = g_new0(Model, 1);
        WriteBatchWalk walk = write_batch_walk(batch);

        for (guint i = 0; i < 30; i++)
            write_at_random(random, batch, model);
        while (write_piece_encode(&walk, seed % 2, piece)) {
            assert_true(piece->len <= WRITE_PIECE_HEAD_BYTES + WRITE_PIECE_MAX_BYTES);
            assert_true(write_piece_decode(piece->data, piece->len, records, NULL));
            add_records(got, records);
        }
        assert_memory_equal(got, model, sizeof *got);
    }
}

/* Some blocks are left out, and all else is there; nothing that is there is left out. */
static void test_blocks_are_left_out(void **unused)
{
    for (guint seed = 0; seed < 40; seed++) {
        g_autoptr(GRand) random = g_rand_new_with_seed(seed);
        g_autoptr(WriteBatch) batch = write_batch_new(DISKS);
        g_autoptr(GArray) blocks = g_array_new(FALSE, FALSE, sizeof(WriteBlock));
        g_autoptr(GArray) some = g_array_new(FALSE, FALSE, sizeof(WriteBlock));
        g_autoptr(GByteArray) piece = g_byte_array_new();
        g_autofree Model *model = g_new0(Model, 1), *got = g_new0(Model, 1);
        WriteBatchWalk walk;

        for (guint i = 0; i < 30; i++)
            write_at_random(random, batch, model);
        write_batch_list_blocks(batch, blocks);
        for (guint i = 0; i < blocks->len; i++)
            if (g_rand_boolean(random))
                g_array_append_val(some, g_array_index(blocks, WriteBlock, i));
        walk = write_batch_walk_without(batch, some);
        for (; write_batch_encode(&walk, 5000, piece); g_byte_array_set_size(piece, 0))
            add_records(got, piece);
        for (guint i = 0; i < some->len; i++) {
            const WriteBlock *block = &g_array_index(some, WriteBlock, i);

            /* Nobody has sent it. */
            assert_int_equal(got->written[block->disk][block->offset], 0);
            model_add(got, block->disk, block->offset, WRITE_BLOCK_BYTES, block->data);
        }
        assert_memory_equal(got, model, sizeof *got);
    }
}

static void test_pieces_are_packed(void **unused)
{
    g_autoptr(WriteBatch) batch = write_batch_new(1);
    g_autoptr(GByteArray) piece = g_byte_array_new(), records = g_byte_array_new();
    g_autofree uint8_t *data = g_malloc0(600000);
    WriteBatchWalk walk = write_batch_walk(batch);
    guint pieces = 0;

    write_batch_add(batch, 0, 0, 600000, data);
    for (; write_piece_encode(&walk, TRUE, piece); pieces++) {
        assert_true(piece->len < 5000);
        assert_true(write_piece_decode(piece->data, piece->len, records, NULL));
        assert_true(records->len > 70000);
    }
    assert_int_equal(pieces, 3);
}

static void expect_bad_piece(uint32_t packing, uint32_t bytes, guint length)
{
    g_autoptr(GByteArray) piece = g_byte_array_new(), records = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    byte_write_le32(piece, packing);
    byte_write_le32(piece, bytes);
    g_byte_array_set_size(piece, WRITE_PIECE_HEAD_BYTES + length);
    memset(piece->data + WRITE_PIECE_HEAD_BYTES, 0xff, length);
    assert_false(write_piece_decode(piece->data, piece->len, records, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

static void test_bad_pieces(void **unused)
{
    g_autoptr(GByteArray) records = g_byte_array_new();

    assert_false(write_piece_decode("short", 5, records, NULL));
    expect_bad_piece(0, 0, 0);
    expect_bad_piece(0, 10, 9);
    expect_bad_piece(0, 9, 10);
    expect_bad_piece(1, 1000, 10);
    expect_bad_piece(1, WRITE_PIECE_MAX_BYTES + 1, 10);
    expect_bad_piece(2, 10, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_later_writes_win),
        cmocka_unit_test(test_batches_are_joined),
        cmocka_unit_test(test_cost),
        cmocka_unit_test(test_long_writes),
        cmocka_unit_test(test_bad_records),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_blocks_are_left_out),
        cmocka_unit_test(test_pieces_are_packed),
        cmocka_unit_test(test_bad_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

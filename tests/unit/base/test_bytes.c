#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/bytes.h"

static void test_varint_round_trip(void **state)
{
    for (guint shift = 0; shift < 64; shift++) {
        for (int step = -1; step <= 1; step++) {
            g_autoptr(GByteArray) out = g_byte_array_new();
            uint64_t value = (UINT64_C(1) << shift) + (uint64_t)(int64_t)step;
            ByteReader reader;

            byte_write_varint(out, value);
            assert_int_equal(out->len, byte_varint_bytes(value));
            reader = byte_reader_make(out->data, out->len);
            assert_true(byte_read_varint(&reader) == value);
            assert_true(byte_reader_ok(&reader));
            assert_int_equal(reader.left, 0);
            /* One byte less is cut short. */
            reader = byte_reader_make(out->data, out->len - 1);
            assert_int_equal(byte_read_varint(&reader), 0);
            assert_false(byte_reader_ok(&reader));
        }
    }
}

static void test_varint_sizes(void **state)
{
    assert_int_equal(byte_varint_bytes(0), 1);
    assert_int_equal(byte_varint_bytes(127), 1);
    assert_int_equal(byte_varint_bytes(128), 2);
    assert_int_equal(byte_varint_bytes(16383), 2);
    assert_int_equal(byte_varint_bytes(UINT64_MAX), BYTE_VARINT_MAX);
}

static void refuse(const uint8_t *raw, size_t length)
{
    ByteReader reader = byte_reader_make(raw, length);

    assert_int_equal(byte_read_varint(&reader), 0);
    assert_false(byte_reader_ok(&reader));
}

static void test_varint_refusals(void **state)
{
    static const uint8_t empty_end[] = {0x80, 0x00}, longer[] = {0xff, 0x80, 0x00};
    static const uint8_t bit_65[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02};
    static const uint8_t eleven[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                     0xff, 0xff, 0xff, 0x81, 0x01};

    refuse(empty_end, sizeof empty_end);
    refuse(longer, sizeof longer);
    refuse(bit_65, sizeof bit_65);
    refuse(eleven, sizeof eleven);
    refuse(NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_varint_round_trip),
        cmocka_unit_test(test_varint_sizes),
        cmocka_unit_test(test_varint_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

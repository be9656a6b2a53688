/* EPOCH_EVENTS */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/error.h"
#include "wire/event_frame.h"

static const uint64_t sizes[] = {1u << 20, 40960}, pages[] = {1000};

static int read_one(const GByteArray *payload, WriteEvent *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload->data, payload->len);

    return event_frame_read(&reader, sizes, G_N_ELEMENTS(sizes), pages, G_N_ELEMENTS(pages), ret,
                            error);
}

static void test_there_and_back(void **state)
{
    static const uint8_t golden[] = {1, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0,
                                     7, 1, 0, 0, 0, 0, 0, 0, 8, 0,    0, 0, 0, 0, 0, 0};
    g_autoptr(GByteArray) payload = g_byte_array_new();
    WriteEvent event = {1, 0, 8192, 263, 8}, back;
    ByteReader reader;

    event_frame_append(payload, &event);
    assert_int_equal(payload->len, FRAME_EPOCH_EVENT_BYTES);
    assert_memory_equal(payload->data, golden, sizeof golden);
    reader = byte_reader_make(payload->data, payload->len);
    assert_int_equal(event_frame_read(&reader, sizes, 2, pages, 1, &back, NULL), 1);
    assert_true(back.disk == 1 && back.region == 0 && back.offset == 8192 && back.page == 263 &&
                back.pages == 8);
    assert_int_equal(event_frame_read(&reader, sizes, 2, pages, 1, &back, NULL), 0);
}

static void test_refused(void **state)
{
    static const WriteEvent bad[] = {
        {2, 0, 0, 0, 1},          {0, 1, 0, 0, 1},
        {0, 0, 512, 0, 1},        {0, 0, 0, 0, 0},
        {0, 0, 0, 0, 257},        {0, 0, 1u << 20, 0, 1},
        {1, 0, 36864, 0, 2},      {0, 0, 0, 1000, 1},
        {0, 0, 0, 999, 2},        {0, 0, UINT64_MAX - 4095, 0, 2},
        {0, 0, 0, UINT64_MAX, 2},
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) payload = g_byte_array_new();
        g_autoptr(GError) error = NULL;
        WriteEvent back;

        event_frame_append(payload, &bad[i]);
        if (read_one(payload, &back, &error) != -1 || !error_is(error, VMFERRY_ERROR_INVALID))
            fail_msg("event %u was taken", i);
    }
}

static void test_cut_off(void **state)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    WriteEvent event = {0, 0, 0, 0, 1}, back;

    event_frame_append(payload, &event);
    g_byte_array_set_size(payload, FRAME_EPOCH_EVENT_BYTES - 1);
    assert_int_equal(read_one(payload, &back, NULL), -1);
    g_byte_array_set_size(payload, FRAME_EPOCH_EVENT_BYTES);
    payload->data[FRAME_EPOCH_EVENT_BYTES - 1] = 1;
    assert_int_equal(read_one(payload, &back, NULL), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cut_off),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

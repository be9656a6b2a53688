#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/error.h"
#include "state/qemu_stream.h"

/* A stream with one section, "timer", as QEMU 7.2 writes it. */
static GByteArray *saved_stream(void)
{
    GByteArray *out = g_byte_array_new();

    byte_write_be32(out, 0x5145564d);
    byte_write_be32(out, 3);
    byte_write_u8(out, 4);
    byte_write_be32(out, 0);
    byte_write_u8(out, 5);
    byte_write_span(out, "timer", 5);
    byte_write_be32(out, 0);
    byte_write_be32(out, 2);
    byte_write_span(out, "12345678", 8);
    byte_write_u8(out, 0x7e);
    byte_write_be32(out, 0);
    byte_write_u8(out, 0);
    return out;
}

static void expect_refused(const void *data, size_t length, const char *text)
{
    g_autoptr(GError) error = NULL;

    assert_false(qemu_stream_check_saved(data, length, &error));
    assert_non_null(error);
    if (!strstr(error->message, text))
        fail_msg("\"%s\" does not hold \"%s\"", error->message, text);
}

static void test_builds_what_migrate_incoming_takes(void **unused)
{
    g_autoptr(GByteArray) saved = saved_stream();
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) built =
        qemu_stream_build_incoming(saved->data, saved->len, "pc-i440fx-7.2", &error);
    static const uint8_t head[] = "QEVM\0\0\0\3\7\0\0\0\15pc-i440fx-7.2\4";
    static const uint8_t tail[] = "\0\6\0\0\0\2{}";
    const uint8_t *data;
    gsize length;

    assert_non_null(built);
    data = g_bytes_get_data(built, &length);
    assert_int_equal(length, saved->len + 5 + 13 + 5 + 2);
    assert_memory_equal(data, head, sizeof head - 1);
    assert_memory_equal(data + length - (sizeof tail - 1), tail, sizeof tail - 1);
    assert_memory_equal(data + 26, saved->data + 8, saved->len - 8);
}

static void test_built_stream_names_its_machine(void **unused)
{
    g_autoptr(GByteArray) saved = saved_stream();
    g_autoptr(GBytes) built = qemu_stream_build_incoming(saved->data, saved->len, "microvm", NULL);
    gsize length;
    gconstpointer data = g_bytes_get_data(built, &length);
    g_autofree char *machine = qemu_stream_check_incoming(data, length, NULL);

    assert_string_equal(machine, "microvm");
    for (gsize cut = 0; cut < length; cut++)
        assert_null(qemu_stream_check_incoming(data, cut, NULL));
}

static void test_refuses_foreign_streams(void **unused)
{
    g_autoptr(GByteArray) saved = saved_stream();

    expect_refused("", 0, "ends within its head");
    expect_refused("QEVM\0\0\0", 7, "ends within its head");
    expect_refused("\177ELF\2\1\1\0", 8, "instead of \"QEVM\"");
    expect_refused(saved->data, 8, "section of type 0");
    expect_refused(saved->data, 15, "within its first section");
    expect_refused(saved->data, saved->len - 6, "its end mark is missing");
    saved->data[7] = 4;
    expect_refused(saved->data, saved->len, "version 4");
    saved->data[7] = 3;
    saved->data[8] = 1;
    expect_refused(saved->data, saved->len, "section of type 1");
}

static void test_refuses_too_large_streams(void **unused)
{
    g_autoptr(GByteArray) saved = saved_stream();
    guint small = saved->len;

    g_byte_array_set_size(saved, QEMU_STREAM_MAX_BYTES + 1);
    memset(saved->data + small, 0, saved->len - small);
    expect_refused(saved->data, saved->len, "over the limit");
}

static void test_refuses_odd_machine_names(void **unused)
{
    g_autoptr(GByteArray) saved = saved_stream();
    g_autofree char *longest = g_strnfill(256, 'm');
    const char *names[] = {"", "pc i440fx", "pc\n", longest};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(qemu_stream_build_incoming(saved->data, saved->len, names[i], &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_builds_what_migrate_incoming_takes),
        cmocka_unit_test(test_built_stream_names_its_machine),
        cmocka_unit_test(test_refuses_foreign_streams),
        cmocka_unit_test(test_refuses_too_large_streams),
        cmocka_unit_test(test_refuses_odd_machine_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

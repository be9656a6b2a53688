#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/page.h"
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

static void test_end_is_made_of_what_was_saved(void **unused)
{
    g_autoptr(GByteArray) saved = saved_stream();
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) built = qemu_stream_build_end(saved->data, saved->len, &error);
    static const uint8_t tail[] = "\0\6\0\0\0\2{}";
    const uint8_t *data;
    gsize length;

    assert_non_null(built);
    data = g_bytes_get_data(built, &length);
    assert_int_equal(length, saved->len - 8 + 5 + 2);
    assert_memory_equal(data, saved->data + 8, saved->len - 8);
    assert_memory_equal(data + length - (sizeof tail - 1), tail, sizeof tail - 1);
    assert_null(qemu_stream_build_end(saved->data, saved->len - 6, &error));
}

#define PAGE PAGE_BYTES

/* Two blocks, by hand: "pc.ram" of 0x10000 bytes and "b" of a page. */
static const uint8_t head_by_hand[] = "QEVM\0\0\0\3\7\0\0\0\7microvm";
static const uint8_t list_by_hand[] = "\1\x40\0\0\0\3ram\0\0\0\0\0\0\0\4"
                                      "\0\0\0\0\0\1\x10\4"
                                      "\6pc.ram\0\0\0\0\0\1\0\0"
                                      "\1b\0\0\0\0\0\0\x10\0";
static const uint8_t page_1_by_hand[] = "\0\0\0\0\0\0\0\x08\6pc.ram";
static const uint8_t page_2_by_hand[] = "\0\0\0\0\0\0\0\x08\1b";
static const uint8_t end_by_hand[] = "\0\0\0\0\0\0\0\x10";
static const uint8_t footer_by_hand[] = "\x7e\x40\0\0\0";

#define ADD(out, bytes) byte_write_span(out, bytes, sizeof bytes - 1)

static void make_blocks(QemuStreamBlock blocks[2], uint8_t pages[2][PAGE])
{
    memset(pages[0], 'x', PAGE);
    memset(pages[1], 'y', PAGE);
    blocks[0] = (QemuStreamBlock){"pc.ram", 0x10000, pages[0]};
    blocks[1] = (QemuStreamBlock){"b", PAGE, pages[1]};
}

static void expect_begin(const char *machine, GByteArray *head, gboolean footer)
{
    g_autoptr(GByteArray) wanted = head;
    uint8_t pages[2][PAGE];
    QemuStreamBlock blocks[2];
    g_autoptr(GBytes) built = NULL;

    make_blocks(blocks, pages);
    ADD(wanted, list_by_hand);
    ADD(wanted, page_1_by_hand);
    byte_write_span(wanted, pages[0], PAGE);
    ADD(wanted, page_2_by_hand);
    byte_write_span(wanted, pages[1], PAGE);
    ADD(wanted, end_by_hand);
    if (footer)
        ADD(wanted, footer_by_hand);
    built = qemu_stream_build_begin(machine, blocks, 2, NULL);
    assert_non_null(built);
    assert_int_equal(g_bytes_get_size(built), wanted->len);
    assert_memory_equal(g_bytes_get_data(built, NULL), wanted->data, wanted->len);
}

static void test_begin_is_what_was_made_by_hand(void **unused)
{
    GByteArray *head = g_byte_array_new();

    ADD(head, head_by_hand);
    expect_begin("microvm", head, TRUE);
}

/* QEMU reads neither configuration nor footers of these. */
static void test_begin_of_old_machine_types(void **unused)
{
    static const struct {
        const char *machine;
        gboolean old;
    } machines[] = {
        {"pc-i440fx-2.3", TRUE},  {"pc-i440fx-1.7", TRUE},     {"pc-q35-2.0", TRUE},
        {"pc-i440fx-2.4", FALSE}, {"pc-i440fx-2.12", FALSE},   {"pc-q35-10.0", FALSE},
        {"pc-2", FALSE},          {"pc-i440fx-2.3rc", FALSE},  {"pc-q35-4.0.1", FALSE},
        {"isapc", FALSE},         {"pc-q35-rhel7.2.0", FALSE},
    };

    for (guint i = 0; i < G_N_ELEMENTS(machines); i++) {
        const char *name = machines[i].machine;
        GByteArray *head = g_byte_array_new();

        ADD(head, "QEVM\0\0\0\3");
        if (!machines[i].old) {
            byte_write_u8(head, 7);
            byte_write_be32(head, (uint32_t)strlen(name));
            byte_write_span(head, name, strlen(name));
        }
        expect_begin(name, head, !machines[i].old);
    }
}

static void expect_begin_refused(const QemuStreamBlock *blocks, guint count, const char *text)
{
    g_autoptr(GError) error = NULL;

    assert_null(qemu_stream_build_begin("microvm", blocks, count, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    if (!strstr(error->message, text))
        fail_msg("\"%s\" does not hold \"%s\"", error->message, text);
}

static void test_begin_refuses_odd_blocks(void **unused)
{
    g_autofree char *longest = g_strnfill(256, 'n');
    g_autofree QemuStreamBlock *many = g_new0(QemuStreamBlock, QEMU_STREAM_MAX_BLOCKS + 1);
    uint8_t pages[2][PAGE];
    QemuStreamBlock blocks[2];
    const uint64_t lengths[] = {0, 1, PAGE + 1, (1ull << 46) + PAGE, 0 - (uint64_t)PAGE};

    make_blocks(blocks, pages);
    expect_begin_refused(blocks, 0, "0 RAM blocks");
    for (guint i = 0; i <= QEMU_STREAM_MAX_BLOCKS; i++)
        many[i] = blocks[0];
    expect_begin_refused(many, QEMU_STREAM_MAX_BLOCKS + 1, "257 RAM blocks");
    for (guint i = 0; i < G_N_ELEMENTS(lengths); i++) {
        blocks[1].bytes = lengths[i];
        expect_begin_refused(blocks, 2, "RAM block \"b\"");
    }
    blocks[1] = (QemuStreamBlock){"", PAGE, pages[1]};
    expect_begin_refused(blocks, 2, "RAM block \"\"");
    blocks[1].name = longest;
    expect_begin_refused(blocks, 2, "RAM block \"nnn");
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
    uint8_t pages[2][PAGE];
    QemuStreamBlock blocks[2];
    g_autofree char *longest = g_strnfill(256, 'm');
    const char *names[] = {"", "pc i440fx", "pc\n", longest};

    make_blocks(blocks, pages);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(qemu_stream_build_begin(names[i], blocks, 2, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_end_is_made_of_what_was_saved),
        cmocka_unit_test(test_begin_is_what_was_made_by_hand),
        cmocka_unit_test(test_begin_of_old_machine_types),
        cmocka_unit_test(test_begin_refuses_odd_blocks),
        cmocka_unit_test(test_refuses_foreign_streams),
        cmocka_unit_test(test_refuses_too_large_streams),
        cmocka_unit_test(test_refuses_odd_machine_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

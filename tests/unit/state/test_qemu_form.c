#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/error.h"
#include "golden_state.h"
#include "state/qemu_form.h"

static QemuForm *read_form(GBytes *stream)
{
    g_autoptr(GError) error = NULL;
    QemuForm *form =
        qemu_form_read(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), &error);

    if (!form)
        fail_msg("%s", error->message);
    return form;
}

static void test_written_again_it_is_the_same(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(golden_names); i++) {
        g_autoptr(GBytes) stream = golden_stream(golden_names[i]);
        g_autoptr(QemuForm) form = read_form(stream);
        g_autoptr(GBytes) again = qemu_form_write(form);

        assert_true(g_bytes_equal(stream, again));
        for (guint j = 0; j < form->sections->len; j++) {
            const QemuSection *section = form->sections->pdata[j];

            assert_true(section->record || strcmp(section->name, "slirp") == 0);
        }
    }
}

static void test_fields_by_their_paths(void **unused)
{
    g_autoptr(GBytes) stream = golden_stream("pc-linux-7.2");
    g_autoptr(QemuForm) form = read_form(stream);
    QemuRecord *cpu = qemu_form_find(form, "cpu", 1)->record;
    QemuRecord *e1000 = qemu_form_find(form, "e1000", 0)->record;
    uint64_t value;
    size_t length;

    assert_true(qemu_get_number(cpu, "env.segs[1]|selector", &value) && value == 0x10);
    assert_true(qemu_get_number(cpu, "env.efer", &value) && value == 0xd01);
    assert_true(qemu_get_number(e1000, "parent_obj|version_id", &value));
    assert_memory_equal(qemu_get_bytes(e1000, "parent_obj|config[0]", &length), "\x86\x80\x0e\x10",
                        4);
    assert_int_equal(length, 256);
    assert_int_equal(qemu_count(e1000, "e1000/full_mac_state|mac_reg"), 32768);
    assert_true(qemu_get_number(e1000, "e1000/full_mac_state|mac_reg[32767]", &value));
    assert_false(qemu_get_number(e1000, "e1000/full_mac_state|mac_reg[32768]", &value));
    assert_false(qemu_get_number(e1000, "no|such", &value));
    assert_false(qemu_get_number(cpu, "env.regs", &value));
}

static void test_subsections_are_added_when_needed(void **unused)
{
    static const char path[] = "cpu/msr_tsc_adjust|env.tsc_adjust";
    g_autoptr(GBytes) stream = golden_stream("pc-linux-7.2"), written = NULL;
    g_autoptr(QemuForm) form = read_form(stream), again = NULL;
    QemuRecord *cpu = qemu_form_find(form, "cpu", 0)->record;
    uint64_t value = 0;

    assert_true(qemu_set_number(cpu, path, 0));
    assert_null(qemu_get_record(cpu, "cpu/msr_tsc_adjust"));
    assert_true(qemu_set_number(cpu, path, 7));
    written = qemu_form_write(form);
    assert_int_equal(g_bytes_get_size(written),
                     g_bytes_get_size(stream) + 2 + strlen("cpu/msr_tsc_adjust") + 4 + 8);
    again = read_form(written);
    cpu = qemu_form_find(again, "cpu", 0)->record;
    assert_true(qemu_get_number(cpu, path, &value) && value == 7);
}

static void test_numbers_have_their_widths(void **unused)
{
    g_autoptr(GBytes) stream = golden_stream("pc-linux-7.2");
    g_autoptr(QemuForm) form = read_form(stream);
    QemuRecord *pic = qemu_form_find(form, "i8259", 1)->record;
    uint64_t value = 0;

    assert_true(qemu_set_number(pic, "imr", 0xff));
    assert_false(qemu_set_number(pic, "imr", 0x100));
    assert_true(qemu_get_number(pic, "imr", &value) && value == 0xff);
}

/* ---- sections that are not known ---- */

static void add_section(GByteArray *out, uint32_t id, const char *name, const void *content,
                        size_t length)
{
    byte_write_u8(out, 4);
    byte_write_be32(out, id);
    byte_write_u8(out, (uint8_t)strlen(name));
    byte_write_span(out, name, strlen(name));
    byte_write_be32(out, 0);
    byte_write_be32(out, 1);
    byte_write_span(out, content, length);
    byte_write_u8(out, 0x7e);
    byte_write_be32(out, id);
}

static GByteArray *stream_begin(void)
{
    GByteArray *out = g_byte_array_new();

    byte_write_be32(out, 0x5145564d);
    byte_write_be32(out, 3);
    return out;
}

static void test_unknown_sections_are_carried(void **unused)
{
    g_autoptr(GByteArray) out = stream_begin();
    g_autoptr(GBytes) stream = NULL, again = NULL;
    g_autoptr(QemuForm) form = NULL;
    const QemuSection *section;

    /* A footer of its own in the content, with nothing behind that could be read. */
    add_section(out, 7, "rocket", "abc\x7e\0\0\0\7xyz", 11);
    add_section(out, 8, "port92", "\2", 1);
    byte_write_u8(out, 0);
    stream = g_bytes_new(out->data, out->len);
    form = read_form(stream);
    assert_int_equal(form->sections->len, 2);
    section = form->sections->pdata[0];
    assert_null(section->record);
    assert_int_equal(g_bytes_get_size(section->opaque), 11);
    assert_non_null(((const QemuSection *)form->sections->pdata[1])->record);
    again = qemu_form_write(form);
    assert_true(g_bytes_equal(stream, again));
}

/* A guest that puts a whole end into a device's memory does not choose what is read. */
static void test_two_ends_are_refused(void **unused)
{
    g_autoptr(GByteArray) out = stream_begin(), content = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    byte_write_u8(content, 0x7e);
    byte_write_be32(content, 7);
    add_section(content, 9, "forged", "", 0);
    add_section(content, 7, "forged", "", 0);
    content->len -= 5;
    add_section(out, 7, "rocket", content->data, content->len);
    byte_write_u8(out, 0);
    assert_null(qemu_form_read(out->data, out->len, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_non_null(strstr(error->message, "\"rocket\""));
}

static void test_cut_streams_are_refused(void **unused)
{
    g_autoptr(GBytes) stream = golden_stream("microvm-7.2");
    gsize length;
    const guint8 *data = g_bytes_get_data(stream, &length);

    for (gsize cut = 0; cut < length; cut += 13)
        assert_null(qemu_form_read(data, cut, NULL));
}

/* Another version of a known section is not what the table says. */
static void test_versions_count(void **unused)
{
    g_autoptr(GByteArray) out = stream_begin();
    g_autoptr(QemuForm) form = NULL;
    const QemuSection *section;

    add_section(out, 1, "port92", "\2", 1);
    byte_write_u8(out, 0);
    /* Its version: the last of four bytes before its one byte of content. */
    out->data[out->len - 1 - 5 - 1 - 1] = 2;
    form = qemu_form_read(out->data, out->len, NULL);
    assert_non_null(form);
    section = form->sections->pdata[0];
    assert_int_equal(section->version, 2);
    assert_null(section->record);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_again_it_is_the_same),
        cmocka_unit_test(test_fields_by_their_paths),
        cmocka_unit_test(test_subsections_are_added_when_needed),
        cmocka_unit_test(test_numbers_have_their_widths),
        cmocka_unit_test(test_unknown_sections_are_carried),
        cmocka_unit_test(test_two_ends_are_refused),
        cmocka_unit_test(test_cut_streams_are_refused),
        cmocka_unit_test(test_versions_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

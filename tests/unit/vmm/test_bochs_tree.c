/* Bochs's trees: recorded ones, and what is not one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/bochs/parameters.h"
#include "vmm/bochs/tree.h"

static BochsNode *parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    BochsNode *node = bochs_tree_parse(text, strlen(text), &error);

    assert_null(error);
    assert_non_null(node);
    return node;
}

static BochsNode *read_recorded(const char *name)
{
    g_autofree char *path = g_build_filename(RECORDED, name, NULL);
    g_autofree char *text = file_read(path, 1u << 20, NULL, NULL);
    g_autoptr(GError) error = NULL;
    BochsNode *node;

    assert_non_null(text);
    node = bochs_show_parse(text, name, &error);
    assert_null(error);
    assert_string_equal(node->name, name);
    return node;
}

static uint64_t get(const BochsNode *root, const char *path)
{
    g_autoptr(GError) error = NULL;
    uint64_t value = 0;

    assert_true(bochs_tree_get(root, path, &value, &error));
    return value;
}

static void test_recorded(void **unused)
{
    g_autoptr(BochsNode) cpu = read_recorded("cpu0");
    g_autoptr(BochsNode) pit = read_recorded("pit");
    g_autoptr(BochsNode) cmos = read_recorded("cmos");
    g_autoptr(BochsNode) hpet = read_recorded("hpet");
    g_autoptr(BochsNode) bridge = read_recorded("pci2isa");

    assert_int_equal(get(cpu, "RIP"), 0xfff0);
    assert_int_equal(get(cpu, "CS.base"), 0xffff0000);
    assert_int_equal(get(cpu, "CS.p"), 1);
    assert_int_equal(get(cpu, "MSR.pat"), 0x7040600070406);
    assert_int_equal(get(cpu, "local_apic.mode"), 2);
    assert_int_equal(get(pit, "counter.2.mode"), 4);
    assert_int_equal(bochs_tree_find(pit, "counter")->children->len, 3);
    assert_int_equal(bochs_tree_find(cmos, "ram")->kind, BOCHS_NODE_BINARY);
    assert_int_equal(get(cmos, "ram"), 128);
    assert_true(get(hpet, "timer1.period") == G_MAXUINT64);
    assert_int_equal(get(bridge, "irq_level.3_15"), 0);
    assert_ptr_equal(bochs_tree_find(bridge, ""), bridge);
}

/* What is shown is written so that it shows the same. */
static void test_round_trip(void **unused)
{
    static const char *const names[] = {"acpi", "cpu0", "hard_drive", "hpet",    "keyboard",
                                        "pic",  "pit",  "pc_system",  "pci2isa", "serial"};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(BochsNode) first = read_recorded(names[i]);
        g_autofree char *written = bochs_tree_format(first);
        g_autoptr(BochsNode) second = parse(written);
        g_autofree char *again = bochs_tree_format(second);

        assert_string_equal(written, again);
        assert_true(bochs_tree_check_known(second, first, NULL));
    }
}

static void test_values(void **unused)
{
    g_autoptr(BochsNode) root =
        parse("a = {\n  hex = 0xffffffffffffffff\n  minus = -1\n"
              "  least = -9223372036854775808\n  yes = true\n"
              "  0x1f = 18446744073709551615\n  large = 0x10000000000000000\n"
              "  text = (unknown parameter type)\n  odd = 'binary data'\n}\n");

    assert_true(get(root, "hex") == G_MAXUINT64);
    assert_true(get(root, "minus") == G_MAXUINT64);
    assert_true(bochs_tree_find(root, "minus")->negative);
    assert_true(get(root, "least") == (uint64_t)1 << 63);
    assert_int_equal(get(root, "yes"), 1);
    assert_true(get(root, "0x1f") == G_MAXUINT64);
    assert_int_equal(bochs_tree_find(root, "large")->kind, BOCHS_NODE_TEXT);
    assert_int_equal(bochs_tree_find(root, "odd")->kind, BOCHS_NODE_TEXT);
    assert_string_equal(bochs_tree_find(root, "text")->text, "(unknown parameter type)");
    assert_null(bochs_tree_find(root, "hex.none"));
    assert_null(bochs_tree_find(root, "he"));
    assert_null(bochs_tree_find(root, "."));
}

static void test_single_parameter(void **unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BochsNode) node =
        bochs_show_parse("show param name: <cpu0.RIP>\nRIP = 0xfff0\n", "cpu0.RIP", &error);

    assert_null(error);
    assert_int_equal(get(node, ""), 0xfff0);
    assert_null(
        bochs_show_parse("show param name: <no>\ncan't find param <no> in global or default "
                         "CPU tree\n",
                         "no", &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
}

static void expect_refused(const char *text, const char *wanted)
{
    g_autoptr(GError) error = NULL;

    assert_null(bochs_tree_parse(text, strlen(text), &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_string_equal(error->message, wanted);
}

static void test_refused(void **unused)
{
    g_autofree char *long_line = g_strnfill(BOCHS_TREE_MAX_TEXT + 1, 'x');
    g_autoptr(GString) deep = g_string_new(NULL);

    expect_refused("", "Bochs's state, line 0: it ends within the tree");
    expect_refused("a = {\n", "Bochs's state, line 1: it ends within the tree");
    expect_refused("}\n", "Bochs's state, line 1: not \"NAME = VALUE\"");
    expect_refused("a = {\n}\n}\n", "Bochs's state, line 3: behind the end of the tree");
    expect_refused("a = {\n  b=1\n}\n", "Bochs's state, line 2: not \"NAME = VALUE\"");
    expect_refused("a = {\n  \001 = 1\n}\n", "Bochs's state, line 2: not a text");
    expect_refused(long_line, "Bochs's state, line 1: too long");
    for (guint i = 0; i <= BOCHS_TREE_MAX_DEPTH; i++)
        g_string_append(deep, "a = {\n");
    expect_refused(deep->str, "Bochs's state, line 17: nested too deeply");
    assert_null(bochs_tree_parse("a = \0\n", 6, NULL));
}

static void test_too_many(void **unused)
{
    g_autoptr(GString) text = g_string_new("a = {\n");

    for (guint i = 0; i < BOCHS_TREE_MAX_NODES; i++)
        g_string_append(text, "b = 1\n");
    g_string_append(text, "}\n");
    expect_refused(text->str, "Bochs's state, line 65537: too many parameters");
}

static void test_set(void **unused)
{
    g_autoptr(BochsNode) root = bochs_tree_new("cpu0");
    g_autofree char *text = NULL;

    bochs_tree_set(root, "RIP", BOCHS_NODE_HEX, 0x7c00);
    bochs_tree_set(root, "CS.base", BOCHS_NODE_HEX, 1);
    bochs_tree_set(root, "CS.p", BOCHS_NODE_BOOLEAN, 5);
    bochs_tree_set(root, "CS.base", BOCHS_NODE_DECIMAL, 16);
    bochs_tree_set_text(root, "ram", "memory.ram");
    text = bochs_tree_format(root);
    assert_string_equal(text,
                        "cpu0 = {\n  RIP = 0x7c00\n  CS = {\n    base = 16\n    p = true\n  }\n"
                        "  ram = memory.ram\n}\n");
}

static void expect_unknown(const char *path, BochsNodeKind kind, const char *wanted)
{
    g_autoptr(BochsNode) cpu = read_recorded("cpu0");
    g_autoptr(BochsNode) root = bochs_tree_new("cpu0");
    g_autoptr(GError) error = NULL;

    bochs_tree_set(root, path, kind, 1);
    assert_false(bochs_tree_check_known(root, cpu, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_string_equal(error->message, wanted);
}

static void test_known(void **unused)
{
    g_autoptr(BochsNode) cpu = read_recorded("cpu0");
    g_autoptr(BochsNode) root = bochs_tree_new("cpu0");

    bochs_tree_set(root, "icount", BOCHS_NODE_HEX, 7); /* it is shown as a decimal number */
    bochs_tree_set(root, "MSR.EFER", BOCHS_NODE_HEX, 0);
    assert_true(bochs_tree_check_known(root, cpu, NULL));
    expect_unknown("MSR.nothing", BOCHS_NODE_HEX, "this Bochs has no MSR.nothing");
    expect_unknown("CS.p", BOCHS_NODE_HEX, "Bochs's p is not of that kind");
    expect_unknown("CS", BOCHS_NODE_HEX, "Bochs's CS is not of that kind");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_values),   cmocka_unit_test(test_single_parameter),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_set),      cmocka_unit_test(test_known),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

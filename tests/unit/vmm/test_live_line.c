/* Machines as real QEMUs told them (shapes/), and the command lines that make them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/live_line.h"
#include "vmm/qemu/new_macs.h"
#include "vmm/qemu/machine_compare.h"

static const char *const shapes[] = {
    "plain-7.2",    "plain-10.0",    "q35-7.2",      "q35-10.0",     "libvirt-7.2",
    "libvirt-10.0", "proxmox-7.2",   "proxmox-10.0", "incus-7.2",    "incus-10.0",
    "quickemu-7.2", "quickemu-10.0", "microvm-7.2",  "microvm-10.0",
};

static char *shape_path(const char *name, const char *ending)
{
    return g_strdup_printf("%s/%s%s", SHAPES, name, ending);
}

static char **read_words(const char *name, const char *ending)
{
    g_autofree char *path = shape_path(name, ending), *text = NULL;
    char **words;

    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    words = g_strsplit(g_strchomp(text), "\n", -1);
    return words;
}

static json_t *read_machine(const char *name, const char *ending)
{
    g_autofree char *path = shape_path(name, ending);
    json_t *object = json_load_file(path, 0, NULL);

    assert_non_null(object);
    return object;
}

static json_t *read_settings(const char *path, const char *type, gpointer user, GError **error)
{
    json_t *settings = json_object_get(json_object_get(user, "settings"), path);

    if (!settings)
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "no settings of %s", path);
    return json_deep_copy(settings);
}

/* What the files of -readconfig make in two of the shapes. */
static GHashTable *configured_devices(void)
{
    static const char *const ids[] = {"uhci", "qemu_pcie0", "qemu_scsi", "qemu_pcie1"};
    GHashTable *set = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < G_N_ELEMENTS(ids); i++)
        g_hash_table_add(set, (gpointer)ids[i]);
    return set;
}

static char **make_line(char **words, char **original, json_t *object, GError **error)
{
    g_autoptr(QemuMachine) machine = qemu_machine_parse(object, error);
    g_autoptr(GHashTable) configured = configured_devices();
    g_auto(GStrv) clean = qemu_command_line_clean(words);
    QemuLiveLine job = {.arguments = clean,
                        .original = original,
                        .machine = machine,
                        .machine_type = json_text_or(object, "type", ""),
                        .configured = configured,
                        .read_settings = read_settings,
                        .user = object};

    return machine ? qemu_live_line(&job, error) : NULL;
}

/* The order of keys in JSON means nothing. */
static gboolean is_same_word(const char *one, const char *other)
{
    g_autoptr(json_t) left = one && *one == '{' ? json_loads(one, 0, NULL) : NULL;
    g_autoptr(json_t) right = other && *other == '{' ? json_loads(other, 0, NULL) : NULL;

    return left && right ? json_equal(left, right) : g_strcmp0(one, other) == 0;
}

static void assert_words(char **got, char **wanted, const char *name)
{
    for (guint i = 0; got[i] || wanted[i]; i++)
        if (!is_same_word(got[i], wanted[i]))
            fail_msg("%s: word %u is %s instead of %s", name, i, got[i] ? got[i] : "missing",
                     wanted[i] ? wanted[i] : "nothing");
}

/* A machine that nobody has changed keeps its words, to the letter. */
static void test_unchanged(void **state)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++) {
        g_auto(GStrv) words = read_words(shapes[i], ".words");
        g_auto(GStrv) wanted = qemu_command_line_clean(words);
        g_autoptr(json_t) object = read_machine(shapes[i], ".json");
        g_autoptr(GError) error = NULL;
        g_auto(GStrv) got = make_line(words, NULL, object, &error);

        if (!got)
            fail_msg("%s: %s", shapes[i], error->message);
        assert_words(got, wanted, shapes[i]);
    }
}

static void test_changed(void **state)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++) {
        g_auto(GStrv) words = read_words(shapes[i], ".words");
        g_auto(GStrv) wanted = read_words(shapes[i], ".changed.words");
        g_autoptr(json_t) object = read_machine(shapes[i], ".changed.json");
        g_autoptr(GError) error = NULL;
        g_auto(GStrv) got = make_line(words, NULL, object, &error);

        if (!got)
            fail_msg("%s: %s", shapes[i], error->message);
        assert_words(got, wanted, shapes[i]);
    }
}

/* The words before map rules stay where nothing is edited. */
static void test_original_words_travel(void **state)
{
    g_auto(GStrv) words = read_words("q35-7.2", ".words");
    g_auto(GStrv) original = qemu_command_line_clean(words);
    g_autoptr(json_t) object = read_machine("q35-7.2", ".changed.json");
    g_auto(GStrv) got = NULL;
    gboolean kept = FALSE;

    for (guint i = 0; original[i]; i++)
        if (strcmp(original[i], "user,id=n0") == 0) {
            g_free(original[i]);
            original[i] = g_strdup("tap,id=n0,ifname=there0");
        }
    got = make_line(words, original, object, NULL);
    assert_non_null(got);
    for (guint i = 0; got[i]; i++) {
        kept = kept || strcmp(got[i], "tap,id=n0,ifname=there0") == 0;
        assert_string_not_equal(got[i], "user,id=n0");
    }
    assert_true(kept);
}

static char *compare(const char *first, const char *first_ending, const char *second,
                     const char *second_ending, MachineComparison kind)
{
    g_autoptr(json_t) one = read_machine(first, first_ending);
    g_autoptr(json_t) other = read_machine(second, second_ending);
    g_autoptr(QemuMachine) here = qemu_machine_parse(one, NULL);
    g_autoptr(QemuMachine) there = qemu_machine_parse(other, NULL);
    g_autoptr(GPtrArray) found = qemu_machine_compare(here, there, kind, NULL);

    return qemu_machine_join(found);
}

static void test_same_machine(void **state)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++) {
        g_autofree char *later =
            compare(shapes[i], ".changed.json", shapes[i], ".changed.json", MACHINE_COMPARE_LATER);
        g_autofree char *there =
            compare(shapes[i], ".json", shapes[i], ".json", MACHINE_COMPARE_DESTINATION);

        assert_string_equal(later, "");
        assert_string_equal(there, "");
    }
}

/* The guest has given a bus behind a bridge a number since. */
static void test_numbered_buses(void **state)
{
    g_autoptr(json_t) object = read_machine("incus-10.0", ".json");
    g_autoptr(QemuMachine) fresh = qemu_machine_parse(object, NULL);
    g_auto(GStrv) pieces = g_strsplit(json_text_or(object, "devices", ""), "busnr = 0 (0x0)", -1);
    g_autofree char *devices = g_strjoinv("busnr = 1 (0x1)", pieces);
    g_autoptr(QemuMachine) booted = NULL;
    g_autoptr(GPtrArray) found = NULL;

    assert_true(g_strv_length(pieces) > 1);
    json_object_set_new(object, "devices", json_string(devices));
    booted = qemu_machine_parse(object, NULL);
    found = qemu_machine_compare(booted, fresh, MACHINE_COMPARE_DESTINATION, NULL);
    assert_int_equal(found->len, 0);
}

static void assert_says(const char *shape, gboolean back, const char *words)
{
    g_autofree char *text =
        compare(shape, back ? ".changed.json" : ".json", shape, back ? ".json" : ".changed.json",
                back ? MACHINE_COMPARE_DESTINATION : MACHINE_COMPARE_LATER);

    if (!strstr(text, words))
        fail_msg("%s: \"%s\" is not in \"%s\"", shape, words, text);
}

static void test_differences_are_named(void **state)
{
    assert_says("plain-7.2", FALSE, "its image was raw(file: file) and is qcow2(");
    assert_says("plain-7.2", FALSE, "its medium was install.iso and is none now");
    assert_says("q35-7.2", FALSE, "device vdx (virtio-blk-pci) was added");
    assert_says("q35-7.2", TRUE, "device sdx (scsi-hd) is missing there");
    assert_says("libvirt-10.0", FALSE, "memory device dimm0 was added");
    assert_says("libvirt-10.0", FALSE, "object memdimm0 was added");
    assert_says("libvirt-10.0", FALSE,
                "vCPU core-id=0 node-id=0 socket-id=1 thread-id=0 was added");
    assert_says("libvirt-10.0", FALSE, "sata0-0-0 (ide-cd): its medium was none and is driver.iso");
    assert_says("proxmox-7.2", FALSE, "device tablet (usb-tablet) was removed");
    assert_says("proxmox-7.2", FALSE, "scsi0 (scsi-hd): its I/O limits were changed");
    assert_says("proxmox-10.0", TRUE, "device tablet (usb-tablet) is there, but not in the guest");
}

/* ---- what cannot be carried over is named ---- */

static void replace_text(json_t *object, const char *key, const char *from, const char *to)
{
    g_auto(GStrv) parts = g_strsplit(json_text_or(object, key, ""), from, -1);
    g_autofree char *text = g_strjoinv(to, parts);

    assert_true(g_strv_length(parts) > 1);
    json_object_set_new(object, key, json_string(text));
}

static void expect_refusal(const char *shape, json_t *object, const char *words)
{
    g_auto(GStrv) argv = read_words(shape, ".words");
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) got = make_line(argv, NULL, object, &error);

    assert_null(got);
    if (!strstr(error->message, words))
        fail_msg("\"%s\" is not in \"%s\"", words, error->message);
}

/* The driver of a node becomes another one. */
static void set_driver(json_t *object, const char *node, const char *driver)
{
    json_t *entry;
    size_t i;

    json_array_foreach(json_object_get(object, "nodes"), i, entry)
    {
        if (strcmp(json_text_or(entry, "node-name", ""), node) == 0)
            json_object_set_new(entry, "drv", json_string(driver));
    }
}

static void test_unknown_node_driver(void **state)
{
    g_autoptr(json_t) object = read_machine("libvirt-7.2", ".changed.json");

    set_driver(object, "libvirt-3-format", "blkverify");
    expect_refusal("libvirt-7.2", object,
                   "block node libvirt-3-format (driver blkverify) was added");
}

static void test_unknown_object(void **state)
{
    g_autoptr(json_t) object = read_machine("libvirt-7.2", ".changed.json");
    json_t *entry;
    size_t i;

    json_array_foreach(json_object_get(object, "objects"), i, entry)
    {
        if (strcmp(json_text_or(entry, "name", ""), "memdimm0") == 0)
            json_object_set_new(entry, "type", json_string("child<memory-backend-epc>"));
    }
    expect_refusal("libvirt-7.2", object, "object \"memdimm0\" of type memory-backend-epc");
}

static void test_network_without_settings(void **state)
{
    g_autoptr(json_t) object = read_machine("libvirt-7.2", ".json");

    replace_text(object, "networks", "type=user", "type=l2tpv3");
    expect_refusal("libvirt-7.2", object, "network back end \"hostnet0\" (l2tpv3)");
}

/* As QEMU 7.2 and 10.0 print it. */
#define HUBS                                                                                       \
    "hub 1\r\n"                                                                                    \
    " \\ alone\r\n"                                                                                \
    "hub 0\r\n"                                                                                    \
    " \\ port1: nic0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\r\n"                  \
    " \\ port0: up0: index=0,type=user,net=10.0.2.0,restrict=off\r\n"                              \
    "nic1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57\r\n"                    \
    " \\ tap1: index=0,type=tap,ifname=tap1,script=no,downscript=no\r\n"                           \
    "filters:\r\n"                                                                                 \
    "  - dump: type=filter-dump,file=/d,netdev=tap1,queue=all\r\n"

/* Those of a hub are back ends like others; a card is none. */
static void test_networks_of_hubs(void **state)
{
    static const char *const wanted[][2] = {{"alone", "hubport"},
                                            {"port1", "hubport"},
                                            {"port0", "hubport"},
                                            {"up0", "user"},
                                            {"tap1", "tap"}};
    g_autoptr(GPtrArray) networks = qemu_networks_parse(HUBS);
    g_autofree char *interface = NULL;

    assert_int_equal(networks->len, G_N_ELEMENTS(wanted));
    for (guint i = 0; i < networks->len; i++) {
        const QemuNetwork *network = networks->pdata[i];

        assert_string_equal(network->id, wanted[i][0]);
        assert_string_equal(network->type, wanted[i][1]);
    }
    interface = qemu_network_setting(networks->pdata[4], "ifname");
    assert_string_equal(interface, "tap1");
}

/* The lines of hub ports stay on the command line of the destination. */
static void test_hub_ports_stay(void **state)
{
    static const char *const options[] = {"user,id=up0", "hubport,id=port0,hubid=0,netdev=up0",
                                          "hubport,id=port1,hubid=0"};
    g_autoptr(json_t) object = read_machine("plain-7.2", ".json");
    g_auto(GStrv) words = read_words("plain-7.2", ".words");
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    g_auto(GStrv) argv = NULL, got = NULL;
    g_autofree char *networks =
        g_strconcat(json_text_or(object, "networks", ""), "\r\n" HUBS, NULL);
    g_autoptr(GError) error = NULL;

    json_object_set_new(object, "networks", json_string(networks));
    g_strv_builder_addv(builder, (const char **)words);
    for (guint i = 0; i < G_N_ELEMENTS(options); i++)
        g_strv_builder_add_many(builder, "-netdev", options[i], NULL);
    argv = g_strv_builder_end(builder);
    got = make_line(argv, NULL, object, &error);
    if (!got)
        fail_msg("%s", error->message);
    for (guint i = 0; i < G_N_ELEMENTS(options); i++)
        if (!g_strv_contains((const char *const *)got, options[i]))
            fail_msg("\"%s\" is lost", options[i]);
}

static void expect_busy(json_t *object, const char *words)
{
    g_autoptr(QemuMachine) machine = qemu_machine_parse(object, NULL);
    g_autoptr(GError) error = NULL;

    assert_non_null(machine);
    assert_false(qemu_machine_check_idle(machine, &error));
    if (!strstr(error->message, words))
        fail_msg("\"%s\" is not in \"%s\"", words, error->message);
}

static void test_what_is_under_way(void **state)
{
    g_autoptr(json_t) object = read_machine("plain-7.2", ".json");
    g_autoptr(json_t) exported = json_deep_copy(object);
    g_autoptr(QemuMachine) idle = qemu_machine_parse(object, NULL);

    assert_true(qemu_machine_check_idle(idle, NULL));
    json_object_set_new(object, "jobs",
                        json_pack("[{s:s, s:s, s:s}, {s:s, s:s, s:s}]", "id", "old", "type",
                                  "stream", "status", "concluded", "id", "nightly", "type",
                                  "backup", "status", "running"));
    expect_busy(object, "block job \"nightly\" (backup, running) is under way");
    json_object_set_new(exported, "exports", json_pack("[{s:s}]", "id", "reader"));
    expect_busy(exported, "exported as \"reader\"");
}

/* ---- hostile answers ---- */

static void expect_unreadable(const char *key, json_t *value, const char *words)
{
    g_autoptr(json_t) object = read_machine("plain-7.2", ".json");
    g_autoptr(GError) error = NULL;
    g_autoptr(QemuMachine) machine = NULL;

    if (value)
        json_object_set_new(object, key, value);
    else
        json_object_del(object, key);
    machine = qemu_machine_parse(object, &error);
    assert_null(machine);
    if (!strstr(error->message, words))
        fail_msg("%s: \"%s\" is not in \"%s\"", key, words, error->message);
}

static void test_hostile_machines(void **state)
{
    expect_unreadable("devices", NULL, "\"devices\" is missing");
    expect_unreadable("devices", json_string("dev: x, id \"\""), "info qtree: cannot read");
    expect_unreadable("devices", json_string(""), "info qtree: unexpected text");
    expect_unreadable("devices", json_string("bus: a\nbus: b\n"), "info qtree: cannot read");
    expect_unreadable("block", json_integer(1), "query-block: unexpected answer");
    expect_unreadable("nodes", json_object(), "query-named-block-nodes: unexpected answer");
    expect_unreadable("nodes", json_array(), "is on unknown node");
    expect_unreadable("graph", json_array(), "x-debug-query-block-graph: unexpected answer");
    expect_unreadable("named", json_pack("[{}]"), "\"named\": entry 0 cannot be read");
    expect_unreadable("cpus", json_pack("[{s:s}]", "type", "x"), "\"cpus\": entry 0");
    expect_unreadable("memory", json_string("x"), "\"memory\" is missing, no array");
    expect_unreadable("networks", json_array(), "\"networks\" is missing or no text");
}

/* A word of a peer is never repeated thousands of times. */
static void test_long_words(void **state)
{
    static const struct {
        const char *list, *key, *words;
    } rows[] = {{"nodes", "drv", "query-named-block-nodes: unexpected answer"},
                {"nodes", "node-name", "query-named-block-nodes: unexpected answer"},
                {"edges", "name", "x-debug-query-block-graph: unexpected answer"}};
    g_autofree char *word = g_strnfill(1 << 20, 'x');

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(json_t) object = read_machine("plain-7.2", ".json");
        json_t *edges = json_object_get(json_object_get(object, "graph"), "edges");
        json_t *list =
            strcmp(rows[i].list, "edges") == 0 ? edges : json_object_get(object, rows[i].list);
        g_autoptr(GError) error = NULL;
        g_autoptr(QemuMachine) machine = NULL;

        json_object_set_new(json_array_get(list, 0), rows[i].key, json_string(word));
        machine = qemu_machine_parse(object, &error);
        assert_null(machine);
        if (!strstr(error->message, rows[i].words))
            fail_msg("%s: \"%s\"", rows[i].key, error->message);
    }
}

/* Many edges to one node end with the description's length. */
static void test_many_edges(void **state)
{
    g_autoptr(json_t) object = read_machine("plain-7.2", ".json");
    json_t *edges = json_object_get(json_object_get(object, "graph"), "edges");
    json_t *edge = json_array_get(edges, json_array_size(edges) - 1);
    g_autoptr(QemuMachine) machine = NULL;

    for (guint i = 0; i < 10000; i++)
        json_array_append(edges, edge);
    machine = qemu_machine_parse(object, NULL);
    assert_non_null(machine);
    for (guint n = 0; n < machine->block->nodes->len; n++) {
        g_autofree char *text =
            block_node_describe(machine->block, machine->block->nodes->pdata[n], FALSE);

        assert_true(strlen(text) < 1 << 16);
    }
}

/* Nodes that stand on each other in a circle end somewhere. */
static void test_circles(void **state)
{
    g_autoptr(json_t) object = read_machine("plain-7.2", ".json");
    json_t *edges = json_object_get(json_object_get(object, "graph"), "edges");
    g_autoptr(QemuMachine) machine = NULL;
    json_t *edge;
    size_t i;

    json_array_foreach(edges, i, edge)
    {
        json_object_set(edge, "child", json_object_get(edge, "parent"));
    }
    machine = qemu_machine_parse(object, NULL);
    assert_non_null(machine);
    for (guint n = 0; n < machine->block->nodes->len; n++) {
        g_autofree char *text =
            block_node_describe(machine->block, machine->block->nodes->pdata[n], FALSE);

        assert_true(strlen(text) < 1 << 20);
    }
}

/* ---- new addresses for its cards ---- */

static void test_new_macs(void **state)
{
    static const struct {
        const char *name, *refusal; /* NULL: none */
    } cases[] = {
        {"libvirt-7.2", NULL},
        {"libvirt-10.0", NULL},
        {"proxmox-10.0", NULL},
        {"plain-7.2", "no -device option"},
        {"q35-7.2", "its place"},
        {"microvm-10.0", "its place"},
        {"incus-7.2", "no network card"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(json_t) object = read_machine(cases[i].name, ".json");
        g_autoptr(GError) error = NULL;

        assert_int_equal(qemu_check_new_macs(object, &error), cases[i].refusal == NULL);
        if (cases[i].refusal)
            assert_non_null(strstr(error->message, cases[i].refusal));
    }
}

static void test_random_macs(void **state)
{
    g_autofree char *one = qemu_make_mac(), *other = qemu_make_mac();

    assert_int_equal(strlen(one), 17);
    assert_int_equal(g_ascii_strtoull(one, NULL, 16) & 3, 2);
    assert_string_not_equal(one, other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unchanged),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_original_words_travel),
        cmocka_unit_test(test_same_machine),
        cmocka_unit_test(test_numbered_buses),
        cmocka_unit_test(test_differences_are_named),
        cmocka_unit_test(test_unknown_node_driver),
        cmocka_unit_test(test_unknown_object),
        cmocka_unit_test(test_network_without_settings),
        cmocka_unit_test(test_networks_of_hubs),
        cmocka_unit_test(test_hub_ports_stay),
        cmocka_unit_test(test_what_is_under_way),
        cmocka_unit_test(test_hostile_machines),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_many_edges),
        cmocka_unit_test(test_circles),
        cmocka_unit_test(test_new_macs),
        cmocka_unit_test(test_random_macs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Small readers of texts, and the texts of errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "vmm/qemu/block_graph.h"
#include "vmm/qemu/boot_files.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/last_words.h"
#include "vmm/qemu/live_writers.h"

static void expect_words(const char *log, const char *wanted)
{
    g_autofree char *words = last_words_pick(log, strlen(log));

    if (wanted)
        assert_string_equal(words, wanted);
    else
        assert_null(words);
}

static void test_last_words(void **unused)
{
    expect_words("", NULL);
    expect_words("\n \n", NULL);
    expect_words("Segmentation fault\n", "Segmentation fault");
    expect_words("[    0.0] guest console\nqemu-system-x86_64: -drive file=x: Could not open 'x'\n"
                 "login: \n",
                 "qemu-system-x86_64: -drive file=x: Could not open 'x'");
    expect_words("qemu-kvm: one\nqemu-kvm: two\r\n", "qemu-kvm: one; qemu-kvm: two");
    expect_words("1\n2\n3\n4\n5\n6\n7\n8\n", "3; 4; 5; 6; 7; 8");
    expect_words("a\033[31mb\tc\n", "a [31mb c");
}

static void test_last_words_of_bytes(void **unused)
{
    static const char log[] = "x\0y\xff\n";
    g_autofree char *words = last_words_pick(log, sizeof log - 1);

    assert_true(g_utf8_validate(words, -1, NULL));
    assert_non_null(strstr(words, "x y"));
}

static void test_memory_fits(void **unused)
{
    static const char meminfo[] = "MemTotal:   24684308 kB\nMemFree:  1 kB\n"
                                  "MemAvailable:   307200 kB\nBuffers: 1 kB\n";
    g_autoptr(GError) error = NULL;

    assert_true(qemu_memory_fits(300ull << 20, meminfo, NULL));
    assert_true(qemu_memory_fits(1ull << 40, "MemTotal: 1 kB\n", NULL));
    assert_false(qemu_memory_fits(1024ull << 20, meminfo, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NO_SPACE));
    assert_string_equal(error->message,
                        "not enough memory here: guest needs 1024 MiB, 300 MiB available");
}

static void test_memory_of_this_host(void **unused)
{
    assert_true(qemu_check_memory(4096, NULL));
    assert_false(qemu_check_memory(1ull << 60, NULL));
}

static void test_live_writers(void **unused)
{
    static const char tree[] = "bus: main-system-bus\r\n  dev: %s, id \"x\"\r\n    gpio-out\r\n";
    g_autofree char *clean = g_strdup_printf(tree, "virtio-net-pci");
    g_autofree char *dirty = g_strdup_printf(tree, "vfio-pci");
    g_autofree char *device = qemu_find_live_writer(dirty, "");
    g_autofree char *network =
        qemu_find_live_writer(clean, " \\ n0: index=0,type=vhost-user,x=1\r\n");

    assert_string_equal(device, "vfio-pci");
    assert_string_equal(network, "vhost-user");
    assert_null(qemu_find_live_writer(clean, "n0: index=0,type=tap,ifname=t,vhost\r\n"));
}

static void test_run_states(void **unused)
{
    static const struct {
        const char *status;
        VmmRunState state;
    } known[] = {
        {"running", VMM_RUN_STATE_RUNNING},        {"paused", VMM_RUN_STATE_PAUSED},
        {"inmigrate", VMM_RUN_STATE_INCOMING},     {"shutdown", VMM_RUN_STATE_ENDED},
        {"guest-panicked", VMM_RUN_STATE_ENDED},   {"io-error", VMM_RUN_STATE_FAILED},
        {"from the future", VMM_RUN_STATE_FAILED},
    };

    for (guint i = 0; i < G_N_ELEMENTS(known); i++)
        assert_int_equal(qemu_run_state_from_status(known[i].status), known[i].state);
    assert_string_equal(vmm_run_state_name(VMM_RUN_STATE_INCOMING), "incoming");
    assert_string_equal(vmm_run_state_name((VmmRunState)99), "unknown");
}

static void test_statistics(void **unused)
{
    static const struct {
        const char *text;
        uint64_t free_bytes, updated;
    } good[] = {
        {"{\"stats\": {\"stat-free-memory\": 393285632}, \"last-update\": 1795340833}\r\n",
         393285632, 1795340833},
        /* What the guest does not tell; who never spoke. */
        {"{\"stats\": {\"stat-free-memory\": 18446744073709551615}, \"last-update\": 5}", 0, 5},
        {"{\"stats\": {\"stat-free-memory\": 4096}, \"last-update\": 0}", 0, 0},
        {"{\"stats\": {\"stat-free-memory\": -4096}, \"last-update\": 5}", 0, 5},
        {"{\"stats\": {\"stat-free-memory\": \"1\"}, \"last-update\": 5}", 0, 5},
        {"{\"stats\": {\"stat-free-memory\": 1e300}, \"last-update\": 1e300}", 0, 0},
        {"{\"stats\": {}}", 0, 0},
    };
    static const char *const bad[] = {"", "unknown command: 'qom-get'\r\n", "[]", "{}",
                                      "{\"stats\": 1}"};

    for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
        uint64_t free_bytes, updated;

        assert_true(qemu_parse_statistics(good[i].text, &free_bytes, &updated, NULL));
        assert_int_equal(free_bytes, good[i].free_bytes);
        assert_int_equal(updated, good[i].updated);
    }
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        uint64_t free_bytes, updated;

        assert_false(qemu_parse_statistics(bad[i], &free_bytes, &updated, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    }
}

static gboolean parse_direct_io(const char *nodes, const char *statistics, VmmDirectIo *ret)
{
    g_autoptr(json_t) first = json_loads(nodes, 0, NULL);
    g_autoptr(json_t) second = json_loads(statistics, 0, NULL);

    return qemu_parse_direct_io(first, second, ret, NULL);
}

/* Any node that is direct counts, and a host's device in any mode (SG_IO). */
static void test_direct_io(void **unused)
{
    static const char cached[] = "[{\"drv\": \"file\", \"cache\": {\"direct\": false}}]";
    static const char direct[] = "[{\"drv\": \"raw\", \"cache\": {\"direct\": false}},"
                                 " {\"drv\": \"file\", \"cache\": {\"direct\": true}}]";
    static const char device[] = "[{\"drv\": \"host_device\", \"cache\": {\"direct\": false}}]";
    static const char statistics[] =
        "[{\"stats\": {\"rd_operations\": 3, \"rd_total_time_ns\": 6000000}},"
        " {\"stats\": {\"wr_operations\": 1, \"wr_total_time_ns\": 8000000,"
        "   \"rd_operations\": 1, \"rd_total_time_ns\": 4000000}}, {\"stats\": 7}, 1]";
    VmmDirectIo io;

    assert_true(parse_direct_io(cached, "[]", &io));
    assert_false(io.in_use);
    assert_true(parse_direct_io(device, "[]", &io) && io.in_use);
    assert_true(parse_direct_io(direct, statistics, &io) && io.in_use);
    assert_int_equal(io.operations, 5);
    assert_true(io.total_ms > 17.9 && io.total_ms < 18.1);
    assert_true(io.slowest_ms > 5.9 && io.slowest_ms < 6.1);
    assert_false(parse_direct_io("{}", "[]", &io));
    assert_false(parse_direct_io("[]", "3", &io));
}

/* QEMU's NVMe driver, also where it was added at run time. */
static void test_live_block_writers(void **unused)
{
    g_autoptr(json_t) clean =
        json_pack("[{s:s,s:s},{s:s}]", "node-name", "a", "drv", "file", "node-name", "b");
    g_autoptr(json_t) nvme = json_pack("[{s:s,s:s},{s:s,s:s}]", "node-name", "a", "drv", "raw",
                                       "node-name", "disk9", "drv", "nvme");
    g_autoptr(json_t) vdpa = json_pack("[{s:s}]", "drv", "virtio-blk-vhost-vdpa");
    g_autofree char *found = qemu_find_live_block_writer(nvme);
    g_autofree char *other = qemu_find_live_block_writer(vdpa);

    assert_null(qemu_find_live_block_writer(clean));
    assert_null(qemu_find_live_block_writer(NULL));
    assert_string_equal(found, "block node disk9 of driver nvme");
    assert_non_null(other);
}

/* ---- files that QEMU loads ---- */

static void test_boot_files(void **unused)
{
    const char *const argv[] = {"qemu",
                                "-kernel",
                                "/boot/a,b",
                                "-initrd",
                                "initrd.img",
                                "-append",
                                "-kernel x",
                                "-drive",
                                "file=/srv/a,if=virtio",
                                "-fw_cfg",
                                "name=opt/x,file=/etc/x",
                                "-fw_cfg",
                                "opt/y,string=file",
                                "-acpitable",
                                "sig=SLIC,file=/a:/b",
                                "-smbios",
                                "file=/smbios.bin",
                                "-smbios",
                                "type=1,serial=7",
                                "-device",
                                "loader,file=/blob,addr=0",
                                "-device",
                                "{\"driver\":\"loader\",\"file\":\"/json\"}",
                                "-device",
                                "e1000,romfile=/carried",
                                "-bios",
                                "/carried",
                                "-machine",
                                "q35,kernel=/m",
                                "--dtb",
                                "/t",
                                NULL};
    const char *const wanted[] = {"-kernel /boot/a,b", "-initrd initrd.img",
                                  "-fw_cfg /etc/x",    "-acpitable /a",
                                  "-acpitable /b",     "-smbios /smbios.bin",
                                  "-device /blob",     "-device /json",
                                  "-machine /m",       "-dtb /t"};
    g_autoptr(GPtrArray) files = qemu_command_line_find_boot_files((char *const *)argv);

    assert_int_equal(files->len, G_N_ELEMENTS(wanted));
    for (guint i = 0; i < files->len; i++) {
        const QemuBootFile *file = files->pdata[i];
        g_autofree char *text = g_strdup_printf("%s %s", file->option, file->path);

        assert_string_equal(text, wanted[i]);
    }
}

/* ---- what stands below a disk ---- */

static void add_node(json_t *nodes, json_t *ids, guint number)
{
    g_autofree char *name = g_strdup_printf("n%u", number);

    json_array_append_new(nodes, json_pack("{s:s,s:s,s:s,s:b,s:{s:{s:i}}}", "node-name", name,
                                           "drv", "qcow2", "file", name, "ro", 0, "image",
                                           "virtual-size", "actual-size", 1));
    json_array_append_new(ids, json_pack("{s:i,s:s,s:s}", "id", (int)number + 1, "type",
                                         "block-driver", "name", name));
}

/* A chain of so many nodes, each on the next one in that role. */
static BlockGraph *make_chain(guint length, const char *last_role)
{
    g_autoptr(json_t) nodes = json_array(), ids = json_array(), edges = json_array();
    g_autoptr(json_t) none = json_array();
    g_autoptr(json_t) picture = NULL;
    g_autoptr(GError) error = NULL;
    BlockGraph *graph;

    for (guint i = 0; i < length; i++) {
        add_node(nodes, ids, i);
        if (i > 0)
            json_array_append_new(edges, json_pack("{s:i,s:i,s:s,s:[],s:[]}", "parent", (int)i,
                                                   "child", (int)i + 1, "name",
                                                   i + 1 == length ? last_role : "backing", "perm",
                                                   "shared-perm"));
    }
    picture = json_pack("{s:O,s:O}", "nodes", ids, "edges", edges);
    graph = block_graph_parse(none, nodes, picture, &error);
    if (error)
        print_error("%s\n", error->message);
    assert_non_null(graph);
    return graph;
}

static gboolean count_leaf(const BlockNode *first, const BlockNode *second, gpointer user,
                           GError **error)
{
    (void)error;
    assert_string_equal(first->name, second->name);
    ++*(guint *)user;
    return TRUE;
}

static gboolean visit(const BlockGraph *first, const BlockGraph *second, guint *ret_leaves,
                      GError **error)
{
    *ret_leaves = 0;
    return block_graph_visit_leaves(first, block_graph_find(first, "n0"), second,
                                    block_graph_find(second, "n0"), count_leaf, ret_leaves, error);
}

/* Nothing is left out in silence: neither what is deep nor what has no match. */
static void test_leaves(void **unused)
{
    g_autoptr(BlockGraph) chain = make_chain(200, "backing"), same = make_chain(200, "backing");
    g_autoptr(BlockGraph) other = make_chain(200, "file"), shorter = make_chain(199, "backing");
    g_autoptr(BlockGraph) deep = make_chain(300, "backing"), deep_too = make_chain(300, "backing");
    g_autoptr(GError) role = NULL, length = NULL, longer = NULL, depth = NULL;
    guint leaves;

    assert_true(visit(chain, same, &leaves, NULL));
    assert_int_equal(leaves, 1);
    assert_false(visit(chain, other, &leaves, &role));
    assert_non_null(strstr(role->message, "has no \"backing\" there"));
    assert_false(visit(chain, shorter, &leaves, &length));
    assert_false(visit(shorter, chain, &leaves, &longer));
    assert_false(visit(deep, deep_too, &leaves, &depth));
    assert_non_null(strstr(depth->message, "nested too deeply"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_last_words_of_bytes),
        cmocka_unit_test(test_memory_fits),
        cmocka_unit_test(test_memory_of_this_host),
        cmocka_unit_test(test_live_writers),
        cmocka_unit_test(test_run_states),
        cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_direct_io),
        cmocka_unit_test(test_live_block_writers),
        cmocka_unit_test(test_boot_files),
        cmocka_unit_test(test_leaves),
        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_last_words_of_bytes),
        cmocka_unit_test(test_memory_fits),
        cmocka_unit_test(test_memory_of_this_host),
        cmocka_unit_test(test_live_writers),
        cmocka_unit_test(test_run_states),
        cmocka_unit_test(test_statistics),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

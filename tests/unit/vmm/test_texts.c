/* Small readers of texts, and the texts of errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "state/cpu_feature_names.h"
#include "vmm/qemu/disk_counters.h"
#include "vmm/qemu/block_graph.h"
#include "vmm/qemu/boot_files.h"
#include "vmm/qemu/cpu_features.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/iothreads.h"
#include "vmm/qemu/stderr_tail.h"
#include "vmm/qemu/command_line.h"

static void expect_words(const char *log, const char *wanted)
{
    g_autofree char *words = stderr_tail_pick(log, strlen(log));

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
    g_autofree char *words = stderr_tail_pick(log, sizeof log - 1);

    assert_true(g_utf8_validate(words, -1, NULL));
    assert_non_null(strstr(words, "x y"));
}

/* One word of leaf 7's EBX and one that nobody has a name for. */
static json_t *make_cpu(json_int_t leaf7, json_int_t unknown)
{
    return json_pack("{s:s, s:[{s:i, s:i, s:s, s:I}, {s:i, s:s, s:I}]}", "type", "max-x86_64-cpu",
                     "words", "cpuid-input-eax", 7, "cpuid-input-ecx", 0, "cpuid-register", "EBX",
                     "features", leaf7, "cpuid-input-eax", 0x1234, "cpuid-register", "ECX",
                     "features", unknown);
}

static void expect_missing(json_t *source, json_t *here, const char *wanted)
{
    g_autoptr(GPtrArray) missing = qemu_list_missing_features(source, here, NULL);
    g_autofree char *text = NULL;

    assert_non_null(missing);
    g_ptr_array_add(missing, NULL);
    text = g_strjoinv(", ", (char **)missing->pdata);
    assert_string_equal(text, wanted);
    json_decref(source);
    json_decref(here);
}

static void test_missing_features(void **unused)
{
    expect_missing(make_cpu(0, 0), make_cpu(0, 0), "");
    expect_missing(make_cpu(0x28, 1), make_cpu(0xff, 1), "");
    expect_missing(make_cpu(0x28, 0), make_cpu(0x08, 0), "avx2");
    expect_missing(make_cpu(0x28, 0x80000000), make_cpu(0, 0),
                   "bmi1, avx2, bit 31 of CPUID 0x1234/0 ECX");
    expect_missing(json_null(), make_cpu(0, 0), "");
    expect_missing(make_cpu(0x28, 0), json_null(), "");
    expect_missing(make_cpu(0x20, 0), json_pack("{s:[]}", "words"), "avx2");
}

static void expect_no_features(json_t *source)
{
    g_autoptr(json_t) here = make_cpu(0, 0);
    g_autoptr(GError) error = NULL;

    assert_null(qemu_list_missing_features(source, here, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    json_decref(source);
}

static void test_features_of_a_stranger(void **unused)
{
    json_t *many = json_array();

    for (int i = 0; i < 300; i++)
        json_array_append_new(many, json_object());
    expect_no_features(json_pack("{s:o}", "words", many));
    expect_no_features(json_object());
    expect_no_features(json_pack("{s:[i]}", "words", 1));
    expect_no_features(json_pack("{s:[{s:i, s:s, s:i}]}", "words", "cpuid-input-eax", 7,
                                 "cpuid-register", "EBX", "features", -1));
    expect_no_features(json_pack("{s:[{s:i, s:i, s:i}]}", "words", "cpuid-input-eax", 7,
                                 "cpuid-register", 1, "features", 1));
}

static void test_feature_names(void **unused)
{
    assert_string_equal(cpu_feature_name(1, 0, "EDX", 0), "fpu");
    assert_string_equal(cpu_feature_name(1, 0, "ECX", 26), "xsave");
    assert_string_equal(cpu_feature_name(7, 0, "EBX", 29), "sha-ni");
    assert_string_equal(cpu_feature_name(0x80000001, 0, "ECX", 2), "svm");
    assert_null(cpu_feature_name(7, 0, "EBX", 32));
    assert_null(cpu_feature_name(7, 0, "XYZ", 0));
}

static void expect_loses(const char *version, const char *iothreads, gboolean wanted)
{
    g_autoptr(json_t) list = json_loads(iothreads, 0, NULL);

    assert_int_equal(qemu_loses_interrupts(version, list), wanted);
}

static void test_loses_interrupts(void **unused)
{
    expect_loses("7.2.22", "[{\"id\": \"io0\"}]", FALSE);
    expect_loses("8.0.0", "[{\"id\": \"io0\"}]", TRUE);
    expect_loses("10.0.2", "[{\"id\": \"io0\"}, {\"id\": \"io1\"}]", TRUE);
    expect_loses("10.0.2", "[]", FALSE);
    expect_loses("10.0.2", "{}", FALSE);
}

/* Each eventfd once, and nothing else is written to. */
static void test_eventfds_are_signalled(void **unused)
{
    autofd int event = eventfd(0, EFD_NONBLOCK), other = eventfd(3, EFD_NONBLOCK);
    g_autofree char *path = NULL;
    autofd int file = g_file_open_tmp("eventfds-XXXXXX", &path, NULL);
    uint64_t count = 0;
    struct stat info;

    assert_true(event >= 0 && other >= 0 && file >= 0);
    assert_true(qemu_signal_eventfds(getpid()) >= 2);
    assert_int_equal(read(event, &count, sizeof count), sizeof count);
    assert_int_equal(count, 1);
    assert_int_equal(read(other, &count, sizeof count), sizeof count);
    assert_int_equal(count, 4);
    assert_int_equal(fstat(file, &info), 0);
    assert_int_equal(info.st_size, 0);
    unlink(path);
    assert_int_equal(qemu_signal_eventfds(0), 0);
}

static void test_memory_fits(void **unused)
{
    static const char meminfo[] = "MemTotal:   24684308 kB\nMemFree:  1 kB\n"
                                  "MemAvailable:   307200 kB\nBuffers: 1 kB\n";
    g_autoptr(GError) error = NULL;

    assert_true(vmm_memory_fits(300ull << 20, meminfo, NULL));
    assert_true(vmm_memory_fits(1ull << 40, "MemTotal: 1 kB\n", NULL));
    assert_false(vmm_memory_fits(1024ull << 20, meminfo, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NO_SPACE));
    assert_string_equal(error->message,
                        "not enough memory here: guest needs 1024 MiB, 300 MiB available");
}

static void test_memory_of_this_host(void **unused)
{
    assert_true(vmm_check_host_memory(4096, NULL));
    assert_false(vmm_check_host_memory(1ull << 60, NULL));
}

static void test_live_writers(void **unused)
{
    static const char tree[] = "bus: main-system-bus\r\n  dev: %s, id \"x\"\r\n    gpio-out\r\n";
    g_autofree char *clean = g_strdup_printf(tree, "virtio-net-pci");
    g_autofree char *dirty = g_strdup_printf(tree, "vfio-pci");
    g_autofree char *device = qemu_find_dma_writer(dirty, "");
    g_autofree char *network =
        qemu_find_dma_writer(clean, " \\ n0: index=0,type=vhost-user,x=1\r\n");

    assert_string_equal(device, "vfio-pci");
    assert_string_equal(network, "vhost-user");
    assert_null(qemu_find_dma_writer(clean, "n0: index=0,type=tap,ifname=t,vhost\r\n"));
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

static gboolean parse_disk_counters(const char *statistics, VmmDiskCounters *ret)
{
    g_autoptr(json_t) list = json_loads(statistics, 0, NULL);

    return qemu_parse_disk_counters(list, ret, NULL);
}

/* All disks together, or nothing. */
static void test_disk_counters(void **unused)
{
    VmmDiskCounters counters;

    assert_true(parse_disk_counters(
        "[{\"stats\": {\"rd_bytes\": 3, \"wr_bytes\": 50, \"flush_operations\": 7}},"
        " {\"stats\": {\"rd_bytes\": 1, \"wr_bytes\": 9000000000000000000,"
        "   \"flush_operations\": 0}}]",
        &counters));
    assert_int_equal(counters.read_bytes, 4);
    assert_true(counters.written_bytes == UINT64_C(9000000000000000050));
    assert_int_equal(counters.flushes, 7);
    assert_true(parse_disk_counters("[]", &counters));
    assert_int_equal(counters.read_bytes, 0);
    assert_false(parse_disk_counters("{}", &counters));
    assert_false(parse_disk_counters("[{\"stats\": {\"rd_bytes\": 3}}]", &counters));
    assert_false(parse_disk_counters(
        "[{\"stats\": {\"rd_bytes\": -3, \"wr_bytes\": 5, \"flush_operations\": 7}}]", &counters));
    assert_false(parse_disk_counters("[{\"stats\": {\"rd_bytes\": 9000000000000000000, "
                                     "\"wr_bytes\": 5, \"flush_operations\": 7}},"
                                     " {\"stats\": {\"rd_bytes\": 9000000000000000000, "
                                     "\"wr_bytes\": 5, \"flush_operations\": 7}},"
                                     " {\"stats\": {\"rd_bytes\": 9000000000000000000, "
                                     "\"wr_bytes\": 5, \"flush_operations\": 7}}]",
                                     &counters));
}

/* QEMU's NVMe driver, also where it was added at run time. */
static void test_live_block_writers(void **unused)
{
    g_autoptr(json_t) clean =
        json_pack("[{s:s,s:s},{s:s}]", "node-name", "a", "drv", "file", "node-name", "b");
    g_autoptr(json_t) nvme = json_pack("[{s:s,s:s},{s:s,s:s}]", "node-name", "a", "drv", "raw",
                                       "node-name", "disk9", "drv", "nvme");
    g_autoptr(json_t) vdpa = json_pack("[{s:s}]", "drv", "virtio-blk-vhost-vdpa");
    g_autofree char *found = qemu_find_dma_block_writer(nvme);
    g_autofree char *other = qemu_find_dma_block_writer(vdpa);

    assert_null(qemu_find_dma_block_writer(clean));
    assert_null(qemu_find_dma_block_writer(NULL));
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
        cmocka_unit_test(test_disk_counters),
        cmocka_unit_test(test_live_block_writers),
        cmocka_unit_test(test_boot_files),
        cmocka_unit_test(test_leaves),
        cmocka_unit_test(test_missing_features),
        cmocka_unit_test(test_features_of_a_stranger),
        cmocka_unit_test(test_feature_names),
        cmocka_unit_test(test_loses_interrupts),
        cmocka_unit_test(test_eventfds_are_signalled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "vmm/qemu/pci_devices.h"
#include "vmm/qemu/ram_blocks.h"

static const char blocks_7_2[] = "              Block Name    PSize              Offset            "
                                 "   Used              Total\r\n"
                                 "                  pc.ram    4 KiB  0x0000000000000000 "
                                 "0x0000000010000000 0x0000000010000000\r\n"
                                 "   0000:00:02.0/vga.vram    4 KiB  0x0000000010080000 "
                                 "0x0000000001000000 0x0000000001000000\r\n"
                                 "    /rom@etc/acpi/tables    4 KiB  0x0000000011140000 "
                                 "0x0000000000020000 0x0000000000200000\r\n"
                                 "                            4 KiB  0x0000000012140000 "
                                 "0x0000000000008000 0x0000000000008000\r\n";

static const char blocks_10_0[] =
    "              Block Name    PSize              Offset               Used              Total  "
    "              HVA  RO\r\n"
    "                  pc.ram    2 MiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 "
    "0x00007f0b73e00000  rw\r\n"
    "    /rom@etc/acpi/tables    4 KiB  0x0000000011140000 0x0000000000020000 0x0000000000200000 "
    "0x00007f0b73600000  ro\r\n";

static const char flat_view[] =
    "FlatView #0\r\n AS \"VGA\", root: bus master container\r\n Root memory region: (none)\r\n"
    "  No rendered FlatView\r\n\r\n"
    "FlatView #1\r\n AS \"memory\", root: system\r\n AS \"cpu-memory-0\", root: system\r\n"
    " Root memory region: system\r\n"
    "  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM\r\n"
    "  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\r\n"
    "  00000000000c0000-00000000000cbfff (prio 0, rom): pc.ram @00000000000c0000 KVM\r\n"
    "  0000000000100000-000000000fffffff (prio 0, ram): pc.ram @0000000000100000\r\n"
    "  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram\r\n"
    "  00000000febd0400-00000000febd041f (prio 0, i/o): vga ioports remapped\r\n"
    "  00000000ffe00000-00000000ffffffff (prio 0, romd): system.flash0\r\n"
    "  0000000100000000-000000017fffffff (prio 0, nv-ram): dimm 1\r\n"
    "  0000000180000000-00000001ffffffff (prio 0, ram): pc.ram @00000000c0000000\r\n"
    "\r\nFlatView #2\r\n AS \"I/O\", root: io\r\n Root memory region: io\r\n"
    "  0000000000000000-0000000000000007 (prio 0, ram): not-this\r\n\r\n";

static void expect_text(GError *error, const char *text)
{
    assert_non_null(error);
    if (!strstr(error->message, text))
        fail_msg("\"%s\" does not hold \"%s\"", error->message, text);
    g_error_free(error);
}

static QemuRamBlock *block_at(GPtrArray *blocks, guint index)
{
    assert_true(index < blocks->len);
    return blocks->pdata[index];
}

static void test_blocks_of_7_2(void **unused)
{
    g_autoptr(GPtrArray) blocks = qemu_parse_ram_blocks(blocks_7_2, NULL);

    assert_int_equal(blocks->len, 4);
    assert_string_equal(block_at(blocks, 0)->name, "pc.ram");
    assert_string_equal(block_at(blocks, 2)->name, "/rom@etc/acpi/tables");
    assert_int_equal(block_at(blocks, 2)->used, 0x20000);
    assert_int_equal(block_at(blocks, 2)->total, 0x200000);
    assert_int_equal(block_at(blocks, 2)->host_address, 0);
    assert_string_equal(block_at(blocks, 3)->name, "");
}

static void test_blocks_of_10_0(void **unused)
{
    g_autoptr(GPtrArray) blocks = qemu_parse_ram_blocks(blocks_10_0, NULL);

    assert_int_equal(blocks->len, 2);
    assert_true(block_at(blocks, 0)->host_address == 0x7f0b73e00000);
    assert_true(block_at(blocks, 1)->host_address == 0x7f0b73600000);
}

static void expect_blocks_refused(const char *line, const char *text)
{
    g_autofree char *all = g_strdup_printf("Block Name PSize Offset Used Total\n%s\n", line);
    GError *error = NULL;

    assert_null(qemu_parse_ram_blocks(all, &error));
    expect_text(error, text);
}

static void test_hostile_blocks(void **unused)
{
    GString *many = g_string_new(NULL);
    GError *error = NULL;

    assert_null(qemu_parse_ram_blocks("unknown command: 'info ramblock'\r\n", &error));
    expect_text(error, "unknown format");
    expect_blocks_refused("a 4 KiB 0x0 0x2000 0x1000", "cannot read");
    expect_blocks_refused("a 4 KiB 0x0 0x0 0x0", "cannot read");
    expect_blocks_refused("a 4 KiB 0x0 0x1 0xffffffffffffffff", "cannot read");
    expect_blocks_refused("a 4 KiB 0x0 0x1 0x1fffffffffffffffff", "cannot read");
    expect_blocks_refused("a b 4 KiB 0x0 0x1000 0x1000", "cannot read");
    expect_blocks_refused("4 KiB 0x0 0x1000", "cannot read");
    expect_blocks_refused("a 4 KiB 0 0x1000 0x1000\na 4 KiB 0 0x1000 0x1000", "two blocks called");
    for (guint i = 0; i < 300; i++)
        g_string_append_printf(many, "b%u 4 KiB 0x0 0x1000 0x1000\n", i);
    expect_blocks_refused(many->str, "too many blocks");
    g_string_free(many, TRUE);
}

static void test_flat_view(void **unused)
{
    g_autoptr(GPtrArray) ranges = qemu_parse_flat_view(flat_view, NULL);
    static const struct {
        const char *region;
        uint64_t address, offset;
    } wanted[] = {
        {"pc.ram", 0, 0},
        {"vga.vram", 0xfd000000, 0},
        {"system.flash0", 0xffe00000, 0},
        {"dimm 1", 0x100000000, 0},
        {"pc.ram", 0x180000000, 0xc0000000},
    };

    assert_int_equal(ranges->len, G_N_ELEMENTS(wanted));
    for (guint i = 0; i < G_N_ELEMENTS(wanted); i++) {
        QemuFlatRange *range = ranges->pdata[i];

        assert_string_equal(range->region, wanted[i].region);
        assert_true(range->address == wanted[i].address);
        assert_true(range->offset == wanted[i].offset);
    }
}

static void test_no_flat_view(void **unused)
{
    GError *error = NULL;

    assert_null(qemu_parse_flat_view("AS \"memory\"\n", &error));
    expect_text(error, "info mtree -f: unknown format");
}

static void test_host_address(void **unused)
{
    uint64_t address;

    assert_true(qemu_parse_host_address(
        "Host virtual address for 0xfffc0000 (pc.bios) is 0x7fe268200000\r\n", "pc.bios",
        &address));
    assert_true(address == 0x7fe268200000);
    assert_false(qemu_parse_host_address(
        "Host virtual address for 0xfffc0000 (pc.bios) is 0x7fe268200000\r\n", "pc.ram", &address));
    assert_false(qemu_parse_host_address("No memory is mapped at address 0x0\r\n", "x", &address));
    assert_false(qemu_parse_host_address("Memory (x) is 0x1", "x", &address));
}

static const char smaps[] =
    "556494e83000-55649528a000 r--p 00000000 fe:00 10977379          /usr/bin/qemu-system-x86_64\n"
    "Size:               4124 kB\nVmFlags: rd mr mw me \n"
    "7fe203e00000-7fe203e10000 rw-p 00000000 00:00 0 \n"
    "Size:                 64 kB\nVmFlags: rd wr mr mw me dc ac hg mg \n"
    "7fe203e10000-7fe213e00000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me dc ac uw \n"
    "7fe213e00000-7fe213e01000 ---p 00000000 00:00 0 \nVmFlags: mr mw me nr \n"
    "7fe213e02000-7fe213e03000 rw-s 00000000 00:01 1031     /memfd:x (deleted)\n"
    "VmFlags: rd wr sh mr mw me ms dc hg \n"
    "7fe213e04000-7fe213e05000 rw-s 00000000 00:01 1031     anon_inode:[vfio-device]\n"
    "VmFlags: rd wr sh mr mw me ms pf io dc \n";

static void test_smaps(void **unused)
{
    g_autoptr(GArray) mappings = qemu_parse_smaps(smaps, NULL);

    assert_int_equal(mappings->len, 2);
    assert_true(g_array_index(mappings, QemuMapping, 0).start == 0x7fe203e00000);
    assert_true(g_array_index(mappings, QemuMapping, 0).length == 0x10000000);
    assert_true(g_array_index(mappings, QemuMapping, 1).length == 0x1000);
}

/* A pretended QEMU: mappings with their content. */
typedef struct {
    uint64_t start;
    uint64_t length;
    const char *head;
    size_t head_bytes;
} Memory;

#define ROM(vendor, device) "\x55\xaa----------------------\x20\0------PCIR" vendor device, 40
#define VIRTIO_ROM ROM("\xf4\x1a", "\0\x10")
#define E1000_ROM ROM("\x86\x80", "\x0e\x10")
#define LOADER "\1\0\0\0etc/acpi/rsdp", 17

static gboolean read_memory(uint64_t address, void *buffer, size_t length, gpointer user,
                            GError **error)
{
    char *out = buffer;

    for (const Memory *m = user; m->start; m++) {
        if (address < m->start || address + length > m->start + m->length)
            continue;
        for (size_t i = 0; i < length; i++) {
            uint64_t at = address - m->start + i;

            out[i] = at < m->head_bytes ? m->head[at] : 0;
        }
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_FAILED, "bad address");
    return FALSE;
}

static GArray *mappings_of(const Memory *memory)
{
    GArray *mappings = g_array_new(FALSE, FALSE, sizeof(QemuMapping));

    for (; memory->start; memory++) {
        QemuMapping mapping = {memory->start, memory->length};

        g_array_append_val(mappings, mapping);
    }
    return mappings;
}

static void add_block(GPtrArray *blocks, const char *name, uint64_t total, uint32_t rom_ids)
{
    QemuRamBlock *block = g_new0(QemuRamBlock, 1);

    block->name = g_strdup(name);
    block->used = total;
    block->total = total;
    block->rom_ids = rom_ids;
    g_ptr_array_add(blocks, block);
}

static GPtrArray *new_blocks(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)qemu_ram_block_free);
}

static GPtrArray *one_range(const char *region, uint64_t host_address, const char *device)
{
    GPtrArray *ranges = g_ptr_array_new_with_free_func((GDestroyNotify)qemu_flat_range_free);
    QemuFlatRange *range = g_new0(QemuFlatRange, 1);

    range->region = g_strdup(region);
    range->host_address = host_address;
    range->device = g_strdup(device);
    g_ptr_array_add(ranges, range);
    return ranges;
}

static gboolean locate(GPtrArray *blocks, const Memory *memory, GPtrArray *ranges, GError **error)
{
    g_autoptr(GArray) mappings = mappings_of(memory);

    return qemu_locate_ram_blocks(blocks, mappings, ranges, read_memory, (gpointer)memory, error);
}

static void test_located_by_length(void **unused)
{
    static const Memory memory[] = {{0x10000, 0x1000}, {0x20000, 0x20000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();

    add_block(blocks, "a", 0x20000, 0);
    add_block(blocks, "b", 0x800, 0);
    assert_true(locate(blocks, memory, NULL, NULL));
    assert_int_equal(block_at(blocks, 0)->host_address, 0x20000);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x10000);
    assert_null(block_at(blocks, 0)->proof);
}

static void test_located_by_guest_address(void **unused)
{
    static const Memory memory[] = {{0x100000, 0x40000}, {0x200000, 0x40000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    g_autoptr(GPtrArray) ranges = one_range("pc.bios", 0x200000, NULL);

    add_block(blocks, "0000:00:03.0/virtio-net-pci.rom", 0x40000, 0);
    add_block(blocks, "pc.bios", 0x40000, 0);
    assert_true(locate(blocks, memory, ranges, NULL));
    assert_int_equal(block_at(blocks, 0)->host_address, 0x100000);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x200000);
}

static void test_two_cards_by_pci_address(void **unused)
{
    static const Memory memory[] = {{0x100000, 0x40000}, {0x200000, 0x40000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    g_autoptr(GPtrArray) ranges = one_range("vga.vram", 0x200000, "0000:00:02.0");

    add_block(blocks, "0000:00:02.0/vga.vram", 0x40000, 0);
    add_block(blocks, "0000:00:03.0/vga.vram", 0x40000, 0);
    assert_true(locate(blocks, memory, ranges, NULL));
    assert_int_equal(block_at(blocks, 0)->host_address, 0x200000);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x100000);
}

static void test_told_addresses_are_checked(void **unused)
{
    static const Memory memory[] = {{0x100000, 0x40000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    GError *error = NULL;

    add_block(blocks, "a", 0x40000, 0);
    block_at(blocks, 0)->host_address = 0x100000;
    assert_true(locate(blocks, memory, NULL, NULL));
    block_at(blocks, 0)->host_address = 0x101000;
    assert_false(locate(blocks, memory, NULL, &error));
    expect_text(error, "QEMU says that block \"a\" is at 0x101000");
    error = NULL;
    block_at(blocks, 0)->host_address = 0x100000;
    add_block(blocks, "b", 0x40000, 0);
    block_at(blocks, 1)->host_address = 0x100000;
    assert_false(locate(blocks, memory, NULL, &error));
    expect_text(error, "block \"b\"");
}

static void test_located_by_content(void **unused)
{
    static const Memory memory[] = {{0x100000, 0x10000, LOADER},
                                    {0x200000, 0x10000, E1000_ROM},
                                    {0x300000, 0x10000, VIRTIO_ROM},
                                    {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();

    add_block(blocks, "0000:00:02.0/e1000.rom", 0x10000, 0x8086100e);
    add_block(blocks, "0000:00:03.0/virtio-net-pci.rom", 0x10000, 0x1af41000);
    add_block(blocks, "/rom@etc/table-loader", 0x10000, 0);
    assert_true(locate(blocks, memory, NULL, NULL));
    assert_int_equal(block_at(blocks, 0)->host_address, 0x200000);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x300000);
    assert_int_equal(block_at(blocks, 2)->host_address, 0x100000);
}

/* A block of unknown content may look like anything: nothing is proven. */
static void test_unknown_content_is_not_guessed(void **unused)
{
    static const Memory memory[] = {
        {0x100000, 0x10000, "x", 1}, {0x200000, 0x10000, E1000_ROM}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();

    add_block(blocks, "0000:00:02.0/e1000.rom", 0x10000, 0x8086100e);
    add_block(blocks, "something", 0x10000, 0);
    assert_true(locate(blocks, memory, NULL, NULL));
    assert_int_equal(block_at(blocks, 0)->host_address, 0);
    assert_int_equal(block_at(blocks, 1)->host_address, 0);
    assert_string_equal(block_at(blocks, 0)->proof, block_at(blocks, 1)->proof);
    assert_int_equal(strlen(block_at(blocks, 0)->proof), 64);
}

static void test_proof_ignores_order_but_not_content(void **unused)
{
    static const Memory one[] = {{0x100000, 0x1000, "x", 1}, {0x200000, 0x1000, "y", 1}, {0}};
    static const Memory swapped[] = {{0x100000, 0x1000, "y", 1}, {0x200000, 0x1000, "x", 1}, {0}};
    static const Memory other[] = {{0x100000, 0x1000, "x", 1}, {0x200000, 0x1000, "z", 1}, {0}};
    const Memory *memories[] = {one, swapped, other};
    char *proofs[3];

    for (guint i = 0; i < 3; i++) {
        g_autoptr(GPtrArray) blocks = new_blocks();

        add_block(blocks, "a", 0x1000, 0);
        add_block(blocks, "b", 0x1000, 0);
        assert_true(locate(blocks, memories[i], NULL, NULL));
        proofs[i] = g_strdup(block_at(blocks, 0)->proof);
    }
    assert_string_equal(proofs[0], proofs[1]);
    assert_string_not_equal(proofs[0], proofs[2]);
    for (guint i = 0; i < 3; i++)
        g_free(proofs[i]);
}

static void test_twins(void **unused)
{
    static const Memory memory[] = {
        {0x100000, 0x10000, VIRTIO_ROM}, {0x200000, 0x10000, VIRTIO_ROM}, {0}};
    static const Memory later[] = {
        {0x100000, 0x10000, VIRTIO_ROM}, {0x200000, 0x10000, LOADER}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    GError *error = NULL;

    add_block(blocks, "0000:00:03.0/virtio-net-pci.rom", 0x10000, 0x1af41000);
    add_block(blocks, "0000:00:04.0/virtio-net-pci.rom", 0x10000, 0x1af41000);
    assert_true(locate(blocks, memory, NULL, NULL));
    assert_int_equal(block_at(blocks, 0)->host_address, 0x100000);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x200000);
    assert_true(qemu_check_twins(blocks, read_memory, (gpointer)memory, NULL));
    assert_false(qemu_check_twins(blocks, read_memory, (gpointer)later, &error));
    expect_text(error, "cannot tell which memory of QEMU is block");
}

static void test_missing_and_too_large(void **unused)
{
    static const Memory memory[] = {{0x100000000, 1ull << 30}, {0x200000000, 1ull << 30}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    GError *error = NULL;

    add_block(blocks, "a", 1ull << 30, 0);
    add_block(blocks, "b", 1ull << 30, 0);
    assert_false(locate(blocks, memory, NULL, &error));
    expect_text(error, "too large to compare");
    error = NULL;
    add_block(blocks, "c", 0x5000, 0);
    block_at(blocks, 0)->host_address = 0x100000000;
    block_at(blocks, 1)->host_address = 0x200000000;
    assert_false(locate(blocks, memory, NULL, &error));
    expect_text(error, "cannot find block \"c\" (20480 bytes)");
}

static const char device_tree[] =
    "bus: main-system-bus\r\n  type System\r\n  dev: q35-pcihost, id \"\"\r\n"
    "    bus: pcie.0\r\n      type PCIE\r\n"
    "      dev: pcie-root-port, id \"rp\"\r\n        port = 0 (0x0)\r\n"
    "        class PCI bridge, addr 00:02.0, pci id 1b36:000c (sub 0000:0000)\r\n"
    "        bus: rp\r\n          type PCIE\r\n"
    "          dev: virtio-net-pci, id \"\"\r\n            romfile = \"efi-virtio.rom\"\r\n"
    "            class Ethernet controller, addr 00:00.0, pci id 1af4:1041 (sub 1af4:1100)\r\n"
    "            bus: virtio-bus\r\n              dev: virtio-net-device, id \"\"\r\n"
    "      dev: e1000, id \"\"\r\n"
    "        class Ethernet controller, addr 00:03.1, pci id 8086:100e (sub 1af4:1100)\r\n";

static void test_pci_ids(void **unused)
{
    g_autoptr(GHashTable) ids = qemu_parse_pci_ids(device_tree);

    assert_int_equal(g_hash_table_size(ids), 3);
    assert_int_equal(GPOINTER_TO_UINT(g_hash_table_lookup(ids, "0000:00:02.0:00.0")), 0x1af41041);
    assert_int_equal(GPOINTER_TO_UINT(g_hash_table_lookup(ids, "0000:00:03.1")), 0x8086100e);
}

static void test_pci_device_by_address(void **unused)
{
    json_t *buses =
        json_loads("[{\"bus\": 0, \"devices\": ["
                   "{\"bus\": 0, \"slot\": 1, \"function\": 0, \"regions\": ["
                   " {\"type\": \"io\", \"address\": 4244635648, \"size\": 64}]},"
                   "{\"bus\": 0, \"slot\": 2, \"function\": 0, \"regions\": [], \"pci_bridge\": "
                   "{\"devices\": ["
                   " {\"bus\": 1, \"slot\": 0, \"function\": 3, \"regions\": ["
                   "  {\"type\": \"memory\", \"address\": 4244635648, \"size\": 16777216},"
                   "  {\"type\": \"memory\", \"address\": -1, \"size\": 65536}]}]}}]}]",
                   0, NULL);
    g_autofree char *path = qemu_pci_find_device(buses, 4244635648 + 4096);

    assert_string_equal(path, "0000:00:02.0:00.3");
    assert_null(qemu_pci_find_device(buses, 4096));
    json_decref(buses);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_of_7_2),
        cmocka_unit_test(test_blocks_of_10_0),
        cmocka_unit_test(test_hostile_blocks),
        cmocka_unit_test(test_flat_view),
        cmocka_unit_test(test_no_flat_view),
        cmocka_unit_test(test_host_address),
        cmocka_unit_test(test_smaps),
        cmocka_unit_test(test_located_by_length),
        cmocka_unit_test(test_located_by_guest_address),
        cmocka_unit_test(test_two_cards_by_pci_address),
        cmocka_unit_test(test_told_addresses_are_checked),
        cmocka_unit_test(test_located_by_content),
        cmocka_unit_test(test_unknown_content_is_not_guessed),
        cmocka_unit_test(test_proof_ignores_order_but_not_content),
        cmocka_unit_test(test_twins),
        cmocka_unit_test(test_missing_and_too_large),
        cmocka_unit_test(test_pci_ids),
        cmocka_unit_test(test_pci_device_by_address),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

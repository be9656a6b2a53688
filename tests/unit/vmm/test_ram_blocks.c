#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "memory/guest_memory.h"
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

static const char memory_tree[] =
    "address-space: VGA\r\n"
    "  0000000000000000-ffffffffffffffff (prio 0, ram): not-this\r\n\r\n"
    "address-space: memory\r\naddress-space: cpu-memory-0\r\n"
    "  0000000000000000-ffffffffffffffff (prio 0, i/o): system\r\n"
    "    0000000000000000-00000000bfffffff (prio 0, ram): alias ram-below-4g @pc.ram "
    "0000000000000000-00000000bfffffff\r\n"
    "    0000000000000000-ffffffffffffffff (prio -1, i/o): pci\r\n"
    "      00000000000c0000-00000000000dffff (prio 1, rom): pc.rom\r\n"
    "      00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram\r\n"
    "      00000000febd0400-00000000febd041f (prio 0, i/o): vga ioports remapped\r\n"
    "    00000000000c0000-00000000000c3fff (prio 1, ram): alias pam-ram @pc.ram "
    "00000000000c0000-00000000000c3fff [disabled]\r\n"
    "    00000000000c0000-00000000000c3fff (prio 1, i/o): alias pam-pci @pci "
    "00000000000c0000-00000000000c3fff\r\n"
    "    00000000000f0000-00000000000fffff (prio 1, rom): alias isa bios @system.flash 0 "
    "0000000000030000-000000000003ffff\r\n"
    "    00000000ffe00000-00000000ffffffff (prio 0, romd): system.flash0\r\n"
    "    0000000100000000-000000017fffffff (prio 0, nv-ram): dimm 1\r\n"
    "    0000000180000000-00000001ffffffff (prio 0, ram): alias broken @pc.ram\r\n"
    "\r\nmemory-region: pc.ram\r\n"
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

static void expect_changed(const char *wanted, const char *instead, const char *words)
{
    g_autoptr(GString) text = g_string_new(blocks_7_2);
    g_autoptr(GPtrArray) before = qemu_parse_ram_blocks(blocks_7_2, NULL), now = NULL;
    GError *error = NULL;

    g_string_replace(text, wanted, instead, 1);
    now = qemu_parse_ram_blocks(text->str, NULL);
    assert_non_null(now);
    assert_false(qemu_check_same_blocks(before, now, &error));
    expect_text(error, words);
}

/* As firmware does it when the guest reboots. */
static void test_blocks_that_change(void **unused)
{
    g_autoptr(GPtrArray) before = qemu_parse_ram_blocks(blocks_7_2, NULL);

    assert_true(qemu_check_same_blocks(before, before, NULL));
    expect_changed("0x0000000000020000 0x", "0x0000000000040000 0x",
                   "\"/rom@etc/acpi/tables\" of 131072 bytes was resized");
    expect_changed("vga.vram", "vga.vrom", "\"0000:00:02.0/vga.vram\" of 16777216 bytes has gone");
    expect_changed("                            4 KiB  0x0000000012140000 "
                   "0x0000000000008000 0x0000000000008000\r\n",
                   "", "has gone");
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

static void test_memory_tree(void **unused)
{
    g_autoptr(GPtrArray) ranges = qemu_parse_memory_tree(memory_tree, NULL);
    static const struct {
        const char *region;
        uint64_t address, offset;
    } wanted[] = {
        {"pc.ram", 0, 0},
        {"pc.rom", 0xc0000, 0},
        {"vga.vram", 0xfd000000, 0},
        {"system.flash 0", 0xf0000, 0x30000},
        {"system.flash0", 0xffe00000, 0},
        {"dimm 1", 0x100000000, 0},
    };

    assert_int_equal(ranges->len, G_N_ELEMENTS(wanted));
    for (guint i = 0; i < G_N_ELEMENTS(wanted); i++) {
        QemuTreeRange *range = ranges->pdata[i];

        assert_string_equal(range->region, wanted[i].region);
        assert_true(range->address == wanted[i].address);
        assert_true(range->offset == wanted[i].offset);
    }
}

static void test_no_memory_tree(void **unused)
{
    GError *error = NULL;

    assert_null(qemu_parse_memory_tree("address-space: I/O\n", &error));
    expect_text(error, "info mtree: unknown format");
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
    "55649690b000-556496990000 rw-p 006d4000 fe:00 10977379          /usr/bin/qemu-system-x86_64\n"
    "VmFlags: rd wr mr mw me \n"
    "55649699b000-5564969bc000 rw-p 00000000 00:00 0                 [heap]\n"
    "Size:                132 kB\nAnonHugePages: 0 kB\nVmFlags: rd wr mr mw me \n"
    "7fe1c0000000-7fe1c0021000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me nr \n"
    "7fe1c0021000-7fe1c4000000 ---p 00000000 00:00 0 \nVmFlags: mr mw me nr \n"
    "7fe1d0000000-7fe1d0001000 rw-p 00000000 00:00 0                 [anon:malloc]\n"
    "VmFlags: rd wr mr mw me \n"
    "7fe1e0000000-7fe1e8000000 rwxp 00000000 00:00 0 \nVmFlags: rd wr ex mr mw me \n"
    "7fe203e00000-7fe203e10000 rw-p 00000000 00:00 0 \n"
    "Size:                 64 kB\nVmFlags: rd wr mr mw me dc ac hg mg \n"
    "7fe203e10000-7fe213e00000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me dc ac uw \n"
    "7fe213e00000-7fe213e01000 ---p 00000000 00:00 0 \nVmFlags: mr mw me nr \n"
    "7fe213e02000-7fe213e03000 rw-s 00000000 00:01 1031     /memfd:x (deleted)\n"
    "VmFlags: rd wr sh mr mw me ms dc hg \n"
    "7fe213e04000-7fe213e05000 rw-s 00000000 00:01 1031     anon_inode:[vfio-device]\n"
    "VmFlags: rd wr sh mr mw me ms pf io dc \n"
    "7ffc0e1f4000-7ffc0e215000 rw-p 00000000 00:00 0                 [stack]\n"
    "VmFlags: rd wr mr mw me gd ac \n";

static void expect_mapping(const GArray *mappings, guint index, uint64_t start, uint64_t length)
{
    assert_true(index < mappings->len);
    assert_true(g_array_index(mappings, QemuMapping, index).start == start);
    assert_true(g_array_index(mappings, QemuMapping, index).length == length);
}

static void test_smaps(void **unused)
{
    g_autoptr(QemuMappings) mappings = qemu_parse_smaps(smaps, NULL);

    assert_int_equal(mappings->ram->len, 2);
    expect_mapping(mappings->ram, 0, 0x7fe203e00000, 0x10000000);
    expect_mapping(mappings->ram, 1, 0x7fe213e02000, 0x1000);
    assert_int_equal(mappings->heap->len, 3);
    expect_mapping(mappings->heap, 0, 0x55649699b000, 0x21000);
    expect_mapping(mappings->heap, 1, 0x7fe1c0000000, 0x21000);
    expect_mapping(mappings->heap, 2, 0x7fe1d0000000, 0x1000);
}

/* A pretended QEMU: mappings with their content. */
typedef struct {
    uint64_t start;
    uint64_t length;
    const char *head;
    size_t head_bytes;
} Memory;

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

/* What begins below HEAP_START is RAM, the rest is heap. */
#define HEAP_START 0x700000000000ull

static QemuMappings *mappings_of(const Memory *memory)
{
    QemuMappings *mappings = g_new0(QemuMappings, 1);

    mappings->ram = g_array_new(FALSE, FALSE, sizeof(QemuMapping));
    mappings->heap = g_array_new(FALSE, FALSE, sizeof(QemuMapping));
    for (; memory->start; memory++) {
        QemuMapping mapping = {memory->start, memory->length};

        g_array_append_val(memory->start < HEAP_START ? mappings->ram : mappings->heap, mapping);
    }
    return mappings;
}

static QemuRamBlock *add_block(GPtrArray *blocks, const char *name, uint64_t total)
{
    QemuRamBlock *block = g_new0(QemuRamBlock, 1);

    block->name = g_strdup(name);
    block->used = total;
    block->total = total;
    block->offset = (blocks->len + 1) * 0x10000000ull;
    g_ptr_array_add(blocks, block);
    return block;
}

static GPtrArray *new_blocks(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)qemu_ram_block_free);
}

static GPtrArray *one_range(const char *region, uint64_t host_address, const char *device)
{
    GPtrArray *ranges = g_ptr_array_new_with_free_func((GDestroyNotify)qemu_tree_range_free);
    QemuTreeRange *range = g_new0(QemuTreeRange, 1);

    range->region = g_strdup(region);
    range->host_address = host_address;
    range->device = g_strdup(device);
    g_ptr_array_add(ranges, range);
    return ranges;
}

static gboolean locate(GPtrArray *blocks, const Memory *memory, GPtrArray *ranges, GError **error)
{
    g_autoptr(QemuMappings) mappings = mappings_of(memory);

    return qemu_locate_ram_blocks(blocks, mappings, ranges, read_memory, (gpointer)memory, error);
}

static void test_located_by_length(void **unused)
{
    static const Memory memory[] = {{0x10000, 0x1000}, {0x20000, 0x20000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();

    add_block(blocks, "a", 0x20000);
    add_block(blocks, "b", 0x800);
    assert_true(locate(blocks, memory, NULL, NULL));
    assert_int_equal(block_at(blocks, 0)->host_address, 0x20000);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x10000);
}

static void test_located_by_guest_address(void **unused)
{
    static const Memory memory[] = {{0x100000, 0x40000}, {0x200000, 0x40000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    g_autoptr(GPtrArray) ranges = one_range("pc.bios", 0x200000, NULL);

    add_block(blocks, "0000:00:03.0/virtio-net-pci.rom", 0x40000);
    add_block(blocks, "pc.bios", 0x40000);
    assert_true(locate(blocks, memory, ranges, NULL));
    assert_int_equal(block_at(blocks, 0)->host_address, 0x100000);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x200000);
}

static void test_two_cards_by_pci_address(void **unused)
{
    static const Memory memory[] = {{0x100000, 0x40000}, {0x200000, 0x40000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    g_autoptr(GPtrArray) ranges = one_range("vga.vram", 0x200000, "0000:00:02.0");

    add_block(blocks, "0000:00:02.0/vga.vram", 0x40000);
    add_block(blocks, "0000:00:03.0/vga.vram", 0x40000);
    assert_true(locate(blocks, memory, ranges, NULL));
    assert_int_equal(block_at(blocks, 0)->host_address, 0x200000);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x100000);
}

static void test_told_addresses_are_checked(void **unused)
{
    static const Memory memory[] = {{0x100000, 0x40000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    GError *error = NULL;

    add_block(blocks, "a", 0x40000);
    block_at(blocks, 0)->host_address = 0x100000;
    assert_true(locate(blocks, memory, NULL, NULL));
    block_at(blocks, 0)->host_address = 0x101000;
    assert_false(locate(blocks, memory, NULL, &error));
    expect_text(error, "QEMU says that block \"a\" is at 0x101000");
    error = NULL;
    block_at(blocks, 0)->host_address = 0x100000;
    add_block(blocks, "b", 0x40000);
    block_at(blocks, 1)->host_address = 0x100000;
    assert_false(locate(blocks, memory, NULL, &error));
    expect_text(error, "block \"b\"");
}

/* ---- QEMU's own records ---- */

/* A record as QEMU 7.2 keeps it has one word between the host address and offset, used, total,
 * and 12 bytes behind them, then the name. */
static void add_record_of_shape(GByteArray *heap, const QemuRamBlock *block, uint64_t host_address,
                                guint words_before, guint bytes_behind)
{
    static const uint8_t nothing[256] = {0};
    const uint64_t lengths[] = {block->offset, block->used, block->total};

    g_byte_array_append(heap, nothing, 24);
    g_byte_array_append(heap, (const guint8 *)&host_address, 8);
    g_byte_array_append(heap, nothing, words_before * 8);
    g_byte_array_append(heap, (const guint8 *)lengths, sizeof lengths);
    g_byte_array_append(heap, nothing, bytes_behind);
    g_byte_array_append(heap, (const guint8 *)block->name, (guint)strlen(block->name) + 1);
    while (heap->len % 16 != 0)
        g_byte_array_append(heap, nothing, 1);
}

static void add_record(GByteArray *heap, const QemuRamBlock *block, uint64_t host_address)
{
    add_record_of_shape(heap, block, host_address, 1, 12);
}

/* Three cards of one length; one of them holds something else. */
static const Memory cards[] = {
    {0x100000, 0x40000, NULL, 0}, {0x200000, 0x40000, NULL, 0}, {0x300000, 0x40000, "x", 1}};

static GPtrArray *three_cards(void)
{
    GPtrArray *blocks = new_blocks();

    add_block(blocks, "0000:00:02.0/vga.vram", 0x40000);
    add_block(blocks, "0000:00:03.0/vga.vram", 0x40000);
    add_block(blocks, "0000:00:04.0/vga.vram", 0x40000);
    return blocks;
}

/* Locates with these bytes somewhere on the heap. */
static gboolean locate_cards(GPtrArray *blocks, const GByteArray *records, guint begin,
                             GPtrArray *ranges, GError **error)
{
    guint length = begin + records->len;
    g_autofree char *heap = g_malloc0(length + 1);
    Memory memory[5] = {cards[0], cards[1], cards[2], {HEAP_START, length + 1, heap, length}, {0}};

    memcpy(heap + begin, records->data, records->len);
    return locate(blocks, memory, ranges, error);
}

static void expect_cards(GPtrArray *blocks, uint64_t first, uint64_t second, uint64_t third)
{
    assert_int_equal(block_at(blocks, 0)->host_address, first);
    assert_int_equal(block_at(blocks, 1)->host_address, second);
    assert_int_equal(block_at(blocks, 2)->host_address, third);
}

static void expect_cards_refused(GPtrArray *blocks, const GByteArray *records, GPtrArray *ranges)
{
    GError *error = NULL;

    assert_false(locate_cards(blocks, records, 0, ranges, &error));
    expect_text(error, "cannot tell which memory of QEMU is block \"0000:00:0");
}

static void test_located_by_records(void **unused)
{
    /* Also across the pieces in which the heap is read. */
    const guint begin[] = {0, 8, 4096, (1 << 20) - 32, (1 << 20) - 64, (1 << 20) - 304, 1 << 20};

    for (guint i = 0; i < G_N_ELEMENTS(begin); i++) {
        g_autoptr(GPtrArray) blocks = three_cards();
        g_autoptr(GByteArray) records = g_byte_array_new();

        add_record(records, block_at(blocks, 1), 0x100000);
        add_record(records, block_at(blocks, 2), 0x200000);
        add_record(records, block_at(blocks, 0), 0x300000);
        assert_true(locate_cards(blocks, records, begin[i], NULL, NULL));
        expect_cards(blocks, 0x300000, 0x100000, 0x200000);
        assert_int_equal(block_at(blocks, 0)->ambiguous, 0);
    }
}

/* QEMU runs on: what was heap when the mappings were read may be gone. */
static void test_records_beside_what_is_gone(void **unused)
{
    g_autoptr(GPtrArray) blocks = three_cards();
    g_autoptr(GByteArray) records = g_byte_array_new();
    g_autofree char *heap = g_malloc0(8192);
    const Memory memory[] = {cards[0], cards[1], cards[2], {HEAP_START, 8192, heap, 8192}, {0}};
    g_autoptr(QemuMappings) mappings = mappings_of(memory);

    for (guint i = 0; i < 3; i++)
        add_record(records, block_at(blocks, i), 0x100000 * (3 - i));
    memcpy(heap + 4000, records->data, records->len);
    g_array_index(mappings->heap, QemuMapping, 0).length += 4096;
    assert_true(
        qemu_locate_ram_blocks(blocks, mappings, NULL, read_memory, (gpointer)memory, NULL));
    expect_cards(blocks, 0x300000, 0x200000, 0x100000);
}

/* What was freed may look the same: where records differ none is believed. */
static void test_records_that_differ(void **unused)
{
    g_autoptr(GPtrArray) blocks = three_cards();
    g_autoptr(GByteArray) records = g_byte_array_new();

    for (guint i = 0; i < 3; i++)
        add_record(records, block_at(blocks, i), 0x100000 * (i + 1));
    add_record(records, block_at(blocks, 0), 0x300000);
    add_record(records, block_at(blocks, 2), 0x100000);
    expect_cards_refused(blocks, records, NULL);
}

static void test_records_of_one_place(void **unused)
{
    g_autoptr(GPtrArray) blocks = three_cards();
    g_autoptr(GByteArray) records = g_byte_array_new();

    for (guint i = 0; i < 3; i++)
        add_record(records, block_at(blocks, i), 0x100000);
    expect_cards_refused(blocks, records, NULL);
}

/* Two records of one place are one, and those of places that are gone none. */
static void test_records_that_are_stale(void **unused)
{
    g_autoptr(GPtrArray) blocks = three_cards();
    g_autoptr(GByteArray) records = g_byte_array_new();

    for (guint i = 0; i < 3; i++) {
        add_record(records, block_at(blocks, i), 0x100000 * (3 - i));
        add_record(records, block_at(blocks, i), 0x400000);
        add_record(records, block_at(blocks, i), 0x101000);
        add_record(records, block_at(blocks, i), 0x100000 * (3 - i));
    }
    assert_true(locate_cards(blocks, records, 0, NULL, NULL));
    expect_cards(blocks, 0x300000, 0x200000, 0x100000);
}

/* A QEMU whose records are not what they seem to be: one card is known. */
static void test_records_that_are_wrong(void **unused)
{
    g_autoptr(GPtrArray) blocks = three_cards();
    g_autoptr(GPtrArray) ranges = one_range("vga.vram", 0x200000, "0000:00:02.0");
    g_autoptr(GByteArray) records = g_byte_array_new();

    for (guint i = 0; i < 3; i++)
        add_record(records, block_at(blocks, i), 0x100000 * (i + 1));
    expect_cards_refused(blocks, records, ranges);
}

/* Each part of a record counts. */
static void test_what_is_not_a_record(void **unused)
{
    enum { GOOD, OFFSET, TOTAL, NAME, FAR_ADDRESS, FAR_NAME, CASES };

    for (guint damage = GOOD; damage < CASES; damage++) {
        g_autoptr(GPtrArray) blocks = three_cards(), damaged = three_cards();
        g_autoptr(GByteArray) records = g_byte_array_new();

        for (guint i = 0; i < 3; i++) {
            QemuRamBlock *block = block_at(damaged, i);

            block->offset += damage == OFFSET ? 0x1000 : 0;
            block->total += damage == TOTAL ? 0x1000 : 0;
            block->name[0] = damage == NAME ? '1' : '0';
            add_record_of_shape(records, block, 0x100000 * (i + 1), damage == FAR_ADDRESS ? 9 : 1,
                                damage == FAR_NAME ? 65 : 12);
        }
        if (damage != GOOD)
            expect_cards_refused(blocks, records, NULL);
        else
            assert_true(locate_cards(blocks, records, 0, NULL, NULL));
    }
}

/* Neither a mapping of another length, nor one that another block has. */
static void test_records_of_other_mappings(void **unused)
{
    g_autoptr(GPtrArray) blocks = three_cards();
    g_autoptr(GByteArray) records = g_byte_array_new();
    g_autofree char *copy = NULL;
    Memory memory[6] = {cards[0], cards[1], cards[2], {0x500000, 0x50000, NULL, 0}};

    add_record(records, block_at(blocks, 0), 0x500000);
    add_record(records, block_at(blocks, 1), 0x100000);
    add_record(records, block_at(blocks, 2), 0x300000);
    copy = g_memdup2(records->data, records->len);
    memory[4] = (Memory){HEAP_START, records->len, copy, records->len};
    assert_true(locate(blocks, memory, NULL, NULL));
    /* What is left is the first one's. */
    expect_cards(blocks, 0x200000, 0x100000, 0x300000);
}

/* ---- ambiguous blocks ---- */

static void test_ambiguous_blocks(void **unused)
{
    static const Memory memory[] = {
        {0x100000, 0x10000, "same", 4}, {0x200000, 0x10000, "same", 4}, {0}};
    static const Memory later[] = {
        {0x100000, 0x10000, "same", 4}, {0x200000, 0x10000, "else", 4}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    GError *error = NULL;

    add_block(blocks, "0000:00:03.0/virtio-net-pci.rom", 0x10000);
    add_block(blocks, "0000:00:04.0/virtio-net-pci.rom", 0x10000);
    assert_true(locate(blocks, memory, NULL, NULL));
    assert_int_equal(block_at(blocks, 0)->host_address, 0x100000);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x200000);
    assert_true(qemu_check_ambiguous(blocks, read_memory, (gpointer)memory, NULL));
    assert_false(qemu_check_ambiguous(blocks, read_memory, (gpointer)later, &error));
    expect_text(error, "cannot tell which memory of QEMU is block \"0000:00:03.0/virtio-net-pci.rom"
                       "\" and which \"0000:00:04.0/virtio-net-pci.rom\"");
}

/* More mappings than blocks: one that holds the same may be somebody else's. */
static void test_ambiguous_must_be_all_there_are(void **unused)
{
    static const Memory memory[] = {
        {0x100000, 0x10000}, {0x200000, 0x10000}, {0x300000, 0x10000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    GError *error = NULL;

    add_block(blocks, "a", 0x10000);
    add_block(blocks, "b", 0x10000);
    assert_false(locate(blocks, memory, NULL, &error));
    expect_text(error, "block \"a\": 3 are of its length; QEMU 8.1 or newer tells");
}

static void test_ambiguous_too_large_to_compare(void **unused)
{
    static const Memory memory[] = {{0x100000000, 1ull << 30}, {0x200000000, 1ull << 30}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    GError *error = NULL;

    add_block(blocks, "a", 1ull << 30);
    add_block(blocks, "b", 1ull << 30);
    assert_false(locate(blocks, memory, NULL, &error));
    expect_text(error, "cannot tell which memory of QEMU is block \"a\": 2 are of its length");
}

static void test_missing_block(void **unused)
{
    static const Memory memory[] = {{0x100000, 0x10000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    GError *error = NULL;

    add_block(blocks, "c", 0x5000);
    assert_false(locate(blocks, memory, NULL, &error));
    expect_text(error, "cannot find block \"c\" (20480 bytes)");
}

/* A block that QEMU does not migrate needs no address, but may be what is there. */
static void test_block_without_a_name(void **unused)
{
    static const Memory memory[] = {
        {0x100000, 0x10000, "x", 1}, {0x200000, 0x10000}, {0x300000, 0x20000}, {0}};
    g_autoptr(GPtrArray) blocks = new_blocks();
    GError *error = NULL;

    add_block(blocks, "", 0x10000);
    add_block(blocks, "", 0x10000);
    add_block(blocks, "a", 0x20000);
    assert_true(locate(blocks, memory, NULL, NULL));
    assert_int_equal(block_at(blocks, 2)->host_address, 0x300000);
    add_block(blocks, "b", 0x10000);
    assert_false(locate(blocks, memory, NULL, &error));
    expect_text(error, "cannot ");
}

/* ---- a destination ---- */

static GPtrArray *new_regions(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
}

/* pc.ram as it is, tables that can be resized, a block that holds nothing yet, one that QEMU
 * does not migrate. */
static GPtrArray *destination_blocks(void)
{
    GPtrArray *blocks = new_blocks();

    add_block(blocks, "pc.ram", 0x400000);
    add_block(blocks, "/rom@etc/acpi/tables", 0x200000)->used = 0x20000;
    add_block(blocks, "empty", 0x10000)->used = 0;
    add_block(blocks, "", 0x8000);
    return blocks;
}

static void test_regions_that_fit(void **unused)
{
    const uint64_t lengths[] = {0x1000, 0x20000, 0x200000};

    for (guint i = 0; i < G_N_ELEMENTS(lengths); i++) {
        g_autoptr(GPtrArray) blocks = destination_blocks();
        g_autoptr(GPtrArray) regions = new_regions();
        g_autoptr(GPtrArray) matched = NULL;

        g_ptr_array_add(regions, ram_region_new("/rom@etc/acpi/tables", 0, lengths[i]));
        g_ptr_array_add(regions, ram_region_new("pc.ram", 0, 0x400000));
        matched = qemu_match_regions(blocks, regions, NULL);
        assert_non_null(matched);
        assert_int_equal(matched->len, 2);
        assert_ptr_equal(matched->pdata[0], block_at(blocks, 1));
        assert_ptr_equal(matched->pdata[1], block_at(blocks, 0));
    }
}

static void test_regions_that_do_not_fit(void **unused)
{
    static const struct {
        const char *name;
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {"/rom@etc/acpi/tables", 0x201000,
         "RAM block /rom@etc/acpi/tables has 2101248 bytes there and at most 2097152 here"},
        {"vga.vram", 0x1000, "RAM block vga.vram does not exist here"},
        {"", 0x8000, "does not exist here"},
        {"empty", 0x1000, "RAM block /rom@etc/acpi/tables exists only here"},
        {NULL, 0x401000, "RAM block pc.ram has 4198400 bytes there and 4194304 here"},
        {NULL, 0x3ff000, "RAM block pc.ram has 4190208 bytes there and 4194304 here"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GPtrArray) blocks = destination_blocks();
        g_autoptr(GPtrArray) regions = new_regions();
        GError *error = NULL;

        g_ptr_array_add(regions,
                        ram_region_new("pc.ram", 0, cases[i].name ? 0x400000 : cases[i].bytes));
        if (cases[i].name)
            g_ptr_array_add(regions, ram_region_new(cases[i].name, 0, cases[i].bytes));
        assert_null(qemu_match_regions(blocks, regions, &error));
        assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
        expect_text(error, cases[i].text);
    }
}

static uint8_t *make_markers(guint count)
{
    uint8_t *markers = g_malloc(count * (gsize)QEMU_MARKER_BYTES);

    for (gsize i = 0; i < count * (gsize)QEMU_MARKER_BYTES; i++)
        markers[i] = (uint8_t)(i / QEMU_MARKER_BYTES + 7 * i % 251);
    return markers;
}

static gboolean find_markers(GPtrArray *blocks, const Memory *memory, const uint8_t *markers,
                             gboolean *all, GError **error)
{
    g_autoptr(QemuMappings) mappings = mappings_of(memory);

    return qemu_find_markers(blocks, mappings->ram, markers, read_memory, (gpointer)memory, all,
                             error);
}

static void test_markers(void **unused)
{
    g_autofree uint8_t *markers = make_markers(2);
    const char *first = (const char *)markers, *second = first + QEMU_MARKER_BYTES;
    g_autoptr(GPtrArray) blocks = new_blocks();
    Memory memory[] = {{0x100000, 0x4000, NULL, 0},
                       {0x200000, 0x4000, second, 4096},
                       {0x300000, 0x4000, first, 4095},
                       {0}};
    gboolean all;

    add_block(blocks, "a", 0x4000);
    add_block(blocks, "b", 0x4000);
    /* One is not there as a whole. */
    assert_true(find_markers(blocks, memory, markers, &all, NULL));
    assert_false(all);
    assert_int_equal(block_at(blocks, 0)->host_address, 0);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x200000);
    memory[2].head_bytes = 4096;
    assert_true(find_markers(blocks, memory, markers, &all, NULL));
    assert_true(all);
    assert_int_equal(block_at(blocks, 0)->host_address, 0x300000);
    assert_int_equal(block_at(blocks, 1)->host_address, 0x200000);
}

static void test_markers_in_wrong_places(void **unused)
{
    g_autofree uint8_t *markers = make_markers(1);
    const char *first = (const char *)markers;
    const Memory twice[] = {{0x100000, 0x4000, first, 4096}, {0x200000, 0x4000, first, 4096}, {0}};
    const Memory longer[] = {{0x100000, 0x5000, first, 4096}, {0}};
    const Memory *memories[] = {twice, longer};

    for (guint i = 0; i < G_N_ELEMENTS(memories); i++) {
        g_autoptr(GPtrArray) blocks = new_blocks();
        GError *error = NULL;
        gboolean all;

        add_block(blocks, "a", 0x4000);
        assert_false(find_markers(blocks, memories[i], markers, &all, &error));
        expect_text(error, "RAM block a is in the memory of QEMU twice, or not with its length");
    }
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
        cmocka_unit_test(test_blocks_that_change),
        cmocka_unit_test(test_hostile_blocks),
        cmocka_unit_test(test_memory_tree),
        cmocka_unit_test(test_no_memory_tree),
        cmocka_unit_test(test_host_address),
        cmocka_unit_test(test_smaps),
        cmocka_unit_test(test_located_by_length),
        cmocka_unit_test(test_located_by_guest_address),
        cmocka_unit_test(test_two_cards_by_pci_address),
        cmocka_unit_test(test_told_addresses_are_checked),
        cmocka_unit_test(test_located_by_records),
        cmocka_unit_test(test_records_beside_what_is_gone),
        cmocka_unit_test(test_records_that_differ),
        cmocka_unit_test(test_records_of_one_place),
        cmocka_unit_test(test_records_that_are_stale),
        cmocka_unit_test(test_records_that_are_wrong),
        cmocka_unit_test(test_what_is_not_a_record),
        cmocka_unit_test(test_records_of_other_mappings),
        cmocka_unit_test(test_ambiguous_blocks),
        cmocka_unit_test(test_ambiguous_must_be_all_there_are),
        cmocka_unit_test(test_ambiguous_too_large_to_compare),
        cmocka_unit_test(test_missing_block),
        cmocka_unit_test(test_block_without_a_name),
        cmocka_unit_test(test_regions_that_fit),
        cmocka_unit_test(test_regions_that_do_not_fit),
        cmocka_unit_test(test_markers),
        cmocka_unit_test(test_markers_in_wrong_places),
        cmocka_unit_test(test_pci_device_by_address),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

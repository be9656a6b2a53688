/* Which mapping is which RAM block of a running QEMU. */
#include <string.h>

#include "base/error.h"
#include "vmm/qemu/ram_records.h"
#include "vmm/qemu/ram_blocks.h"

/* More is not compared: it takes time, and reading may give memory to pages
 * that have none. */
#define MAX_AMBIGUOUS_BYTES (64ull << 20)

typedef struct {
    GPtrArray *blocks;
    const QemuMappings *mappings;
    guint last_ambiguous;
    QemuMemoryReader reader;
    gpointer user;
} Locator;

/* All blocks and mappings of one length that are still open. */
typedef struct {
    uint64_t length;
    GPtrArray *blocks;
    GArray *addresses; /* of uint64_t */
} Candidates;

static gboolean is_taken(const Locator *locator, uint64_t address)
{
    for (guint i = 0; i < locator->blocks->len; i++)
        if (((QemuRamBlock *)locator->blocks->pdata[i])->host_address == address)
            return TRUE;
    return FALSE;
}

/* Is there a mapping of this length? */
static gboolean is_mapping(const Locator *locator, uint64_t start, uint64_t length)
{
    for (guint i = 0; i < locator->mappings->ram->len; i++) {
        const QemuMapping *mapping = &g_array_index(locator->mappings->ram, QemuMapping, i);

        if (mapping->start == start && mapping->length == length)
            return TRUE;
    }
    return FALSE;
}

/* Addresses that `info ramblock` told. */
static gboolean check_told(const Locator *locator, GError **error)
{
    for (guint i = 0; i < locator->blocks->len; i++) {
        const QemuRamBlock *block = locator->blocks->pdata[i];
        gboolean right = block->host_address == 0 ||
                         is_mapping(locator, block->host_address, qemu_ram_block_mapped(block));

        for (guint j = 0; j < i && block->host_address != 0; j++)
            right = right && ((QemuRamBlock *)locator->blocks->pdata[j])->host_address !=
                                 block->host_address;
        if (right)
            continue;
        error_set(error, VMFERRY_ERROR_INVALID,
                  "QEMU says that block \"%s\" is at 0x%" G_GINT64_MODIFIER
                  "x, but no memory of its length and its own is there",
                  block->name, block->host_address);
        return FALSE;
    }
    return TRUE;
}

/* "0000:00:02.0/vga.vram" is region "vga.vram" of device "0000:00:02.0". */
static gboolean name_fits(const QemuRamBlock *block, const QemuTreeRange *range)
{
    const char *slash = strrchr(block->name, '/');

    if (strcmp(block->name, range->region) == 0)
        return TRUE;
    if (!slash || strcmp(slash + 1, range->region) != 0)
        return FALSE;
    return !range->device || (strlen(range->device) == (size_t)(slash - block->name) &&
                              g_str_has_prefix(block->name, range->device));
}

/* Blocks in guest address space: name and length must fit exactly one. */
static void place_visible(Locator *locator, const QemuTreeRange *range)
{
    QemuRamBlock *found = NULL;

    if (range->host_address == 0 || is_taken(locator, range->host_address))
        return;
    for (guint i = 0; i < locator->blocks->len; i++) {
        QemuRamBlock *block = locator->blocks->pdata[i];

        if (block->host_address != 0 || !name_fits(block, range) ||
            !is_mapping(locator, range->host_address, qemu_ram_block_mapped(block)))
            continue;
        if (found)
            return;
        found = block;
    }
    if (found)
        found->host_address = range->host_address;
}

static void candidates_clear(Candidates *candidates)
{
    g_clear_pointer(&candidates->blocks, g_ptr_array_unref);
    g_clear_pointer(&candidates->addresses, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Candidates, candidates_clear)

static Candidates collect(const Locator *locator, uint64_t length)
{
    Candidates found = {length, g_ptr_array_new(), g_array_new(FALSE, FALSE, sizeof(uint64_t))};

    for (guint i = 0; i < locator->blocks->len; i++) {
        QemuRamBlock *block = locator->blocks->pdata[i];

        if (block->host_address == 0 && qemu_ram_block_mapped(block) == length)
            g_ptr_array_add(found.blocks, block);
    }
    for (guint i = 0; i < locator->mappings->ram->len; i++) {
        const QemuMapping *mapping = &g_array_index(locator->mappings->ram, QemuMapping, i);

        if (mapping->length == length && !is_taken(locator, mapping->start))
            g_array_append_val(found.addresses, mapping->start);
    }
    return found;
}

/* The only block of its length, and the only mapping. */
static void place_by_length(Locator *locator)
{
    for (guint i = 0; i < locator->blocks->len; i++) {
        QemuRamBlock *block = locator->blocks->pdata[i];
        g_auto(Candidates) same = collect(locator, qemu_ram_block_mapped(block));

        if (block->host_address == 0 && same.blocks->len == 1 && same.addresses->len == 1)
            block->host_address = g_array_index(same.addresses, uint64_t, 0);
    }
}

static gboolean all_equal(const Locator *locator, const Candidates *same, gboolean *ret,
                          GError **error)
{
    *ret = same->addresses->len == same->blocks->len &&
           same->length <= MAX_AMBIGUOUS_BYTES / same->addresses->len;
    for (guint i = 1; *ret && i < same->addresses->len; i++)
        if (!qemu_same_content(g_array_index(same->addresses, uint64_t, 0),
                               g_array_index(same->addresses, uint64_t, i), same->length,
                               locator->reader, locator->user, ret, error))
            return FALSE;
    return TRUE;
}

/* Candidates that nothing tells apart: any order is right if all are equal. */
static gboolean settle_ambiguous(Locator *locator, const Candidates *same, GError **error)
{
    const QemuRamBlock *first = same->blocks->pdata[0];
    gboolean equal;

    if (same->addresses->len < same->blocks->len) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "cannot find block \"%s\" (%" G_GUINT64_FORMAT " bytes) in the memory of QEMU",
                  first->name, first->total);
        return FALSE;
    }
    if (!all_equal(locator, same, &equal, error))
        return FALSE;
    if (!equal) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "cannot tell which memory of QEMU is block \"%s\": %u are of its length; QEMU "
                  "8.1 or newer tells",
                  first->name, same->addresses->len);
        return FALSE;
    }
    locator->last_ambiguous++;
    for (guint i = 0; i < same->blocks->len; i++) {
        QemuRamBlock *block = same->blocks->pdata[i];

        block->host_address = g_array_index(same->addresses, uint64_t, i);
        block->ambiguous = locator->last_ambiguous;
    }
    return TRUE;
}

/* Blocks without a name need no address. */
static const QemuRamBlock *next_open(const Locator *locator)
{
    for (guint i = 0; i < locator->blocks->len; i++) {
        const QemuRamBlock *block = locator->blocks->pdata[i];

        if (block->name[0] && block->host_address == 0)
            return block;
    }
    return NULL;
}

gboolean qemu_locate_ram_blocks(GPtrArray *blocks, const QemuMappings *mappings,
                                const GPtrArray *ranges, QemuMemoryReader reader, gpointer user,
                                GError **error)
{
    Locator locator = {.blocks = blocks, .mappings = mappings, .reader = reader, .user = user};
    const QemuRamBlock *block;

    if (!check_told(&locator, error))
        return FALSE;
    for (guint i = 0; ranges && i < ranges->len; i++)
        place_visible(&locator, ranges->pdata[i]);
    place_by_length(&locator);
    if (next_open(&locator))
        qemu_find_records(blocks, mappings->ram, mappings->heap, reader, user);
    while ((block = next_open(&locator))) {
        g_auto(Candidates) same = collect(&locator, qemu_ram_block_mapped(block));

        if (!settle_ambiguous(&locator, &same, error))
            return FALSE;
    }
    return TRUE;
}

#define COMPARE_BYTES (256u << 10)

gboolean qemu_same_content(uint64_t one, uint64_t other, uint64_t length, QemuMemoryReader reader,
                           gpointer user, gboolean *ret, GError **error)
{
    g_autofree uint8_t *left = g_malloc(COMPARE_BYTES), *right = g_malloc(COMPARE_BYTES);

    *ret = TRUE;
    for (uint64_t done = 0; *ret && done < length;) {
        size_t part = (size_t)MIN(length - done, COMPARE_BYTES);

        if (!reader(one + done, left, part, user, error) ||
            !reader(other + done, right, part, user, error))
            return FALSE;
        *ret = memcmp(left, right, part) == 0;
        done += part;
    }
    return TRUE;
}

static const QemuRamBlock *first_ambiguous(const GPtrArray *blocks, guint group)
{
    for (guint i = 0; i < blocks->len; i++)
        if (((const QemuRamBlock *)blocks->pdata[i])->ambiguous == group)
            return blocks->pdata[i];
    return NULL;
}

/* Compares bytes, not digests: this time is part of the pause. */
gboolean qemu_check_ambiguous(const GPtrArray *blocks, QemuMemoryReader reader, gpointer user,
                              GError **error)
{
    for (guint i = 0; i < blocks->len; i++) {
        const QemuRamBlock *block = blocks->pdata[i];
        const QemuRamBlock *first =
            block->ambiguous ? first_ambiguous(blocks, block->ambiguous) : block;
        gboolean same;

        if (first == block)
            continue;
        if (!qemu_same_content(first->host_address, block->host_address,
                               qemu_ram_block_mapped(block), reader, user, &same, error))
            return FALSE;
        if (same)
            continue;
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "cannot tell which memory of QEMU is block \"%s\" and which \"%s\"; QEMU 8.1 or "
                  "newer tells",
                  first->name, block->name);
        return FALSE;
    }
    return TRUE;
}

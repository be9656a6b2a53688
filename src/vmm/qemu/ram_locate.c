/* Which mapping is which RAM block: elimination, known content, proofs. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "vmm/qemu/ram_content.h"

#define PAGE_BYTES 4096ull
#define MAX_PROOF_BYTES (64ull << 20)

typedef struct {
    GPtrArray *blocks;
    const GArray *mappings;
    gboolean *taken; /* a mapping has its block */
    guint last_twins;
    QemuMemoryReader reader;
    gpointer user;
} Locator;

/* All blocks and mappings of one length that are still open. */
typedef struct {
    uint64_t length;
    GPtrArray *blocks;
    GArray *mappings; /* of guint, indexes */
} Candidates;

static const QemuMapping *mapping_at(const Locator *locator, guint index)
{
    return &g_array_index(locator->mappings, QemuMapping, index);
}

static uint64_t mapped_length(const QemuRamBlock *block)
{
    return (block->total + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

static gboolean find_mapping(const Locator *locator, uint64_t start, uint64_t length,
                             guint *ret_index)
{
    for (guint i = 0; i < locator->mappings->len; i++) {
        const QemuMapping *mapping = mapping_at(locator, i);

        if (mapping->start == start && mapping->length == length && !locator->taken[i]) {
            *ret_index = i;
            return TRUE;
        }
    }
    return FALSE;
}

static void assign(Locator *locator, QemuRamBlock *block, guint index)
{
    block->host_address = mapping_at(locator, index)->start;
    locator->taken[index] = TRUE;
}

/* Addresses that `info ramblock` told. */
static gboolean check_told(Locator *locator, GError **error)
{
    for (guint i = 0; i < locator->blocks->len; i++) {
        QemuRamBlock *block = locator->blocks->pdata[i];
        guint index;

        if (block->host_address == 0)
            continue;
        if (!find_mapping(locator, block->host_address, mapped_length(block), &index)) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "QEMU says that block \"%s\" is at 0x%" G_GINT64_MODIFIER
                      "x, but no memory of its length is there",
                      block->name, block->host_address);
            return FALSE;
        }
        locator->taken[index] = TRUE;
    }
    return TRUE;
}

/* "0000:00:02.0/vga.vram" is region "vga.vram" of device "0000:00:02.0". */
static gboolean name_fits(const QemuRamBlock *block, const QemuFlatRange *range)
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
static void place_visible(Locator *locator, const QemuFlatRange *range)
{
    QemuRamBlock *found = NULL;
    guint index;

    for (guint i = 0; i < locator->blocks->len; i++) {
        QemuRamBlock *block = locator->blocks->pdata[i];

        if (block->host_address != 0 || !name_fits(block, range))
            continue;
        if (!find_mapping(locator, range->host_address, mapped_length(block), &index))
            continue;
        if (found)
            return;
        found = block;
    }
    if (found && find_mapping(locator, range->host_address, mapped_length(found), &index))
        assign(locator, found, index);
}

static void candidates_clear(Candidates *candidates)
{
    g_clear_pointer(&candidates->blocks, g_ptr_array_unref);
    g_clear_pointer(&candidates->mappings, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Candidates, candidates_clear)

static Candidates collect(const Locator *locator, uint64_t length)
{
    Candidates found = {length, g_ptr_array_new(), g_array_new(FALSE, FALSE, sizeof(guint))};

    for (guint i = 0; i < locator->blocks->len; i++) {
        QemuRamBlock *block = locator->blocks->pdata[i];

        if (block->host_address == 0 && !block->proof && mapped_length(block) == length)
            g_ptr_array_add(found.blocks, block);
    }
    for (guint i = 0; i < locator->mappings->len; i++)
        if (!locator->taken[i] && mapping_at(locator, i)->length == length)
            g_array_append_val(found.mappings, i);
    return found;
}

/* The digests of all candidate mappings, one behind the other. */
static uint8_t *digest_all(const Locator *locator, const Candidates *candidates, GError **error)
{
    guint count = candidates->mappings->len;
    g_autofree uint8_t *digests = g_malloc_n(count, QEMU_DIGEST_BYTES);

    if (candidates->length * count > MAX_PROOF_BYTES) {
        QemuRamBlock *block = candidates->blocks->pdata[0];

        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "cannot tell which memory of QEMU is block \"%s\": %u are of its length and too "
                  "large to compare; QEMU 8 or newer tells",
                  block->name, count);
        return NULL;
    }
    for (guint i = 0; i < count; i++) {
        guint index = g_array_index(candidates->mappings, guint, i);

        if (!qemu_content_digest(mapping_at(locator, index)->start, candidates->length,
                                 locator->reader, locator->user, digests + i * QEMU_DIGEST_BYTES,
                                 error))
            return NULL;
    }
    return g_steal_pointer(&digests);
}

static int compare_digests(const void *left, const void *right)
{
    return memcmp(left, right, QEMU_DIGEST_BYTES);
}

/* Equal content, and as many mappings as blocks: any order is right. */
static void assign_twins(Locator *locator, const Candidates *candidates)
{
    locator->last_twins++;
    for (guint i = 0; i < candidates->blocks->len; i++) {
        QemuRamBlock *block = candidates->blocks->pdata[i];

        assign(locator, block, g_array_index(candidates->mappings, guint, i));
        block->twins = locator->last_twins;
    }
}

/* A digest over the sorted digests of all contents: the same on both sides
 * whatever the order of the mappings. */
static void set_proofs(const Candidates *candidates, uint8_t *digests)
{
    guint count = candidates->mappings->len;
    g_autofree char *proof = NULL;

    qsort(digests, count, QEMU_DIGEST_BYTES, compare_digests);
    proof =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, digests, count * (gsize)QEMU_DIGEST_BYTES);
    for (guint i = 0; i < candidates->blocks->len; i++)
        ((QemuRamBlock *)candidates->blocks->pdata[i])->proof = g_strdup(proof);
}

static gboolean all_equal(const uint8_t *digests, guint count)
{
    for (guint i = 1; i < count; i++)
        if (compare_digests(digests, digests + i * QEMU_DIGEST_BYTES) != 0)
            return FALSE;
    return TRUE;
}

/* Candidates that nothing else tells apart.  *may_be_twins*: they hold what
 * QEMU made and the guest cannot change. */
static gboolean settle(Locator *locator, const Candidates *candidates, gboolean may_be_twins,
                       GError **error)
{
    guint count = candidates->mappings->len;
    g_autofree uint8_t *digests = NULL;

    if (candidates->blocks->len == 1 && count == 1) {
        assign(locator, candidates->blocks->pdata[0],
               g_array_index(candidates->mappings, guint, 0));
        return TRUE;
    }
    digests = digest_all(locator, candidates, error);
    if (!digests)
        return FALSE;
    if (may_be_twins && count == candidates->blocks->len && all_equal(digests, count))
        assign_twins(locator, candidates);
    else
        set_proofs(candidates, digests);
    return TRUE;
}

/* The signatures of all candidate mappings; NULL with *error*. */
static GArray *read_signatures(const Locator *locator, const Candidates *all, GError **error)
{
    g_autoptr(GArray) signatures = g_array_new(FALSE, FALSE, sizeof(QemuSignature));

    for (guint i = 0; i < all->mappings->len; i++) {
        guint index = g_array_index(all->mappings, guint, i);
        QemuSignature signature;

        if (!qemu_content_signature(mapping_at(locator, index)->start, all->length, locator->reader,
                                    locator->user, &signature, error))
            return NULL;
        g_array_append_val(signatures, signature);
    }
    return g_steal_pointer(&signatures);
}

/* Those of *all* that have this signature. */
static Candidates pick(const Candidates *all, const GArray *signatures, QemuSignature wanted)
{
    Candidates picked = {all->length, g_ptr_array_new(), g_array_new(FALSE, FALSE, sizeof(guint))};

    for (guint i = 0; i < all->blocks->len; i++)
        if (qemu_block_signature(all->blocks->pdata[i]) == wanted)
            g_ptr_array_add(picked.blocks, all->blocks->pdata[i]);
    for (guint i = 0; i < all->mappings->len; i++)
        if (g_array_index(signatures, QemuSignature, i) == wanted)
            g_array_append_val(picked.mappings, g_array_index(all->mappings, guint, i));
    return picked;
}

/* Content decides only where it explains every block and every mapping: a
 * block of unknown content could look like any other. */
static gboolean signatures_prove(const Candidates *all, const GArray *signatures)
{
    gboolean proven = all->blocks->len == all->mappings->len;

    for (guint i = 0; i < all->blocks->len && proven; i++) {
        QemuSignature signature = qemu_block_signature(all->blocks->pdata[i]);
        g_auto(Candidates) same = pick(all, signatures, signature);

        proven = signature != QEMU_SIGNATURE_UNKNOWN && same.blocks->len == same.mappings->len;
    }
    return proven;
}

static gboolean settle_by_content(Locator *locator, const Candidates *all, GError **error)
{
    g_autoptr(GArray) signatures = read_signatures(locator, all, error);

    if (!signatures)
        return FALSE;
    if (!signatures_prove(all, signatures))
        return settle(locator, all, FALSE, error);
    for (guint i = 0; i < all->blocks->len; i++) {
        const QemuRamBlock *block = all->blocks->pdata[i];
        g_auto(Candidates) same = pick(all, signatures, qemu_block_signature(block));

        if (block->host_address == 0 && !block->proof && !settle(locator, &same, TRUE, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean place_by_length(Locator *locator, const QemuRamBlock *block, GError **error)
{
    g_auto(Candidates) all = collect(locator, mapped_length(block));

    if (all.mappings->len < all.blocks->len) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "cannot find block \"%s\" (%" G_GUINT64_FORMAT " bytes) in the memory of QEMU",
                  block->name, block->total);
        return FALSE;
    }
    if (all.blocks->len == 1 && all.mappings->len == 1)
        return settle(locator, &all, FALSE, error);
    return settle_by_content(locator, &all, error);
}

static gboolean locate(Locator *locator, const GPtrArray *ranges, GError **error)
{
    if (!check_told(locator, error))
        return FALSE;
    for (guint i = 0; ranges && i < ranges->len; i++)
        place_visible(locator, ranges->pdata[i]);
    for (guint i = 0; i < locator->blocks->len; i++) {
        const QemuRamBlock *block = locator->blocks->pdata[i];

        if (block->host_address == 0 && !block->proof && !place_by_length(locator, block, error))
            return FALSE;
    }
    return TRUE;
}

gboolean qemu_locate_ram_blocks(GPtrArray *blocks, const GArray *mappings, const GPtrArray *ranges,
                                QemuMemoryReader reader, gpointer user, GError **error)
{
    g_autofree gboolean *taken = g_new0(gboolean, mappings->len + 1);
    Locator locator = {
        .blocks = blocks,
        .mappings = mappings,
        .taken = taken,
        .reader = reader,
        .user = user,
    };

    return locate(&locator, ranges, error);
}

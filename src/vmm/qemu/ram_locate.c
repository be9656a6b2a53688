/* Which mapping is which RAM block: elimination, known content, proofs. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "vmm/qemu/ram_blocks.h"

#define PAGE_BYTES 4096ull
#define HEAD_BYTES 16u
#define DIGEST_BYTES 32u
#define MAX_PROOF_BYTES (64ull << 20)
#define READ_BYTES (1u << 20)

/* What a block must begin with, or a mapping does begin with. */
typedef enum {
    CONTENT_UNKNOWN,
    CONTENT_OPTION_ROM,   /* 55 AA */
    CONTENT_TABLE_LOADER, /* a first command "allocate", of a file etc/… */
    CONTENT_RSDP,         /* "RSD PTR " */
    CONTENT_KINDS,
} ContentKind;

typedef struct {
    GPtrArray *blocks;
    const GArray *mappings;
    gboolean *taken;     /* a mapping has its block */
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
                      "x, but no memory of its length is there", block->name,
                      block->host_address);
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

static ContentKind kind_of_name(const char *name)
{
    if (strcmp(name, "/rom@etc/table-loader") == 0)
        return CONTENT_TABLE_LOADER;
    if (strcmp(name, "/rom@etc/acpi/rsdp") == 0)
        return CONTENT_RSDP;
    if (g_ascii_isxdigit(name[0]) && strchr(name, ':') && g_str_has_suffix(name, ".rom"))
        return CONTENT_OPTION_ROM;
    return CONTENT_UNKNOWN;
}

static ContentKind kind_of_content(const uint8_t *head)
{
    static const uint8_t allocate[4] = {1, 0, 0, 0};

    if (head[0] == 0x55 && head[1] == 0xaa)
        return CONTENT_OPTION_ROM;
    if (memcmp(head, allocate, 4) == 0 && memcmp(head + 4, "etc/", 4) == 0)
        return CONTENT_TABLE_LOADER;
    return memcmp(head, "RSD PTR ", 8) == 0 ? CONTENT_RSDP : CONTENT_UNKNOWN;
}

/* Sorts the mappings by kind; FALSE where content proves nothing: a block of
 * unknown content could look like any other. */
static gboolean sort_by_content(const Locator *locator, const Candidates *all,
                                Candidates kinds[CONTENT_KINDS], GError **error)
{
    gboolean proven = all->blocks->len == all->mappings->len;

    for (guint i = 0; i < all->blocks->len; i++) {
        QemuRamBlock *block = all->blocks->pdata[i];

        g_ptr_array_add(kinds[kind_of_name(block->name)].blocks, block);
    }
    for (guint i = 0; i < all->mappings->len; i++) {
        guint index = g_array_index(all->mappings, guint, i);
        uint8_t head[HEAD_BYTES];

        if (!locator->reader(mapping_at(locator, index)->start, head, sizeof head, locator->user,
                             error))
            return FALSE;
        g_array_append_val(kinds[kind_of_content(head)].mappings, index);
    }
    proven = proven && kinds[CONTENT_UNKNOWN].blocks->len == 0;
    for (guint i = 0; i < CONTENT_KINDS; i++)
        proven = proven && kinds[i].blocks->len == kinds[i].mappings->len;
    return proven;
}

static gboolean digest_mapping(const Locator *locator, const QemuMapping *mapping,
                               uint8_t digest[DIGEST_BYTES], GError **error)
{
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree uint8_t *buffer = g_malloc(READ_BYTES);
    gsize digest_bytes = DIGEST_BYTES;

    for (uint64_t done = 0; done < mapping->length;) {
        size_t part = (size_t)MIN(mapping->length - done, READ_BYTES);

        if (!locator->reader(mapping->start + done, buffer, part, locator->user, error))
            return FALSE;
        g_checksum_update(checksum, buffer, (gssize)part);
        done += part;
    }
    g_checksum_get_digest(checksum, digest, &digest_bytes);
    return TRUE;
}

static int compare_digests(const void *left, const void *right)
{
    return memcmp(left, right, DIGEST_BYTES);
}

/* A digest over the sorted digests of all contents: the same on both sides
 * whatever the order of the mappings. */
static char *make_proof(const Locator *locator, const Candidates *candidates, GError **error)
{
    guint count = candidates->mappings->len;
    g_autofree uint8_t *digests = g_malloc_n(count, DIGEST_BYTES);

    if (candidates->length * count > MAX_PROOF_BYTES) {
        QemuRamBlock *block = candidates->blocks->pdata[0];

        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "cannot tell which memory of QEMU is block \"%s\": %u of its length, and too "
                  "large to compare; QEMU 8 or newer tells", block->name, count);
        return NULL;
    }
    for (guint i = 0; i < count; i++) {
        guint index = g_array_index(candidates->mappings, guint, i);

        if (!digest_mapping(locator, mapping_at(locator, index), digests + i * DIGEST_BYTES,
                            error))
            return NULL;
    }
    qsort(digests, count, DIGEST_BYTES, compare_digests);
    return g_compute_checksum_for_data(G_CHECKSUM_SHA256, digests, count * (gsize)DIGEST_BYTES);
}

/* Candidates that nothing tells apart any more. */
static gboolean settle(Locator *locator, const Candidates *candidates, GError **error)
{
    g_autofree char *proof = NULL;

    if (candidates->blocks->len == 0)
        return TRUE;
    if (candidates->blocks->len == 1 && candidates->mappings->len == 1) {
        assign(locator, candidates->blocks->pdata[0],
               g_array_index(candidates->mappings, guint, 0));
        return TRUE;
    }
    proof = make_proof(locator, candidates, error);
    if (!proof)
        return FALSE;
    for (guint i = 0; i < candidates->blocks->len; i++)
        ((QemuRamBlock *)candidates->blocks->pdata[i])->proof = g_strdup(proof);
    return TRUE;
}

static gboolean settle_by_content(Locator *locator, const Candidates *all, GError **error)
{
    Candidates kinds[CONTENT_KINDS];
    GError *failure = NULL;
    gboolean ok = TRUE;

    for (guint i = 0; i < CONTENT_KINDS; i++)
        kinds[i] = (Candidates){all->length, g_ptr_array_new(),
                                g_array_new(FALSE, FALSE, sizeof(guint))};
    if (sort_by_content(locator, all, kinds, &failure)) {
        for (guint i = 0; i < CONTENT_KINDS && ok; i++)
            ok = settle(locator, &kinds[i], error);
    } else if (failure) {
        g_propagate_error(error, failure);
        ok = FALSE;
    } else {
        ok = settle(locator, all, error);
    }
    for (guint i = 0; i < CONTENT_KINDS; i++)
        candidates_clear(&kinds[i]);
    return ok;
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
        return settle(locator, &all, error);
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

        if (block->host_address == 0 && !block->proof &&
            !place_by_length(locator, block, error))
            return FALSE;
    }
    return TRUE;
}

gboolean qemu_locate_ram_blocks(GPtrArray *blocks, const GArray *mappings,
                                const GPtrArray *ranges, QemuMemoryReader reader, gpointer user,
                                GError **error)
{
    g_autofree gboolean *taken = g_new0(gboolean, mappings->len + 1);
    Locator locator = {blocks, mappings, taken, reader, user};

    return locate(&locator, ranges, error);
}

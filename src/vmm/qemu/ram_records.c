#include "vmm/qemu/ram_records.h"

#include <string.h>

#include "base/error.h"
#include "base/page.h"

/* From the address to the lengths, and from them to the name. */
#define REACH_BYTES 64u
#define LENGTHS_BYTES 24u /* offset, used, total */
#define MAX_NAME_BYTES 256u
#define RECORD_BYTES (8 + REACH_BYTES + LENGTHS_BYTES + REACH_BYTES + MAX_NAME_BYTES)
#define CHUNK_BYTES (1u << 20)

typedef struct {
    GPtrArray *blocks;
    const GArray *ram;
    QemuMemoryReader reader;
    gpointer user;
    uint64_t *told;    /* for each block, what its records say; 0: nothing */
    gboolean *unclear; /* they differ */
} Search;

static uint64_t load(const uint8_t *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof value);
    return value;
}

static const QemuMapping *mapping_at(const GArray *ram, uint64_t start)
{
    if (start % PAGE_BYTES != 0 || ram->len == 0 ||
        start < g_array_index(ram, QemuMapping, 0).start ||
        start > g_array_index(ram, QemuMapping, ram->len - 1).start)
        return NULL;
    for (guint i = 0; i < ram->len; i++)
        if (g_array_index(ram, QemuMapping, i).start == start)
            return &g_array_index(ram, QemuMapping, i);
    return NULL;
}

/* Does what follows an address at *bytes* belong to *block*? */
static gboolean is_record(const QemuRamBlock *block, const uint8_t *bytes, size_t length)
{
    size_t name_bytes = strlen(block->name) + 1;

    for (size_t at = 8; at <= REACH_BYTES && at + LENGTHS_BYTES <= length; at += 8) {
        size_t behind = at + LENGTHS_BYTES;

        if (load(bytes + at) == block->offset && load(bytes + at + 16) == block->total)
            return memmem(bytes + behind, MIN(length - behind, REACH_BYTES + name_bytes),
                          block->name, name_bytes) != NULL;
    }
    return FALSE;
}

static void note_record(Search *search, const QemuMapping *mapping, const uint8_t *bytes,
                        size_t length)
{
    for (guint i = 0; i < search->blocks->len; i++) {
        const QemuRamBlock *block = search->blocks->pdata[i];

        if (!block->name[0] || qemu_ram_block_mapped(block) != mapping->length ||
            !is_record(block, bytes, length))
            continue;
        search->unclear[i] |= search->told[i] != 0 && search->told[i] != mapping->start;
        search->told[i] = mapping->start;
    }
}

/* Records that begin within *begin* bytes of *bytes*. */
static void search_chunk(Search *search, const uint8_t *bytes, size_t begin, size_t length)
{
    for (size_t at = 0; at < begin && at + 8 <= length; at += 8) {
        const QemuMapping *mapping = mapping_at(search->ram, load(bytes + at));

        if (mapping)
            note_record(search, mapping, bytes + at, length - at);
    }
}

/* QEMU runs, and may have given a part of its heap back by now: what cannot be
 * read in large pieces is read page by page. */
static void search_range(Search *search, uint64_t start, uint64_t end, size_t step)
{
    g_autofree uint8_t *buffer = g_malloc(step + RECORD_BYTES);

    for (uint64_t at = start; at < end; at += step) {
        size_t length = (size_t)MIN(end - at, step + RECORD_BYTES);

        if (search->reader(at, buffer, length, search->user, NULL))
            search_chunk(search, buffer, step, length);
        else if (step > PAGE_BYTES)
            search_range(search, at, at + length, PAGE_BYTES);
        else if (search->reader(at, buffer, PAGE_BYTES, search->user, NULL))
            search_chunk(search, buffer, step, PAGE_BYTES);
    }
}

/* What is known otherwise is where its records say. */
static gboolean records_are_right(const Search *search)
{
    for (guint i = 0; i < search->blocks->len; i++) {
        const QemuRamBlock *block = search->blocks->pdata[i];

        if (block->host_address != 0 && search->told[i] != 0 && !search->unclear[i] &&
            search->told[i] != block->host_address)
            return FALSE;
    }
    return TRUE;
}

/* Blocks that are, or should be, at *address*. */
static guint count_claims(const Search *search, uint64_t address)
{
    guint claims = 0;

    for (guint i = 0; i < search->blocks->len; i++) {
        const QemuRamBlock *block = search->blocks->pdata[i];

        claims += block->host_address == address ||
                  (block->host_address == 0 && search->told[i] == address);
    }
    return claims;
}

static void take_addresses(Search *search)
{
    for (guint i = 0; i < search->blocks->len; i++) {
        QemuRamBlock *block = search->blocks->pdata[i];

        if (block->host_address == 0 && search->told[i] != 0 && !search->unclear[i] &&
            count_claims(search, search->told[i]) == 1)
            block->host_address = search->told[i];
    }
}

void qemu_find_records(GPtrArray *blocks, const GArray *ram, const GArray *heap,
                       QemuMemoryReader reader, gpointer user)
{
    g_autofree uint64_t *told = g_new0(uint64_t, blocks->len + 1);
    g_autofree gboolean *unclear = g_new0(gboolean, blocks->len + 1);
    Search search = {blocks, ram, reader, user, told, unclear};

    for (guint i = 0; i < heap->len; i++) {
        const QemuMapping *piece = &g_array_index(heap, QemuMapping, i);

        search_range(&search, piece->start, piece->start + piece->length, CHUNK_BYTES);
    }
    if (records_are_right(&search))
        take_addresses(&search);
}

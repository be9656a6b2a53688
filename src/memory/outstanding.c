#include "memory/outstanding.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"

#define MAGIC "vmfpages"
#define VERSION 1u
#define WORD_BITS 64u
#define MAX_REGIONS 1024u
#define NAME_BYTES 256u /* with its NUL, as the other texts here */
#define TRANSACTION_BYTES 128u
#define MAX_REGION_BYTES (UINT64_C(1) << 46)

/* The file is read by the host that wrote it and by no other: numbers are the machine's own.
 *
 *     FileHead | FileRegion * region_count | the regions' bitmaps, in words of 64 bits
 */
typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t region_count;
    uint64_t file_bytes;
    char transaction[TRANSACTION_BYTES];
    uint64_t uncertain; /* accessed atomically */
} FileHead;

typedef struct {
    char name[NAME_BYTES];
    uint64_t host_address;
    uint64_t bytes;
} FileRegion;

G_STATIC_ASSERT(sizeof(FileHead) == 160 && sizeof(FileRegion) == 272);

typedef struct {
    uint64_t pages;
    uint64_t *words; /* in the mapping; accessed atomically */
} Bitmap;

struct OutstandingPages {
    char *transaction;
    GPtrArray *regions; /* of RamRegion */
    Bitmap *bitmaps;    /* one a region */
    void *mapping;
    size_t mapping_bytes;
    uint64_t total; /* atomic */
};

static uint64_t words_of(uint64_t pages)
{
    return (pages + WORD_BITS - 1) / WORD_BITS;
}

static uint64_t pages_of(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
}

static uint64_t heads_bytes(uint64_t region_count)
{
    return sizeof(FileHead) + region_count * sizeof(FileRegion);
}

void outstanding_free(OutstandingPages *pages)
{
    if (!pages)
        return;
    if (pages->mapping)
        munmap(pages->mapping, pages->mapping_bytes);
    g_clear_pointer(&pages->regions, g_ptr_array_unref);
    g_free(pages->bitmaps);
    g_free(pages->transaction);
    g_free(pages);
}

/* Takes what the heads say, which have been checked: nothing of them is read again. */
static OutstandingPages *take_mapping(void *mapping, size_t bytes)
{
    OutstandingPages *pages = g_new0(OutstandingPages, 1);
    const FileHead *head = mapping;
    const FileRegion *regions = (const FileRegion *)(head + 1);
    uint64_t *words = (uint64_t *)(void *)((uint8_t *)mapping + heads_bytes(head->region_count));

    pages->mapping = mapping;
    pages->mapping_bytes = bytes;
    pages->transaction = g_strdup(head->transaction);
    pages->regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    pages->bitmaps = g_new0(Bitmap, head->region_count);
    for (uint32_t i = 0; i < head->region_count; i++) {
        g_ptr_array_add(pages->regions,
                        ram_region_new(regions[i].name, regions[i].host_address, regions[i].bytes));
        pages->bitmaps[i] = (Bitmap){pages_of(regions[i].bytes), words};
        words += words_of(pages->bitmaps[i].pages);
    }
    return pages;
}

static void *map_file(int fd, size_t bytes, GError **error)
{
    void *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (mapping != MAP_FAILED)
        return mapping;
    error_set_errno(error, errno, "map it");
    return NULL;
}

/* --- making one ------------------------------------------------------------- */

static gboolean check_new(const char *transaction, const GPtrArray *regions, GError **error)
{
    if (strlen(transaction) >= TRANSACTION_BYTES || regions->len > MAX_REGIONS) {
        error_set(error, VMFERRY_ERROR_INVALID, "transaction %s with %u RAM blocks", transaction,
                  regions->len);
        return FALSE;
    }
    for (guint i = 0; i < regions->len; i++) {
        const RamRegion *region = g_ptr_array_index(regions, i);

        if (strlen(region->name) < NAME_BYTES && region->bytes > 0 &&
            region->bytes <= MAX_REGION_BYTES)
            continue;
        error_set(error, VMFERRY_ERROR_INVALID, "RAM block %s of %" PRIu64 " bytes", region->name,
                  region->bytes);
        return FALSE;
    }
    return TRUE;
}

static uint64_t file_bytes_for(const GPtrArray *regions)
{
    uint64_t words = 0;

    for (guint i = 0; i < regions->len; i++)
        words += words_of(pages_of(((const RamRegion *)g_ptr_array_index(regions, i))->bytes));
    return heads_bytes(regions->len) + words * sizeof(uint64_t);
}

static void write_heads(void *mapping, uint64_t bytes, const char *transaction,
                        const GPtrArray *ram)
{
    FileHead *head = mapping;
    FileRegion *regions = (FileRegion *)(head + 1);

    memcpy(head->magic, MAGIC, sizeof head->magic);
    head->version = VERSION;
    head->region_count = ram->len;
    head->file_bytes = bytes;
    g_strlcpy(head->transaction, transaction, sizeof head->transaction);
    for (guint i = 0; i < ram->len; i++) {
        const RamRegion *region = g_ptr_array_index(ram, i);

        g_strlcpy(regions[i].name, region->name, sizeof regions[i].name);
        regions[i].host_address = region->host_address;
        regions[i].bytes = pages_of(region->bytes) * PAGE_BYTES;
    }
}

/* Its blocks are reserved: a disk that fills up later must not be a SIGBUS at a clear of a bit. */
static OutstandingPages *create_at(const char *path, const char *transaction,
                                   const GPtrArray *regions, GError **error)
{
    uint64_t bytes = file_bytes_for(regions);
    autofd int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    void *mapping;
    int result;

    if (fd < 0) {
        error_set_errno(error, errno, "create it");
        return NULL;
    }
    result = posix_fallocate(fd, 0, (off_t)bytes);
    if (result != 0) {
        error_set_errno(error, result, "%" PRIu64 " bytes", bytes);
        return NULL;
    }
    mapping = map_file(fd, bytes, error);
    if (!mapping)
        return NULL;
    write_heads(mapping, bytes, transaction, regions);
    return take_mapping(mapping, bytes);
}

OutstandingPages *outstanding_create_for(const char *path, const char *transaction,
                                         const GPtrArray *regions, GError **error)
{
    g_autofree char *temporary = g_strconcat(path, ".new", NULL);
    g_autoptr(OutstandingPages) pages = NULL;

    if (check_new(transaction, regions, error))
        pages = create_at(temporary, transaction, regions, error);
    if (pages && rename(temporary, path) == 0)
        return g_steal_pointer(&pages);
    if (pages)
        error_set_errno(error, errno, "rename");
    unlink(temporary);
    g_prefix_error(error, "outstanding pages in %s: ", path);
    return NULL;
}

OutstandingPages *outstanding_create(const char *path, const char *transaction,
                                     const GuestMemory *memory, GError **error)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    for (guint i = 0; i < memory->regions->len; i++) {
        const GuestRegion *region = g_ptr_array_index(memory->regions, i);

        g_ptr_array_add(regions, ram_region_new(region->name, region->host_address,
                                                region->pages * PAGE_BYTES));
    }
    return outstanding_create_for(path, transaction, regions, error);
}

/* --- opening one ------------------------------------------------------------ */

static gboolean damaged(GError **error, const char *what)
{
    error_set(error, VMFERRY_ERROR_INVALID, "it is damaged: %s", what);
    return FALSE;
}

static gboolean has_end(const char *text, size_t bytes)
{
    return memchr(text, '\0', bytes) != NULL;
}

static gboolean check_region(const FileRegion *regions, uint32_t index, GError **error)
{
    const FileRegion *region = &regions[index];

    if (!has_end(region->name, sizeof region->name) || region->name[0] == '\0')
        return damaged(error, "the name of a RAM block");
    if (region->bytes == 0 || region->bytes > MAX_REGION_BYTES || region->bytes % PAGE_BYTES != 0)
        return damaged(error, "the size of a RAM block");
    if (region->host_address % PAGE_BYTES != 0 || region->host_address > UINT64_MAX - region->bytes)
        return damaged(error, "the address of a RAM block");
    for (uint32_t i = 0; i < index; i++)
        if (region->host_address < regions[i].host_address + regions[i].bytes &&
            regions[i].host_address < region->host_address + region->bytes)
            return damaged(error, "two RAM blocks in one place");
    return TRUE;
}

/* The words of a bitmap say nothing of pages behind its region. */
static gboolean check_bitmap(const uint64_t *words, uint64_t pages, GError **error)
{
    guint used = pages % WORD_BITS;

    if (used == 0 || words[pages / WORD_BITS] >> used == 0)
        return TRUE;
    return damaged(error, "a page behind the end of a RAM block");
}

static gboolean check_head(const FileHead *head, uint64_t bytes, GError **error)
{
    if (memcmp(head->magic, MAGIC, sizeof head->magic) != 0)
        return damaged(error, "no such file");
    if (head->version != VERSION) {
        error_set(error, VMFERRY_ERROR_INVALID, "it is of version %u, not %u", head->version,
                  VERSION);
        return FALSE;
    }
    if (head->region_count > MAX_REGIONS || heads_bytes(head->region_count) > bytes)
        return damaged(error, "the number of RAM blocks");
    if (head->file_bytes != bytes)
        return damaged(error, "its size");
    return has_end(head->transaction, sizeof head->transaction) ||
           damaged(error, "the transaction");
}

static gboolean check_content(const void *mapping, uint64_t bytes, GError **error)
{
    const FileHead *head = mapping;
    const FileRegion *regions = (const FileRegion *)(head + 1);
    uint64_t at;

    if (!check_head(head, bytes, error))
        return FALSE;
    at = heads_bytes(head->region_count);
    for (uint32_t i = 0; i < head->region_count; i++) {
        uint64_t words;

        if (!check_region(regions, i, error))
            return FALSE;
        words = words_of(pages_of(regions[i].bytes));
        if (words > (bytes - at) / sizeof(uint64_t))
            return damaged(error, "its bitmaps are cut short");
        if (!check_bitmap((const uint64_t *)(const void *)((const uint8_t *)mapping + at),
                          pages_of(regions[i].bytes), error))
            return FALSE;
        at += words * sizeof(uint64_t);
    }
    return at == bytes || damaged(error, "something stands behind its bitmaps");
}

static void count_all(OutstandingPages *pages)
{
    for (guint i = 0; i < pages->regions->len; i++)
        for (uint64_t k = 0; k < words_of(pages->bitmaps[i].pages); k++)
            pages->total += (uint64_t)__builtin_popcountll(pages->bitmaps[i].words[k]);
}

static OutstandingPages *open_at(const char *path, GError **error)
{
    autofd int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    OutstandingPages *pages;
    struct stat file;
    void *mapping;

    if (fd < 0 || fstat(fd, &file) < 0) {
        error_set_errno(error, errno, "open it");
        return NULL;
    }
    if (!S_ISREG(file.st_mode) || file.st_size < (off_t)sizeof(FileHead)) {
        damaged(error, "its size");
        return NULL;
    }
    mapping = map_file(fd, (size_t)file.st_size, error);
    if (!mapping)
        return NULL;
    if (!check_content(mapping, (uint64_t)file.st_size, error)) {
        munmap(mapping, (size_t)file.st_size);
        return NULL;
    }
    pages = take_mapping(mapping, (size_t)file.st_size);
    count_all(pages);
    return pages;
}

OutstandingPages *outstanding_open(const char *path, GError **error)
{
    OutstandingPages *pages = open_at(path, error);

    if (!pages)
        g_prefix_error(error, "outstanding pages in %s: ", path);
    return pages;
}

/* --- the pages --------------------------------------------------------------- */

const char *outstanding_get_transaction(const OutstandingPages *pages)
{
    return pages->transaction;
}

const GPtrArray *outstanding_get_regions(const OutstandingPages *pages)
{
    return pages->regions;
}

/* The bits of word *index* that lie in [first, end). */
static uint64_t mask_of(uint64_t index, uint64_t first, uint64_t end)
{
    uint64_t start = index * WORD_BITS;
    uint64_t mask = ~0ULL;

    if (first > start)
        mask &= ~0ULL << (first - start);
    if (end < start + WORD_BITS)
        mask &= ~0ULL >> (start + WORD_BITS - end);
    return mask;
}

static uint64_t load_word(const Bitmap *bitmap, uint64_t index)
{
    return __atomic_load_n(&bitmap->words[index], __ATOMIC_ACQUIRE);
}

gboolean outstanding_add(OutstandingPages *pages, guint region, PageSpan span, GError **error)
{
    const Bitmap *bitmap = region < pages->regions->len ? &pages->bitmaps[region] : NULL;
    uint64_t end = span.first + span.count, added = 0;

    if (!bitmap || span.first > bitmap->pages || span.count > bitmap->pages - span.first) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "outstanding pages: %" PRIu64 " from %" PRIu64 " on are not in RAM block %u",
                  span.count, span.first, region);
        return FALSE;
    }
    for (uint64_t i = span.first / WORD_BITS; span.first < end && i <= (end - 1) / WORD_BITS; i++) {
        uint64_t mask = mask_of(i, span.first, end);
        uint64_t old = __atomic_fetch_or(&bitmap->words[i], mask, __ATOMIC_ACQ_REL);

        added += (uint64_t)__builtin_popcountll(mask & ~old);
    }
    __atomic_add_fetch(&pages->total, added, __ATOMIC_ACQ_REL);
    return TRUE;
}

gboolean outstanding_has(const OutstandingPages *pages, guint region, uint64_t page)
{
    const Bitmap *bitmap = region < pages->regions->len ? &pages->bitmaps[region] : NULL;

    return bitmap && page < bitmap->pages &&
           (load_word(bitmap, page / WORD_BITS) >> (page % WORD_BITS) & 1);
}

uint64_t outstanding_remove(OutstandingPages *pages, guint region, PageSpan span)
{
    const Bitmap *bitmap = region < pages->regions->len ? &pages->bitmaps[region] : NULL;
    uint64_t end, removed = 0;

    if (!bitmap || span.first >= bitmap->pages)
        return 0;
    end = span.first + MIN(span.count, bitmap->pages - span.first);
    for (uint64_t i = span.first / WORD_BITS; span.first < end && i <= (end - 1) / WORD_BITS; i++) {
        uint64_t mask = mask_of(i, span.first, end);

        if (!(load_word(bitmap, i) & mask))
            continue; /* a cache line that is not written stays everyone's */
        removed += (uint64_t)__builtin_popcountll(
            __atomic_fetch_and(&bitmap->words[i], ~mask, __ATOMIC_ACQ_REL) & mask);
    }
    __atomic_sub_fetch(&pages->total, removed, __ATOMIC_ACQ_REL);
    return removed;
}

uint64_t outstanding_count(const OutstandingPages *pages)
{
    return __atomic_load_n(&pages->total, __ATOMIC_ACQUIRE);
}

/* First page in [from, end) whose bit, flipped by *flip*, is one; *end* where there is none. */
static uint64_t find_bit(const Bitmap *bitmap, uint64_t from, uint64_t end, uint64_t flip)
{
    for (uint64_t i = from / WORD_BITS; from < end && i <= (end - 1) / WORD_BITS; i++) {
        uint64_t word = load_word(bitmap, i) ^ flip;

        if (i == from / WORD_BITS)
            word &= ~0ULL << (from % WORD_BITS);
        if (word)
            return MIN(i * WORD_BITS + (uint64_t)__builtin_ctzll(word), end);
    }
    return end;
}

gboolean outstanding_next_run(const OutstandingPages *pages, guint region, uint64_t from,
                              uint64_t max, uint64_t *ret_first, uint64_t *ret_count)
{
    const Bitmap *bitmap = region < pages->regions->len ? &pages->bitmaps[region] : NULL;
    uint64_t first = bitmap ? find_bit(bitmap, from, bitmap->pages, 0) : 0;
    uint64_t end;

    if (!bitmap || first >= bitmap->pages)
        return FALSE;
    /* The first page may have gone meanwhile, but it was there. */
    end = first + MIN(max, bitmap->pages - first);
    *ret_first = first;
    *ret_count = first + 1 < end ? find_bit(bitmap, first + 1, end, ~0ULL) - first : end - first;
    return TRUE;
}

/* ---- bitmaps that may lack pages ---- */

void outstanding_set_uncertain(OutstandingPages *pages, gboolean uncertain)
{
    FileHead *head = pages->mapping;

    __atomic_store_n(&head->uncertain, uncertain ? 1 : 0, __ATOMIC_SEQ_CST);
}

gboolean outstanding_is_uncertain(const OutstandingPages *pages)
{
    const FileHead *head = pages->mapping;

    return __atomic_load_n(&head->uncertain, __ATOMIC_SEQ_CST) != 0;
}

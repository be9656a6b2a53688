#include "vmm/bochs/search.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/page.h"
#include "memory/maps.h"
#include "memory/pagemap.h"

#define MAX_RANGE_BYTES (256u << 20)
#define PIECE_BYTES (1u << 20)
#define OVERLAP_BYTES 63u /* a pattern's bytes but one */

static struct iovec iovec_of(uint64_t address, size_t length)
{
    return (struct iovec){(void *)(uintptr_t)address, length};
}

gboolean bochs_memory_read(const BochsProcess *process, uint64_t address, void *buffer,
                           size_t length, GError **error)
{
    struct iovec local = {buffer, length}, remote = iovec_of(address, length);

    if (process_vm_readv(process->pid, &local, 1, &remote, 1, 0) == (ssize_t)length)
        return TRUE;
    error_set_errno(error, errno, "read Bochs's memory");
    return FALSE;
}

gboolean bochs_memory_write(const BochsProcess *process, uint64_t address, const void *buffer,
                            size_t length, GError **error)
{
    struct iovec local = {(void *)buffer, length}, remote = iovec_of(address, length);

    if (process_vm_writev(process->pid, &local, 1, &remote, 1, 0) == (ssize_t)length)
        return TRUE;
    error_set_errno(error, errno, "write Bochs's memory");
    return FALSE;
}

/* Adds the places of the pattern that begin in the buffer, which is at *address*, before *limit*. */
static void search_piece(const BochsPattern *pattern, const uint8_t *buffer, size_t length,
                         size_t limit, uint64_t address, GArray *found)
{
    const uint8_t *end = buffer + length, *at = buffer;

    while (found->len < BOCHS_SEARCH_MAX) {
        uint64_t place;

        at = memmem(at, (size_t)(end - at), pattern->bytes, pattern->length);
        if (!at || (size_t)(at - buffer) >= limit)
            break;
        place = address + (uint64_t)(at - buffer);
        g_array_append_val(found, place);
        at++;
    }
}

/* What is searched. */
typedef struct {
    const BochsProcess *process;
    Pagemap *pagemap;
    const BochsPattern *patterns;
    const GPtrArray *found;
} Search;

/* Pages that have content, one behind the other. */
static void search_run(const Search *search, uint64_t start, uint64_t end)
{
    g_autofree uint8_t *piece = g_malloc(PIECE_BYTES + OVERLAP_BYTES);

    for (uint64_t at = start; at < end; at += PIECE_BYTES) {
        size_t length = MIN(PIECE_BYTES + OVERLAP_BYTES, end - at);

        if (!bochs_memory_read(search->process, at, piece, length, NULL))
            continue;
        for (guint i = 0; i < search->found->len; i++)
            search_piece(&search->patterns[i], piece, length, PIECE_BYTES, at,
                         search->found->pdata[i]);
    }
}

static void search_range(const Search *search, uint64_t start, uint64_t end)
{
    g_autoptr(PageSet) pages = page_set_new((end - start) / PAGE_BYTES);
    uint64_t first, count;

    if (end - start > MAX_RANGE_BYTES ||
        !pagemap_add_populated(search->pagemap, start, pages, NULL))
        return;
    for (uint64_t from = 0; page_set_next_run(pages, from, G_MAXUINT64, &first, &count);
         from = first + count)
        search_run(search, start + first * PAGE_BYTES, start + (first + count) * PAGE_BYTES);
}

static gboolean may_hold(const Mapping *mapping)
{
    return mapping->readable && mapping->writable && !mapping->shared &&
           (!*mapping->path || strcmp(mapping->path, "[heap]") == 0);
}

/* Guest RAM is a part of a mapping that may hold other data, too. */
static void search_mapping(const Search *search, const Mapping *mapping, const RamRegion *ram)
{
    uint64_t ram_end = ram->host_address + ram->bytes;

    if (ram->host_address >= mapping->end || ram_end <= mapping->start) {
        search_range(search, mapping->start, mapping->end);
        return;
    }
    if (ram->host_address > mapping->start)
        search_range(search, mapping->start, ram->host_address);
    if (ram_end < mapping->end)
        search_range(search, ram_end, mapping->end);
}

GPtrArray *bochs_search(const BochsProcess *process, const RamRegion *ram,
                        const BochsPattern *patterns, guint count, GError **error)
{
    g_autoptr(GPtrArray) maps = maps_read(process->pid, error);
    g_autoptr(Pagemap) pagemap = maps ? pagemap_open(process->pid, error) : NULL;
    GPtrArray *found;
    Search search;

    if (!pagemap)
        return NULL;
    found = g_ptr_array_new_with_free_func((GDestroyNotify)g_array_unref);
    search = (Search){process, pagemap, patterns, found};
    for (guint i = 0; i < count; i++)
        g_ptr_array_add(found, g_array_new(FALSE, FALSE, sizeof(uint64_t)));
    for (guint i = 0; i < maps->len; i++)
        if (may_hold(maps->pdata[i]))
            search_mapping(&search, maps->pdata[i], ram);
    return found;
}

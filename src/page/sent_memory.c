#include "base/page.h"
#include "page/sent_memory.h"

#include <pthread.h>
#include <sys/mman.h>

/* A page that was given back holds the way to the next one. */
typedef struct FreePage FreePage;
struct FreePage {
    FreePage *next;
};

struct SentMemory {
    uint64_t budget_bytes, page_limit_bytes;
    gint no_pages;        /* atomic: a page was asked for in vain, and none came back since */
    pthread_mutex_t lock; /* for all below; not a GMutex, which thread sanitizers don't see */
    GPtrArray *chunks;
    uint8_t *rest; /* of the newest chunk */
    size_t rest_bytes;
    uint64_t page_bytes;
    FreePage *free_pages;
};

/* A slot that was refused stays so: what it is for relies on one answer. */
static uint8_t refused;

static void unmap_chunk(gpointer chunk)
{
    munmap(chunk, SENT_MEMORY_CHUNK_BYTES);
}

SentMemory *sent_memory_new(uint64_t budget_bytes, uint64_t page_limit_bytes)
{
    SentMemory *memory = g_new0(SentMemory, 1);

    memory->budget_bytes = budget_bytes;
    memory->page_limit_bytes = page_limit_bytes;
    memory->chunks = g_ptr_array_new_with_free_func(unmap_chunk);
    pthread_mutex_init(&memory->lock, NULL);
    return memory;
}

void sent_memory_free(SentMemory *memory)
{
    if (!memory)
        return;
    g_ptr_array_unref(memory->chunks);
    pthread_mutex_destroy(&memory->lock);
    g_free(memory);
}

static uint64_t used_bytes(const SentMemory *memory)
{
    return (uint64_t)memory->chunks->len * SENT_MEMORY_CHUNK_BYTES;
}

/* All of a chunk will be wanted soon, so it is faulted in at once. */
static gboolean map_chunk(SentMemory *memory)
{
    void *chunk;

    if (memory->budget_bytes < used_bytes(memory) + SENT_MEMORY_CHUNK_BYTES)
        return FALSE;
    chunk = mmap(NULL, SENT_MEMORY_CHUNK_BYTES, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (chunk == MAP_FAILED)
        return FALSE;
    g_ptr_array_add(memory->chunks, chunk);
    memory->rest = chunk;
    memory->rest_bytes = SENT_MEMORY_CHUNK_BYTES;
    return TRUE;
}

static uint8_t *cut_piece(SentMemory *memory, size_t bytes)
{
    uint8_t *piece;

    if (memory->rest_bytes < bytes && !map_chunk(memory))
        return NULL;
    piece = memory->rest;
    memory->rest += bytes;
    memory->rest_bytes -= bytes;
    return piece;
}

gpointer sent_memory_ensure(SentMemory *memory, gpointer *slot, size_t bytes)
{
    gpointer piece = g_atomic_pointer_get(slot);

    if (!piece) {
        pthread_mutex_lock(&memory->lock);
        piece = g_atomic_pointer_get(slot);
        if (!piece) {
            piece = cut_piece(memory, bytes);
            if (!piece)
                piece = &refused;
            g_atomic_pointer_set(slot, piece);
        }
        pthread_mutex_unlock(&memory->lock);
    }
    return piece == &refused ? NULL : piece;
}

static uint8_t *cut_page(SentMemory *memory)
{
    uint8_t *page;

    if (memory->page_limit_bytes < memory->page_bytes + PAGE_BYTES)
        return NULL;
    page = cut_piece(memory, PAGE_BYTES);
    if (page)
        memory->page_bytes += PAGE_BYTES;
    return page;
}

uint8_t *sent_memory_take_page(SentMemory *memory)
{
    uint8_t *page;

    if (g_atomic_int_get(&memory->no_pages))
        return NULL;
    pthread_mutex_lock(&memory->lock);
    page = (uint8_t *)memory->free_pages;
    if (page)
        memory->free_pages = memory->free_pages->next;
    else
        page = cut_page(memory);
    if (!page)
        g_atomic_int_set(&memory->no_pages, TRUE);
    pthread_mutex_unlock(&memory->lock);
    return page;
}

void sent_memory_give_page(SentMemory *memory, uint8_t *page)
{
    FreePage *free_page = (FreePage *)(void *)page;

    pthread_mutex_lock(&memory->lock);
    free_page->next = memory->free_pages;
    memory->free_pages = free_page;
    g_atomic_int_set(&memory->no_pages, FALSE);
    pthread_mutex_unlock(&memory->lock);
}

uint64_t sent_memory_get_bytes(SentMemory *memory)
{
    uint64_t bytes;

    pthread_mutex_lock(&memory->lock);
    bytes = used_bytes(memory);
    pthread_mutex_unlock(&memory->lock);
    return bytes;
}

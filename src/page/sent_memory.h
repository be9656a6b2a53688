/*
 * Memory within a budget
 *
 * Theory of operation: memory is mapped a chunk (256 KiB) at a time and cut
 * into pieces; a chunk counts as used from the moment it is mapped, and no
 * chunk is mapped that would go beyond the budget.  Pieces are kept until all
 * is freed.  Pages (4096 bytes) can be given back for others; their number has
 * a limit of its own, so that they leave room for the pieces.
 *
 * Any number of threads; one lock, which is not taken where it is known that
 * there is nothing to have.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define SENT_MEMORY_CHUNK_BYTES (256u * 1024)

typedef struct SentMemory SentMemory;

/* *page_limit_bytes*: what pages may take of the budget. */
SentMemory *sent_memory_new(uint64_t budget_bytes, uint64_t page_limit_bytes);

/* Frees all pieces and pages, too.  NULL is fine. */
void sent_memory_free(SentMemory *memory);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SentMemory, sent_memory_free)

/* What *slot points at; the first time a zeroed piece of *bytes* (a multiple of
 * 64, at most a chunk), the same for all threads that ask at a time.  NULL
 * where the budget is used up, and then for this slot ever after. */
gpointer sent_memory_ensure(SentMemory *memory, gpointer *slot, size_t bytes);

/* A page with any content, or NULL where none is left. */
uint8_t *sent_memory_take_page(SentMemory *memory);
void sent_memory_give_page(SentMemory *memory, uint8_t *page);

/* Bytes mapped. */
uint64_t sent_memory_get_bytes(SentMemory *memory);

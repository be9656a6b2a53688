/*
 * Digests of a seed's pages, and which of them a page has
 *
 * Theory of operation: a *seed* is an image that the destination of a move has (docs/protocol.md, SEED).
 * Digests are numbered in the order in which they are added, which is that in which they are sent;
 * a page of the guest is looked up by its own.  They are XXH3-64 with a key that is made for each move, cut to
 * 48 bits: a hint, made fast; what is found is proven by SHA-256 when it is used (seed_reader.h).
 *
 * Digests come from a peer, so the table's hash has a random factor: nobody can choose ones that meet.
 *
 * Threads: any number may look up, while nobody adds.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct SeedIndex SeedIndex;

/* For up to *most* digests (SEED_MAX_DIGESTS at most); NULL where there is not the memory for that, or no random
 * bytes. */
SeedIndex *seed_index_new(uint32_t most, uint64_t key);
/* NULL-safe. */
void seed_index_free(SeedIndex *index);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SeedIndex, seed_index_free)

/* How many digests fit into so many bytes, at most SEED_MAX_DIGESTS. */
uint32_t seed_index_fit(uint64_t bytes);

/* Memory that it takes at most. */
uint64_t seed_index_get_bytes(const SeedIndex *index);

/* Of a page's 4096 bytes. */
uint64_t seed_index_digest(const SeedIndex *index, const uint8_t *content);

/* Gives *digest* the next number; there are fewer than *most*.  One that is there already stays found by its first
 * number. */
void seed_index_add(SeedIndex *index, uint64_t digest);

uint32_t seed_index_get_count(const SeedIndex *index);
uint32_t seed_index_get_most(const SeedIndex *index);
/* *number* is below the count. */
uint64_t seed_index_get(const SeedIndex *index, uint32_t number);

gboolean seed_index_find(const SeedIndex *index, uint64_t digest, uint32_t *ret_number);

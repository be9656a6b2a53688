#include "transfer/seed_index.h"

#include <sys/random.h>
#include <xxhash.h>

#include "base/page.h"
#include "wire/seed_frame.h"

#define LEAST_SLOT_BITS 10u
/* Beyond this load it takes many steps to find out that a digest is not there. */
#define FULL(slots) ((slots) / 4 * 3)
/* A digest, and 2.7 slots at most. */
#define MOST_BYTES_EACH (sizeof(uint64_t) + 3 * sizeof(uint32_t))

struct SeedIndex {
    uint64_t key;
    uint64_t factor; /* odd */
    uint32_t most, count;
    guint slot_bits;
    uint64_t *digests; /* by their number */
    uint32_t *slots;   /* a number and one, 0: empty */
};

SeedIndex *seed_index_new(uint32_t most, uint64_t key)
{
    g_autoptr(SeedIndex) index = g_new0(SeedIndex, 1);

    index->key = key;
    index->most = MIN(most, SEED_MAX_DIGESTS);
    index->slot_bits = LEAST_SLOT_BITS;
    while (FULL(UINT64_C(1) << index->slot_bits) < index->most)
        index->slot_bits++;
    if (getrandom(&index->factor, sizeof index->factor, 0) != (ssize_t)sizeof index->factor)
        return NULL;
    index->factor |= 1;
    index->digests = g_try_new(uint64_t, MAX(index->most, 1));
    index->slots = g_try_new0(uint32_t, UINT64_C(1) << index->slot_bits);
    return index->digests && index->slots ? g_steal_pointer(&index) : NULL;
}

void seed_index_free(SeedIndex *index)
{
    if (!index)
        return;
    g_free(index->digests);
    g_free(index->slots);
    g_free(index);
}

uint32_t seed_index_fit(uint64_t bytes)
{
    return (uint32_t)MIN(bytes / MOST_BYTES_EACH, SEED_MAX_DIGESTS);
}

uint64_t seed_index_get_bytes(const SeedIndex *index)
{
    return index->most * sizeof(uint64_t) + (sizeof(uint32_t) << index->slot_bits);
}

uint64_t seed_index_digest(const SeedIndex *index, const uint8_t *content)
{
    return XXH3_64bits_withSeed(content, PAGE_BYTES, index->key) & SEED_DIGEST_MASK;
}

/* The slot that has it, or an empty one. */
static uint32_t *find_slot(const SeedIndex *index, uint64_t digest)
{
    uint64_t mask = (UINT64_C(1) << index->slot_bits) - 1;
    uint64_t at = (digest * index->factor) >> (64 - index->slot_bits);

    while (index->slots[at] > 0 && index->digests[index->slots[at] - 1] != digest)
        at = (at + 1) & mask;
    return &index->slots[at];
}

void seed_index_add(SeedIndex *index, uint64_t digest)
{
    uint32_t *slot;

    g_return_if_fail(index->count < index->most);
    slot = find_slot(index, digest);
    index->digests[index->count++] = digest;
    if (*slot == 0)
        *slot = index->count;
}

uint32_t seed_index_get_count(const SeedIndex *index)
{
    return index->count;
}

uint32_t seed_index_get_most(const SeedIndex *index)
{
    return index->most;
}

uint64_t seed_index_get(const SeedIndex *index, uint32_t number)
{
    return index->digests[number];
}

gboolean seed_index_find(const SeedIndex *index, uint64_t digest, uint32_t *ret_number)
{
    const uint32_t *slot = find_slot(index, digest);

    if (*slot == 0)
        return FALSE;
    *ret_number = *slot - 1;
    return TRUE;
}

#include "page/content_index.h"

#include "base/lock_guard.h"
#include "base/page.h"
#include "page/fingerprint.h"

/* Beyond this load it takes many steps to find out that a page is not there. */
#define FULL(slots) ((slots) / 4 * 3)
#define LEAST_SLOTS 1024u

/* An empty slot is all zero: calloc() gives pages that are not there until used. */
typedef struct {
    uint64_t first;
    uint32_t second;
    uint32_t place_plus_one;
} Slot;

struct ContentIndex {
    FingerprintKey *keys[2];
    GMutex lock; /* protects all below */
    Slot *slots;
    uint64_t slot_count; /* a power of two */
    uint64_t used;
};

static uint64_t choose_slot_count(uint64_t pages, uint64_t most_bytes)
{
    uint64_t count = LEAST_SLOTS;

    while (FULL(count) < pages && 2 * count * sizeof(Slot) <= most_bytes)
        count *= 2;
    return count * sizeof(Slot) <= most_bytes ? count : 0;
}

ContentIndex *content_index_new(uint64_t pages, uint64_t most_bytes)
{
    g_autoptr(ContentIndex) index = g_new0(ContentIndex, 1);

    g_mutex_init(&index->lock);
    index->slot_count = choose_slot_count(pages, most_bytes);
    if (index->slot_count == 0)
        return NULL;
    for (guint i = 0; i < G_N_ELEMENTS(index->keys); i++)
        if (!(index->keys[i] = fingerprint_key_new()))
            return NULL;
    index->slots = g_try_new0(Slot, index->slot_count);
    return index->slots ? g_steal_pointer(&index) : NULL;
}

void content_index_free(ContentIndex *index)
{
    if (!index)
        return;
    for (guint i = 0; i < G_N_ELEMENTS(index->keys); i++)
        fingerprint_key_free(index->keys[i]);
    g_free(index->slots);
    g_mutex_clear(&index->lock);
    g_free(index);
}

uint64_t content_index_get_bytes(const ContentIndex *index)
{
    return index->slot_count * sizeof(Slot);
}

gboolean content_index_find_or_add(ContentIndex *index, const uint8_t *content, uint32_t place,
                                   uint32_t *ret_place)
{
    uint64_t first, second;
    uint64_t at;

    fingerprint_page(index->keys[0], content, PAGE_BYTES, &first);
    fingerprint_page(index->keys[1], content, PAGE_BYTES, &second);

    lock_guard(&index->lock);
    for (at = first & (index->slot_count - 1); index->slots[at].place_plus_one > 0;
         at = (at + 1) & (index->slot_count - 1)) {
        const Slot *slot = &index->slots[at];

        if (slot->first == first && slot->second == (uint32_t)second) {
            *ret_place = slot->place_plus_one - 1;
            return TRUE;
        }
    }
    if (index->used < FULL(index->slot_count) && place < UINT32_MAX) {
        index->slots[at] = (Slot){first, (uint32_t)second, place + 1};
        index->used++;
    }
    return FALSE;
}

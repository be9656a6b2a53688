#include "disk/peer_digests.h"

#include <string.h>

#include "base/error.h"
#include "disk/granule_digest.h"

#define RANGE_GRANULES ((guint)(PEER_DIGESTS_RANGE_BYTES / DISK_GRANULE_BYTES))
#define NOT_ASKED UINT64_MAX
G_STATIC_ASSERT(RANGE_GRANULES <= FRAME_DISK_DIGESTS_MOST);

typedef struct {
    uint64_t number; /* NOT_ASKED: it is free */
    gboolean answered;
    guint count;
    uint8_t digests[RANGE_GRANULES * FRAME_DISK_DIGEST_BYTES];
} Range;

struct PeerDigests {
    guint file;
    uint64_t bytes; /* beyond, the old file has nothing */
    uint64_t new_bytes;
    Range ranges[PEER_DIGESTS_RANGES];
};

PeerDigests *peer_digests_new(guint file, uint64_t old_bytes, uint64_t new_bytes)
{
    PeerDigests *digests = g_new0(PeerDigests, 1);

    digests->file = file;
    digests->bytes = MIN(old_bytes, new_bytes);
    digests->new_bytes = new_bytes;
    for (guint i = 0; i < PEER_DIGESTS_RANGES; i++)
        digests->ranges[i].number = NOT_ASKED;
    return digests;
}

void peer_digests_free(PeerDigests *digests)
{
    g_free(digests);
}

static uint64_t count_ranges(const PeerDigests *digests)
{
    return (digests->bytes + PEER_DIGESTS_RANGE_BYTES - 1) / PEER_DIGESTS_RANGE_BYTES;
}

/* Each range has its place, which it may have to wait for. */
static guint place_of(uint64_t number)
{
    return (guint)(number % PEER_DIGESTS_RANGES);
}

static uint64_t count_bytes(const PeerDigests *digests, uint64_t number)
{
    return MIN(PEER_DIGESTS_RANGE_BYTES, digests->new_bytes - number * PEER_DIGESTS_RANGE_BYTES);
}

gboolean peer_digests_ask(PeerDigests *digests, uint64_t offset, DiskCompare *ret)
{
    uint64_t first = offset / PEER_DIGESTS_RANGE_BYTES, end = count_ranges(digests);

    for (uint64_t i = first; i < MIN(end, first + PEER_DIGESTS_RANGES); i++) {
        Range *range = &digests->ranges[place_of(i)];

        if (range->number == i)
            continue;
        /* An answer that nobody needs any more is still to come. */
        if (range->number != NOT_ASKED && !range->answered)
            return FALSE;
        range->number = i;
        range->answered = FALSE;
        *ret = (DiskCompare){.file = digests->file,
                             .offset = i * PEER_DIGESTS_RANGE_BYTES,
                             .length = count_bytes(digests, i)};
        return TRUE;
    }
    return FALSE;
}

static Range *find_asked(PeerDigests *digests, uint64_t offset)
{
    Range *range = &digests->ranges[place_of(offset / PEER_DIGESTS_RANGE_BYTES)];

    return offset % PEER_DIGESTS_RANGE_BYTES == 0 && range->number != NOT_ASKED &&
                   range->number == offset / PEER_DIGESTS_RANGE_BYTES && !range->answered
               ? range
               : NULL;
}

gboolean peer_digests_take(PeerDigests *digests, const DiskDigests *answer, GError **error)
{
    Range *range = find_asked(digests, answer->offset);

    if (!range || answer->count > disk_count_granules(count_bytes(digests, range->number))) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "%u digests at %" G_GUINT64_FORMAT " of file %u that were not asked for",
                  answer->count, answer->offset, answer->file);
        return FALSE;
    }
    range->answered = TRUE;
    range->count = answer->count;
    memcpy(range->digests, answer->digests, (size_t)answer->count * FRAME_DISK_DIGEST_BYTES);
    return TRUE;
}

/* NULL: nothing was told of it. */
static const Range *find_told(const PeerDigests *digests, uint64_t offset)
{
    uint64_t number = offset / PEER_DIGESTS_RANGE_BYTES;
    const Range *range = &digests->ranges[place_of(number)];

    return range->number == number && range->answered ? range : NULL;
}

gboolean peer_digests_knows(const PeerDigests *digests, uint64_t offset)
{
    return offset >= digests->bytes || find_told(digests, offset);
}

const uint8_t *peer_digests_find(const PeerDigests *digests, uint64_t offset)
{
    const Range *range = offset < digests->bytes ? find_told(digests, offset) : NULL;
    guint at = (guint)(offset % PEER_DIGESTS_RANGE_BYTES / DISK_GRANULE_BYTES);
    const uint8_t *found;

    if (!range || at >= range->count)
        return NULL;
    found = range->digests + (size_t)at * FRAME_DISK_DIGEST_BYTES;
    return granule_digest_is_none(found) ? NULL : found;
}

/* STORE, STORED, UNCOVERED, LEASE and MEASURED: what is accepted keeps its limits and encodes to the same again.  The
 * first byte ("0" to "4") says which it is. */
#include <stdlib.h>
#include <string.h>

#include "base/page.h"
#include "wire/lease_frame.h"
#include "wire/measure_frame.h"
#include "wire/messages.h"
#include "wire/store_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_store(const uint8_t *data, size_t size)
{
    g_autoptr(StoreMessage) message = store_message_decode((const char *)data, size, NULL);
    g_autoptr(StoreMessage) back = NULL;
    g_autofree char *again = NULL;
    uint64_t bytes = 0;

    if (!message)
        return;
    for (guint i = 0; i < message->region_count; i++)
        bytes += message->regions[i].bytes;
    if (message->region_count == 0 || message->region_count > MESSAGE_MAX_REGIONS ||
        bytes % PAGE_BYTES != 0 || bytes > MESSAGE_MAX_MEMORY_BYTES || message->bytes > bytes ||
        strchr(message->transaction, '/'))
        abort();
    again = store_message_encode(message);
    back = store_message_decode(again, strlen(again), NULL);
    if (!back || back->region_count != message->region_count || back->term != message->term)
        abort();
}

static void try_stored(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_STORED_BYTES];
    StoredFrame frame;

    if (!stored_frame_decode(data, size, &frame, NULL))
        return;
    stored_frame_encode(&frame, again);
    if (size != sizeof again || memcmp(again, data, size) != 0)
        abort();
}

static void try_uncovered(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_UNCOVERED_BYTES];
    uint64_t pages;

    if (!uncovered_frame_decode(data, size, &pages, NULL))
        return;
    uncovered_frame_encode(pages, again);
    if (size != sizeof again || memcmp(again, data, size) != 0)
        abort();
}

static void try_measured(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_MEASURED_BYTES];
    MeasuredFrame frame;

    if (!measured_frame_decode(data, size, &frame, NULL))
        return;
    measured_frame_encode(&frame, again);
    if (size != sizeof again || memcmp(again, data, size) != 0)
        abort();
}

static void try_lease(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_LEASE_BYTES];
    LeaseFrame frame;

    if (!lease_frame_decode(data, size, &frame, NULL))
        return;
    lease_frame_encode(&frame, again);
    if (size != sizeof again || memcmp(again, data, size) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const tries[])(const uint8_t *, size_t) = {try_store, try_stored, try_uncovered,
                                                             try_lease, try_measured};

    if (size > 0)
        tries[((guint)data[0] - '0') % G_N_ELEMENTS(tries)](data + 1, size - 1);
    return 0;
}

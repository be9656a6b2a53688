/*
 * Files of a delta store: what is accepted as a head or as an epoch's record is within the limits,
 * and is written again as it was
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "transfer/delta_files.h"

#define PLACES 1000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Of a text only what stands before its NUL is kept. */
static void try_head(const uint8_t *data, size_t size)
{
    g_autoptr(DeltaHead) head = delta_head_decode(data, size, NULL);
    g_autoptr(GByteArray) encoded = NULL;
    g_autoptr(DeltaHead) again = NULL;
    uint64_t total = 0;

    if (!head)
        return;
    for (guint i = 0; i < head->regions.count; i++)
        total += head->regions.pages[i];
    if (total > DELTA_MAX_PAGES)
        abort();
    encoded = delta_head_encode(head);
    again = delta_head_decode(encoded->data, encoded->len, NULL);
    if (!again || encoded->len != size || strcmp(again->transaction, head->transaction) != 0)
        abort();
}

static void check_run(const DeltaRun *run, const PageRegions *regions)
{
    if (run->region >= regions->count || run->count == 0 ||
        run->first + run->count > regions->pages[run->region] || run->place == DELTA_PLACE_NONE ||
        (run->place >= DELTA_PLACE_FIRST && run->place + run->count > PLACES))
        abort();
}

static void try_record(const uint8_t *data, size_t size)
{
    uint64_t pages[] = {5000, 1};
    const PageRegions regions = {2, pages, NULL};
    g_autoptr(DeltaRecord) record = delta_record_decode(data, size, &regions, PLACES, NULL);
    g_autoptr(GByteArray) encoded = NULL;

    if (!record)
        return;
    for (guint i = 0; i < record->runs->len; i++)
        check_run(&g_array_index(record->runs, DeltaRun, i), &regions);
    encoded = delta_record_encode(record);
    if (encoded->len != size || memcmp(encoded->data, data, size) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_head(data, size);
    try_record(data, size);
    return 0;
}

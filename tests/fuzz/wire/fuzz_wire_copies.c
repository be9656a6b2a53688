/* COPIES payloads: what is accepted lies in its regions and encodes to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "wire/copy_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t regions[] = {16, 1ULL << 34, 0, 300};
    g_autoptr(GByteArray) again = NULL;
    static CopyFrame frame;
    uint64_t next = 0, pages = 0;

    if (!copy_frame_decode(data, size, regions, G_N_ELEMENTS(regions), &frame, NULL))
        return 0;
    for (uint32_t i = 0; i < frame.run_count; i++) {
        const CopyRun *run = &frame.runs[i];

        if (run->count == 0 || run->first < next ||
            run->first + run->count > regions[frame.region] ||
            run->source_first + run->count > regions[run->source_region])
            abort();
        next = run->first + run->count;
        pages += run->count;
    }
    if (pages > COPY_FRAME_MAX_PAGES)
        abort();
    again = g_byte_array_new();
    copy_frame_encode(again, frame.region, frame.runs, frame.run_count);
    if (again->len != size || memcmp(again->data, data, size) != 0)
        abort();
    return 0;
}

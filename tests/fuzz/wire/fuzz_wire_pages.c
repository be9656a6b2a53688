/*
 * Frame headers and PAGES payloads
 *
 * The first 12 bytes are taken as a frame header, the rest as a PAGES payload.
 */
#include <stdlib.h>
#include <string.h>

#include "wire/frame.h"
#include "base/page.h"
#include "wire/page_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_header(const uint8_t *data)
{
    uint8_t again[FRAME_HEADER_BYTES];
    FrameHeader header;

    if (!frame_header_decode(data, &header, NULL))
        return;
    if (header.length > frame_payload_limit(header.type))
        abort();
    frame_header_encode(&header, again);
    if (memcmp(data, again, sizeof again) != 0)
        abort();
}

/* What was accepted keeps the rules that those who apply it rely on. */
static void check_frame(const PageFrame *frame, const uint64_t *regions, const uint8_t *end)
{
    uint64_t from = 0, raw_pages = 0;

    for (uint32_t i = 0; i < frame->run_count; i++) {
        const PageRun *run = &frame->runs[i];

        if (run->first < from || run->count == 0 ||
            run->first + run->count > regions[frame->region])
            abort();
        from = run->first + run->count;
        raw_pages += run->kind == PAGE_RUN_RAW ? run->count : 0;
    }
    if (frame->raw + raw_pages * PAGE_BYTES != end)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t regions[] = {16, 1ULL << 34, 0, 300};
    static PageFrame frame;
    gboolean begins;
    size_t packed;
    uint32_t pages;

    if (size < FRAME_HEADER_BYTES)
        return 0;
    check_header(data);
    if (page_frame_decode(data + FRAME_HEADER_BYTES, size - FRAME_HEADER_BYTES, regions,
                          G_N_ELEMENTS(regions), &frame, NULL))
        check_frame(&frame, regions, data + size);
    if (page_frame_decode_window(data + FRAME_HEADER_BYTES, size - FRAME_HEADER_BYTES, regions,
                                 G_N_ELEMENTS(regions), &frame, &begins, &packed, &pages, NULL) &&
        (pages == 0 || packed == 0 || frame.raw + packed != data + size))
        abort();
    return 0;
}

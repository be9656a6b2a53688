/* Frames of pages, as an image takes them: PAGES, PAGES_LZ4 and PAGES_ZSTD (docs/protocol.md). */
#pragma once

#include "page/pack.h"
#include "transfer/page_source.h"
#include "wire/channel.h"
#include "wire/page_frame.h"

/* What a frame has besides its runs; its stored bytes are at PageFrame.raw. */
typedef struct {
    PackMethod method;
    size_t length;      /* of the stored bytes */
    uint32_t raw_pages; /* that they are, or become */
} ImageFrameFacts;

/* Checks all but that it unpacks.  INVALID for other frames, and where runs or length are wrong. */
gboolean image_frame_decode(const Frame *frame, const PageRegions *regions, PageFrame *ret,
                            ImageFrameFacts *ret_facts, GError **error);

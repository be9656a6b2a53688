#include "image/image_frame.h"

#include "base/error.h"
#include "base/page.h"

gboolean image_frame_decode(const Frame *frame, const PageRegions *regions, PageFrame *ret,
                            ImageFrameFacts *ret_facts, GError **error)
{
    switch (frame->type) {
    case FRAME_PAGES:
        ret_facts->method = PACK_NONE;
        if (!page_frame_decode(frame->payload, frame->length, regions->pages, regions->count, ret,
                               error))
            return FALSE;
        ret_facts->length = (size_t)(frame->payload + frame->length - ret->raw);
        ret_facts->raw_pages = (uint32_t)(ret_facts->length / PAGE_BYTES);
        return TRUE;
    case FRAME_PAGES_LZ4:
    case FRAME_PAGES_ZSTD:
        ret_facts->method = frame->type == FRAME_PAGES_LZ4 ? PACK_LZ4 : PACK_ZSTD;
        return page_frame_decode_packed(frame->payload, frame->length, regions->pages,
                                        regions->count, ret, &ret_facts->length,
                                        &ret_facts->raw_pages, error);
    default:
        error_set(error, VMFERRY_ERROR_INVALID, "a saved image takes no %s frames",
                  frame_type_name(frame->type));
        return FALSE;
    }
}

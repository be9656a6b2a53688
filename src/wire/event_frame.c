#include "wire/event_frame.h"

#include "base/error.h"
#include "base/page.h"

void event_frame_append(GByteArray *out, const WriteEvent *event)
{
    byte_write_le32(out, event->disk);
    byte_write_le32(out, event->region);
    byte_write_le64(out, event->offset);
    byte_write_le64(out, event->page);
    byte_write_le32(out, event->pages);
    byte_write_le32(out, 0);
}

/* Written so that no sum can overflow. */
static gboolean is_within(uint64_t first, uint64_t count, uint64_t all)
{
    return first < all && count <= all - first;
}

static const char *find_problem(const WriteEvent *event, uint32_t reserved, const uint64_t *bytes,
                                guint count, const uint64_t *region_pages, guint region_count)
{
    if (event->disk >= count || event->region >= region_count || reserved != 0)
        return "is of no disk, or of no region";
    if (event->pages == 0 || event->pages > EVENT_FRAME_MOST_PAGES ||
        event->offset % PAGE_BYTES != 0)
        return "is empty, too long, or not of whole blocks";
    if (!is_within(event->offset, (uint64_t)event->pages * PAGE_BYTES, bytes[event->disk]) ||
        !is_within(event->page, event->pages, region_pages[event->region]))
        return "is beyond its disk or its region";
    return NULL;
}

int event_frame_read(ByteReader *reader, const uint64_t *bytes, guint count,
                     const uint64_t *region_pages, guint region_count, WriteEvent *ret,
                     GError **error)
{
    const char *problem;
    uint32_t reserved;

    if (reader->left == 0)
        return 0;
    *ret = (WriteEvent){.disk = byte_read_le32(reader)};
    ret->region = byte_read_le32(reader);
    ret->offset = byte_read_le64(reader);
    ret->page = byte_read_le64(reader);
    ret->pages = byte_read_le32(reader);
    reserved = byte_read_le32(reader);
    problem = byte_reader_ok(reader)
                  ? find_problem(ret, reserved, bytes, count, region_pages, region_count)
                  : "is cut off";
    if (!problem)
        return 1;
    error_set(error, VMFERRY_ERROR_INVALID, "EPOCH_EVENTS: an event %s", problem);
    return -1;
}

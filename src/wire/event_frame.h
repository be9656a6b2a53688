/*
 * EPOCH_EVENTS: disk writes of an epoch whose data is in the guest's memory
 *
 *     0   events of 32 bytes: u32 disk, u32 region, u64 offset on the disk (bytes, a multiple of 4096),
 *         u64 first page, u32 pages, u32 0
 *
 * Each was written with what these pages hold in this epoch.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/bytes.h"
#include "wire/frame.h"

/* In one event. */
#define EVENT_FRAME_MOST_PAGES 256u

typedef struct {
    uint32_t disk, region;
    uint64_t offset; /* on the disk, bytes */
    uint64_t page;
    uint32_t pages;
} WriteEvent;

void event_frame_append(GByteArray *out, const WriteEvent *event);

/* The next one of a payload: within its disk (*bytes* has the sizes of *count* disks) and within its
 * region.  Returns 1; 0 at the end; -1 with INVALID. */
int event_frame_read(ByteReader *reader, const uint64_t *bytes, guint count,
                     const uint64_t *region_pages, guint region_count, WriteEvent *ret,
                     GError **error);

/*
 * The VGA's memory inside Bochs
 *
 * Theory of operation: Bochs has it in one allocation, which a C library's allocator puts 16 bytes behind a page's beginning.  Memory
 * is read, written and tracked by pages, so before the machine has run Bochs is told, in the two places that point to it, that it
 * begins at the next page; the allocation is large enough, and its header is written there, so that it can be freed.
 *
 * In the modes of the VBE extension both QEMU and Bochs have a picture's bytes one after the other.  In those of the VGA, of four planes, QEMU
 * has the planes' bytes side by side, and Bochs has each plane for itself; text, which is of two planes, it has as the
 * processor sees it.  The neutral order is QEMU's.  While the machine is paused the memory is in that order, and
 * while it runs in Bochs's own.
 */
#pragma once

#include "memory/guest_memory.h"
#include "vmm/bochs/process.h"

/* Of a Bochs with a VGA card that is at its first prompt, where all is 0 (which is both orders).  The region
 * VMM_NEUTRAL_VIDEO; free with ram_region_free(). */
RamRegion *bochs_video_open(BochsProcess *process, const RamRegion *ram, GError **error);

/* What the planes' memory is in the neutral order, or out of it, by the mode that Bochs shows: BOCHS_PLANES_BYTES for its
 * beginning, free with g_free(); *ret NULL: it is the same.  The machine is paused. */
gboolean bochs_video_reorder(BochsProcess *process, const RamRegion *video, gboolean to_neutral,
                             uint8_t **ret, GError **error);

/* The same of the planes' memory, in *bytes*: what is at one place of the one order in the other.  For tests. */
typedef enum { BOCHS_PLANES_TEXT, BOCHS_PLANES_CHAINED, BOCHS_PLANES_SEPARATE } BochsPlanes;

#define BOCHS_PLANES_BYTES 262144u

void bochs_planes_reorder(BochsPlanes planes, gboolean to_neutral,
                          const uint8_t from[BOCHS_PLANES_BYTES], uint8_t to[BOCHS_PLANES_BYTES]);

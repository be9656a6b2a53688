/*
 * Patching pages of guest RAM with what changed inside them
 *
 * Theory of operation: walks over the body of a SEGMENTS frame and writes its
 * segments over what is there.  Each piece that process_vm_writev(2) writes
 * costs about 0.7 us, a whole page read or written about 1.5 us (measured, with
 * nothing to be faulted in); so pages of a few segments are written piece by
 * piece, and those of many are read, patched here, and written back.  Both ways gather many pages
 * for one system call.
 *
 * Nobody else may write the pages meanwhile: the guest is not running here yet,
 * and no other frame of the round names them.
 *
 * Threads: one patcher each; any number of patchers on one memory.
 */
#pragma once

#include <glib.h>

#include "memory/guest_memory.h"
#include "wire/segment_frame.h"

typedef struct PagePatcher PagePatcher;

/* Borrows *memory*. */
PagePatcher *page_patcher_new(GuestMemory *memory);
/* NULL-safe. */
void page_patcher_free(PagePatcher *patcher);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PagePatcher, page_patcher_free)

/* The pages of the last frame that was applied, *ret_count* of them, as far as
 * it got; valid until the next. */
const uint64_t *page_patcher_get_pages(const PagePatcher *patcher, guint *ret_count);

/* Applies an unpacked body of head->body_bytes.  The head was checked
 * (segment_frame_decode_head()).  INVALID where the body is malformed, other
 * errors where guest RAM can't be written; some of its pages may be patched
 * then. */
gboolean page_patcher_apply(PagePatcher *patcher, const SegmentFrameHead *head, const uint8_t *body,
                            GError **error);

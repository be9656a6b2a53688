/*
 * A guest's memory as a source and as a sink of pages
 *
 * Theory of operation: both reach into another process (memory/guest_memory.h).
 * What goes into the sink is in the guest's memory when the call returns, so a
 * failed epoch cannot be taken back: such a guest must not run.
 *
 * Zeroing: pages that may hold something are noted, those that do at the start
 * too, and only they are written; naming pages costs the receiver no more than it
 * cost the sender to fill them.
 *
 * Patching: each piece that process_vm_writev(2) writes costs about 0.7 us, a
 * whole page read or written about 1.5 us (measured, with nothing to be faulted
 * in); so pages of a few segments are written piece by piece, and those of many
 * are read, patched here, and written back.  Both ways gather many pages for one
 * system call.
 *
 * Limits: that a patched page holds what the patch was made against is the
 * source's duty; here it can't be seen (DIGESTS would show it).
 */
#pragma once

#include "memory/guest_memory.h"
#include "transfer/page_sink.h"
#include "transfer/page_source.h"

/* Both borrow *memory*. */
PageSource *guest_source_new(GuestMemory *memory);
PageSink *guest_sink_new(GuestMemory *memory);

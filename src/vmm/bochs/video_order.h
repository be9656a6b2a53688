/*
 * The order that the VGA's memory inside Bochs is in (video.h)
 *
 * Theory of operation: it is on record in the folder of Bochs's process, in the file `order`: 'n' (neutral) or 'b' (Bochs's own);
 * where there is none the machine has not run, and it is neutral.  Before the memory is written the file has, behind the letter, what it
 * is to be, and after that the letter alone.  So whoever finds it amid a change, in this agent or the next one, writes the same
 * again: nothing is put in order twice.
 */
#pragma once

#include "memory/guest_memory.h"
#include "vmm/bochs/process.h"

/* The machine is paused.  After a failure it may be called again, for either order. */
gboolean bochs_video_order_set(BochsProcess *process, const RamRegion *video, gboolean neutral,
                               GError **error);

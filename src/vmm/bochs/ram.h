/*
 * Guest RAM inside Bochs
 *
 * Theory of operation: Bochs has the guest's RAM in one piece of private memory, whose address
 * ("vector") its log tells, but gives it out in blocks of 128 KiB in the order in which the guest
 * touches them; `memory.mapping.blkN` of its state says which block is where.  Before the guest has touched
 * anything the mapping is set so that block N is the N-th: from then on RAM is linear, and is read,
 * written and tracked (memory/) as any other.  RAM is what the guest has below its ROMs and
 * devices: shadow RAM behind them is in it, at its address.
 */
#pragma once

#include "memory/guest_memory.h"
#include "vmm/bochs/process.h"

#define BOCHS_RAM_NAME "ram"

/* Of a Bochs that is at its first prompt.  The region of *bytes*; free with ram_region_free(). */
RamRegion *bochs_ram_open(BochsProcess *process, uint64_t bytes, GError **error);

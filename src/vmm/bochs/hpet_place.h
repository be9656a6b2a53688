/*
 * What a Bochs's HPET counts from
 *
 * While it runs its main counter is a value at a time, and what has passed since; neither is among Bochs's
 * parameters.  In the device's memory they are beside one that is (found with Bochs 2.7), which is set to a random number and
 * looked for; that the capabilities register is where it is expected says that the rest is, too.
 */
#pragma once

#include "memory/guest_memory.h"
#include "vmm/bochs/process.h"

#define BOCHS_HPET_REFERENCE "reference" /* the counter, and the time in ns, 8 bytes each */
#define BOCHS_HPET_REFERENCE_BYTES 16u

/* Of a machine that is at its first prompt.  *ret*: the address in Bochs's process. */
gboolean bochs_hpet_find(BochsProcess *process, const RamRegion *ram, uint64_t *ret,
                         GError **error);

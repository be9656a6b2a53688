/*
 * Stopping a Bochs at a good moment
 *
 * A disk's transfer takes milliseconds of the guest's clock, which are many more of ours, and when it has ended the guest begins the next one
 * soon: where it is stopped at random it is nearly always in the middle of one, which has no neutral form.  So one that was just
 * stopped there runs on in steps that are shorter than what a guest needs between two, until nothing is under way, for a
 * bounded time.
 */
#pragma once

#include "vmm/bochs/process.h"

#define BOCHS_SETTLE_MS 1500

/* It stands at its prompt, and does so afterwards, at a good moment or not. */
gboolean bochs_settle(BochsProcess *process, guint vcpus, GError **error);

/*
 * Starting a Bochs's HPET
 *
 * What its main counter is counted from is not among Bochs's parameters: it takes the counter that was set
 * when its guest enables it, and arms its timers.  So the guest's processor, which has not run
 * yet, executes the one instruction that does so, in real mode with a data segment of 4 GiB; its state is
 * set afterwards.  The bytes of guest RAM that the instruction is put into are put back.
 */
#pragma once

#include "vmm/bochs/process.h"

/* Writes the general configuration register, once all else of the HPET is set with it at 0, and the clock is
 * as it is to be.  *ram* is the address of guest RAM in Bochs's process. */
gboolean bochs_hpet_start(BochsProcess *process, uint64_t ram, uint32_t config, GError **error);

/*
 * A Bochs for a machine in the neutral form
 *
 * Theory of operation: what a MachineDescription has must be what Bochs can make (machine.h), with each
 * device at its place, since the guest has found it there.  All that cannot be is told at
 * once, each by name, so that a user who wants to know what to change asks once.
 *
 * `ips` is the rate of the guest's TSC: Bochs has one clock.
 */
#pragma once

#include "state/machine_description.h"
#include "vmm/bochs/machine.h"

/* The command line (command_line.h), of a program "bochs" and without a time for its clock; of a machine that was a Bochs
 * before, its own.  Free with g_strfreev().  UNSUPPORTED with all that cannot be. */
char **bochs_plan(const MachineDescription *machine, GError **error);

/* The other way: what such a machine is made of, without the command line it was made by.  Free with
 * machine_description_free(). */
MachineDescription *bochs_describe(const BochsMachine *machine);

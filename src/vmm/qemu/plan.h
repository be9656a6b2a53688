/*
 * A QEMU for a machine in the neutral form
 *
 * Theory of operation: a machine that a QEMU made is made by the command line it had there.  Of any other one
 * a line is written from what the description has: a `pc` without QEMU's own choice of devices, each device
 * at its place, disks by their paths, network cards connected to nothing, a serial line to nowhere.
 * Whoever wants it otherwise has map rules, and devices can be plugged later.  All that is
 * not known is told at once, each by name.
 *
 * The CPU is the model of QEMU's that has all of the guest's features and least besides, or "max".
 */
#pragma once

#include "state/machine_description.h"

/* Program first; free with g_strfreev().  UNSUPPORTED with all that cannot be. */
char **qemu_plan(const MachineDescription *machine, GError **error);

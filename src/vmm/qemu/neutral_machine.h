/*
 * A live QEMU's machine in the neutral form
 *
 * Theory of operation: the machine that vmm_read_machine() told has every device that there is.  What each machine
 * of the chipset has is not listed, nor what a guest sees nothing of (constant tables in
 * neutral_machine.c, in agreement with state/state_qemu.h).  Devices that the neutral state has words
 * for get its types and places; all others get types that begin with "qemu,".  Of a device that has no neutral
 * form what is plugged into it is not told: it stays what it is.
 *
 * Pure.
 */
#pragma once

#include <jansson.h>

#include "state/machine_description.h"

/* What that object does not tell. */
typedef struct {
    const char *architecture; /* QEMU's name: "x86_64" */
    const char *machine_type; /* "pc-i440fx-7.2" */
    const char *directory;    /* of relative paths */
    char *serial_files[4]; /* into which its serial lines write, by their index; NULL: into none */
    uint64_t ram_bytes;
    const GArray *memory; /* of MachineMemory; NULL: not known */
    guint vcpus;
    guint vcpus_max;          /* 0: as *vcpus* */
    MachineTopology topology; /* all 0: not known */
    uint64_t tsc_hz;          /* 0: not known */
} QemuNeutralFacts;

/* Where main RAM, the block called *main*, is, of what `info mtree` has (of QemuTreeRange, ram_blocks.h): an array of
 * MachineMemory, free with g_array_unref().  Empty where it is not *ram_bytes* in pieces side by side. */
GArray *qemu_neutral_memory(const GPtrArray *ranges, const char *main, uint64_t ram_bytes);

/* What `query-hotpluggable-cpus` answers: how its processors are arranged, and how many there can be.  All 0 where it is not
 * told of each of them. */
void qemu_neutral_topology(json_t *answer, MachineTopology *ret, guint *ret_max);

/* INVALID where the object cannot be read. */
MachineDescription *qemu_neutral_machine(json_t *object, const QemuNeutralFacts *facts,
                                         GError **error);

/*
 * A QEMU and the neutral form (vmm.h)
 *
 * Theory of operation: of the RAM blocks of a machine two go to a VMM of another kind: main RAM, and the memory
 * of the VGA.  The state goes as state/state_qemu.h makes it of QEMU's stream.
 *
 * A QEMU that such a machine comes to is launched as for a move of its own kind.  Before its stream is opened its own state is
 * taken (xen-save-devices-state works while it waits): it is the template that the neutral state is written into.  Its
 * firmware is a twin's (twin.h).  Until the state is loaded it describes the two blocks by their neutral names
 * only, so that nobody else touches the rest.
 */
#pragma once

#include "vmm/qemu/driver.h"

typedef enum { QEMU_NEUTRAL_NONE, QEMU_NEUTRAL_RAM, QEMU_NEUTRAL_VIDEO } QemuNeutralBlock;

/* The name of the block that is main RAM; free with g_free(). */
char *qemu_neutral_query_main(QemuVmm *qemu, GError **error);

/* What a RAM block is in the neutral form, where *main* is that one.  Pure. */
QemuNeutralBlock qemu_neutral_block(const char *block, const char *main);

/* Where its main RAM, of so many bytes, is (neutral_machine.h). */
GArray *qemu_query_memory(QemuVmm *qemu, uint64_t ram_bytes, GError **error);

/* UNSUPPORTED where the TSC of its guest has another rate; 0: nobody knows. */
gboolean qemu_check_tsc(QemuVmm *qemu, uint64_t wanted_hz, GError **error);

/* See VmmNeutralOps. */
GPtrArray *qemu_neutral_list_regions(Vmm *vmm, const VmmDescription *description, GError **error);
GBytes *qemu_neutral_save(Vmm *vmm, VmmSavePurpose purpose, const MachineDescription *machine,
                          GError **error);

/* Of a QEMU that was just launched for VmmLaunch.neutral: takes what is needed of it. */
gboolean qemu_neutral_begin(QemuVmm *qemu, const VmmLaunch *launch, GError **error);
void qemu_neutral_free(QemuNeutral *neutral);

/* Leaves the two blocks in the description of such a one, by their neutral names. */
gboolean qemu_neutral_describe(QemuVmm *qemu, VmmDescription *description, GError **error);

/* Instead of qemu_open_incoming() and qemu_load_device_state() of such a one. */
gboolean qemu_neutral_open(QemuVmm *qemu, const GPtrArray *regions, GError **error);
gboolean qemu_neutral_load(QemuVmm *qemu, GBytes *state, GError **error);

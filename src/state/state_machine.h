/*
 * What the state of a machine says of the machine itself
 *
 * Theory of operation: how much memory there is and where, and which disks, is in no VMM's stream of device states: it is
 * written into the neutral state from the machine's description (machine_description.h).  The place of the VGA's memory
 * is what its card's BAR says at that moment.
 *
 * Pure.
 */
#pragma once

#include "state/machine_description.h"
#include "state/tree.h"

/* Writes into *state*, a machine's, what *machine* (may be NULL) says of it, in the place of what was there. */
void state_note_machine(StateNode *state, const MachineDescription *machine);

/* Takes out of each of two states what the other one does not know, of the leaves and lists that may be not known: so that only
 * what differs is left to compare. */
void state_drop_unknown(StateNode *left, StateNode *right);

/* REFUSED where the state is that of a machine with another size of RAM than *ram_bytes*, which *vmm* ("Bochs") has; TRUE where
 * it does not say. */
gboolean state_check_ram(const StateNode *state, uint64_t ram_bytes, const char *vmm,
                         GError **error);

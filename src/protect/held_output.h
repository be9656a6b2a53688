/*
 * What a guest sends to its networks, as an output of its epochs
 *
 * Theory of operation: each of the guest's network cards is held, by its VMM (vmm_begin_hold()) or,
 * where that cannot (vhost, several queues), by the kernel at its tap interface (net/tap_plug.h).  One
 * OutputBuffer cuts both, and lets go what they have sent when the epoch in which it was sent is confirmed.  A packet that
 * waits makes the next checkpoint come soon.
 *
 * When we die what the guest sends is lost, as on a cable, until the agent that was restarted begins
 * anew: nothing gets out uncommitted.
 *
 * Threads: one begins and ends it; the output's functions are the CheckpointSender's to call.
 */
#pragma once

#include "net/output_buffer.h"
#include "protect/checkpoint_sender.h"
#include "vmm/vmm.h"

typedef struct HeldOutput HeldOutput;

/* FALSE with the name of a card whose output cannot be held, and with the reasons. */
gboolean held_output_check(Vmm *vmm, GError **error);

/* Holds all cards; also those that an agent that died has held.  *waits* is called in a thread of its
 * own when something begins to wait; it must be brief. */
HeldOutput *held_output_begin(Vmm *vmm, void (*waits)(gpointer user), gpointer user,
                              GError **error);

/* As an output of epochs; lives as long as *held*. */
CheckpointOutput held_output_get(HeldOutput *held);

/* Lets go of all that waits, and takes the holds out of the VMM.  Frees *held*; NULL-safe. */
void held_output_end(HeldOutput *held, Vmm *vmm);

/* Takes out what an agent that died has left of it. */
gboolean held_output_remove(Vmm *vmm, GError **error);

/* Takes out what VMMs that have ended have left on this host: of processes that are gone, so at any time. */
void held_output_sweep(void);

/* Leaves the holds: what waits, and what follows, is lost.  NULL-safe. */
void held_output_free(HeldOutput *held);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(HeldOutput, held_output_free)

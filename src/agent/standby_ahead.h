/*
 * A standby's QEMU that is launched ahead
 *
 * Theory of operation: most of the time of a takeover is that of launching a fresh VMM.  So once there is
 * an epoch one is launched and prepared (takeover_prepare()) while the standby stands by, and waits: it
 * takes next to no memory, and has what only one can have on this host (tap devices, ports, sockets),
 * for which nobody else asks here.  Its disks' images are open and not active: it holds no locks, and
 * reads anew what is in them when its guest begins to run, as after a move with shared images; so
 * the standby goes on to write to them (migrate/standby_disks.h).
 *
 * It is a help and no more.  Where it cannot be launched (a port that is taken) the takeover launches one
 * as it would have; meanwhile that is tried again, later and later.  One that ends, or does not answer, is
 * looked for every second, and replaced the same way.
 *
 * What a crash leaves: its pid and directory are on record as those of a takeover's fresh process
 * (*other_pid*).  It ends when its incoming stream is closed, so by our death, and the restarted agent
 * ends what there is still before it launches another one.
 *
 * Threads: one makes, takes and frees it, and does not journal the guest's record meanwhile, which ours
 * does.  The part of epochs is the CheckpointReceiver's.
 */
#pragma once

#include "agent/context.h"
#include "migrate/takeover.h"
#include "protect/checkpoint_receiver.h"

typedef struct StandbyAhead StandbyAhead;

/* Of a guest that is stood by for. */
StandbyAhead *standby_ahead_start(AgentContext *context, Guest *guest, GError **error);

/* There is something to take over with. */
void standby_ahead_want(StandbyAhead *ahead);

/* A part of epochs that says so as soon as one is committed; lives as long as *ahead*. */
CheckpointPart standby_ahead_get(StandbyAhead *ahead);

/* The process, launched and prepared, which is on record still, and frees *ahead*.  NULL where there is
 * none that answers: nothing of it is left.  NULL-safe. */
Takeover *standby_ahead_take(StandbyAhead *ahead, Vmm **ret_fresh);

/* Ends the process, and forgets it on record.  NULL-safe. */
void standby_ahead_free(StandbyAhead *ahead);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StandbyAhead, standby_ahead_free)

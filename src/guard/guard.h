/*
 * The guard: what is done for a guest when the agent is killed
 *
 * Theory of operation: during the few milliseconds in which a guest is paused
 * by us, our death (SIGKILL, out of memory) would leave it paused.  A guard is
 * a tiny process started before that, with nothing open but one end of a pipe, a
 * pidfd of the VMM and the VMM's network namespace.  It is our own program
 * executed anew (base/helper.h), so it shares no memory with us: what other moves
 * keep in memory, and guests that have left, is not kept by it.  It waits for the pipe.  Actions
 * (action.h) are armed and disarmed through the pipe; end of file means that the
 * agent is gone, and the guard performs what is armed and ends.
 *
 * There is one slot for each thing that may have to be undone, performed in this
 * order:
 *
 *     LIMITS   limits of control groups that were lowered for the time of a move
 *              (throttle_cgroup.h) are written back
 *     GUEST    the guest is resumed: it is paused and belongs to this host
 *              (vmm_get_resume_action()); or the VMM is killed: an incoming one
 *              that was never told to start; or nothing is armed: the guest
 *              is left as it is
 *     BALLOON  a balloon that was inflated for a move (source_reclaim.c) is let go
 *
 * With both sides' slots changing at the right moments (source.c, destination.c),
 * no single killed process leaves a guest paused that should run, or a VMM that
 * nobody owns.  What can't be decided without the other host is left to the
 * restarted agent.
 *
 * Besides that a guard may watch a *deadline* (deadline.h), while the agent lives and
 * after its death: a guest that runs by a lease is paused when that ends.  It
 * begins GUARD_DEADLINE_LEAD_MS before: the action is tried first (a VMM whose
 * monitor is still held by an agent that hangs does not answer it), and in time the VMM's
 * process is stopped by SIGSTOP.  What is armed for our death is tried until then
 * at the latest.  With a deadline the guard stays in memory and runs before
 * everything else, as far as it has the right to.
 *
 * The guard runs before main() and only makes system calls, in each program that
 * this is linked into.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#include "guard/action.h"
#include "guard/deadline.h"

#define GUARD_DEADLINE_LEAD_MS 400

typedef enum { GUARD_SLOT_LIMITS, GUARD_SLOT_GUEST, GUARD_SLOT_BALLOON } GuardSlot;

typedef struct Guard Guard;

/* Starts a guard for the VMM *pid*, with *action* armed for the GUEST (NULL: with
 * nothing armed).  Free it with guard_free(). */
Guard *guard_start(pid_t pid, const GuardAction *action, GError **error);

/* The same, for a VMM that ends with us. */
Guard *guard_start_kill(pid_t pid, GError **error);

/* From now on our death makes the guard perform *action*, in place of what was
 * armed in this slot.  When this returns the action is in the pipe, and found by
 * our death: what is to be undone is done afterwards.  FALSE with *error*: the
 * guard has ended, or the action is too long. */
gboolean guard_arm(Guard *guard, GuardSlot slot, const GuardAction *action, GError **error);

/* The same, behind what is armed in this slot already. */
gboolean guard_arm_also(Guard *guard, GuardSlot slot, const GuardAction *action, GError **error);

/* Nothing is to be done for this slot any more.  In effect when this returns. */
gboolean guard_disarm(Guard *guard, GuardSlot slot, GError **error);

/* From now on the guard pauses the VMM by *time_ns* (clock_boot_ns()), unless the deadline is renewed
 * (guard_deadline_renew()) or cleared.  *pause*: of vmm_get_pause_action().  Also to begin anew
 * after the deadline has passed: then the guest may be resumed when this has returned.  FALSE with
 * *error*: BUSY, it is just pausing the guest; or the guard has ended, or does not answer: then
 * the deadline is SET all the same, for another guard. */
gboolean guard_arm_deadline(Guard *guard, GuardDeadline *deadline, const GuardAction *pause,
                            uint64_t time_ns, GError **error);

/* FALSE where the guard has ended (it was killed): nothing is armed any more. */
gboolean guard_is_alive(Guard *guard);

/* The guard writes the limits back now, which we could not do ourselves, and is
 * gone when this returns.  Nothing else: monitors serve one client, and that is
 * we.  Frees *guard*.  NULL-safe. */
void guard_restore_limits(Guard *guard);

/* Leaves the guard as our death would: it performs what is armed, watches its deadline to the end, and is
 * not waited for.  Frees *guard*.  NULL-safe. */
void guard_leave(Guard *guard);

/* Ends the guard; nothing that is armed is performed, nor is a deadline watched any more.
 * NULL-safe. */
void guard_free(Guard *guard);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Guard, guard_free)

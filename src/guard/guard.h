/*
 * The guard: who resumes a guest when the agent is killed
 *
 * Theory of operation: during the few milliseconds in which a guest is paused
 * by us, our death (SIGKILL, out of memory) would leave it paused.  A guard is
 * a tiny process started before that, with nothing open but one end of a pipe
 * and a pidfd of the VMM.  It is our own program executed anew, so it shares no
 * memory with us: what other moves hold, and guests that have left, is not kept.  It waits for the
 * pipe.  A byte sets its *duty*; end of file means that the agent is gone, and the guard does its
 * duty and ends:
 *
 *     LEAVE   nothing
 *     RESUME  QMP `cont`: the guest is paused and belongs to this host (not one
 *             that QEMU's own migration has taken elsewhere meanwhile)
 *     KILL    SIGKILL: an incoming VMM that was never told to start
 *
 * Besides its duty the guard can be asked to write texts to files then: limits
 * of control groups that were lowered for the time of a move (throttle.h) are
 * what they were before.  That comes first.  And it can be asked to let a
 * balloon go that was inflated for a move (source_reclaim.c); that comes last,
 * with each duty but KILL.
 *
 * With both sides' duties changing at the right moments (source.c,
 * destination.c), no single killed process leaves a guest paused that should
 * run, or a VMM that nobody owns.  What can't be decided without the other
 * host is left to the restarted agent.
 *
 * The guard runs before main() and only makes system calls, in each program that
 * this is linked into.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum { GUARD_LEAVE = 'L', GUARD_RESUME = 'R', GUARD_KILL = 'K' } GuardAction;

typedef struct Guard Guard;

/* Starts a guard for the VMM *pid*, which serves QMP at *qmp_path*. */
Guard *guard_start(pid_t pid, const char *qmp_path, GuardAction duty, GError **error);

/* Returns when the duty is in the pipe: from then on our death finds it. */
gboolean guard_set_action(Guard *guard, GuardAction duty, GError **error);

/* From now on our death also makes the guard write *text* to *path*.  On record
 * when this returns: what is to be undone is done afterwards.  Limits: 256
 * files, paths of 511 bytes, texts of 63. */
gboolean guard_keep_file(Guard *guard, const char *path, const char *text, GError **error);

/* Forgets all these files: they are as they should be. */
gboolean guard_forget_files(Guard *guard, GError **error);

/* From now on our death also makes the guard set the guest's balloon to *bytes*
 * (QMP `balloon`).  On record when this returns.  A later call takes its place. */
gboolean guard_keep_balloon(Guard *guard, uint64_t bytes, GError **error);

/* The balloon is as it should be. */
gboolean guard_forget_balloon(Guard *guard, GError **error);

/* What we could not do ourselves: the guard puts its files back now and is gone.
 * Nothing that needs QMP, which has one client only.  NULL-safe. */
void guard_write_files(Guard *guard);

/* Dismisses the guard without doing its duty or writing files.  NULL-safe. */
void guard_free(Guard *guard);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Guard, guard_free)

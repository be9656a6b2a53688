/*
 * The throttle: a guest that is slowed for the time of a move
 *
 * Theory of operation: a guest that writes its memory faster than the link
 * carries it can be given less time to run.  There are two means: the CPU limit
 * of its vCPUs' control groups (throttle_cgroup.h), smooth and cheap, where it
 * has such groups; else pausing and resuming in turns (throttle_duty.h), unless
 * its VMM does not bear that (vmm_check_turns()).
 *
 * Whatever slows the guest is undone on every path: by throttle_set(1), by
 * throttle_free(), and, where we are killed, by the guard (guard.h), which is
 * told before anything is done.  So a Throttle must be freed before its guard.
 *
 * The switchover: the source's real pause comes after throttle_end_for_pause(),
 * which lifts a CPU limit (a vCPU that waits for its quota would be late to
 * stop) and ends the turns, leaving the guest paused if it is paused just then.
 * The guest is not let run freely in between, and from that call on its pausing
 * and resuming, and what the guard is armed with, are the source's again:
 *
 *     throttle_end_for_pause (the guard stays armed where the guest is paused)
 *     → guard armed to resume → vmm_pause (changes nothing on a paused guest) → …
 *     → vmm_resume where the move fails
 *
 * Threads: one thread at a time calls these functions.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "guard/guard.h"
#include "throttle/throttle_duty.h"
#include "vmm/vmm.h"

typedef enum {
    THROTTLE_AUTO,   /* cgroup where that is possible, else duty */
    THROTTLE_CGROUP, /* CPU limit of the vCPUs' control group (cgroup v2) */
    THROTTLE_DUTY,   /* pausing and resuming in turns */
    THROTTLE_OFF,    /* never */
} ThrottleMode;

/* "auto", "cgroup", "duty", "off" */
const char *throttle_mode_name(ThrottleMode mode);
gboolean throttle_mode_from_name(const char *name, ThrottleMode *ret);

#define THROTTLE_LEAST_SHARE 0.002

typedef struct Throttle Throttle;

/* Chooses the means; the guest is left alone until throttle_set().  Borrows
 * *vmm* and *guard* (with nothing armed for the guest while it runs; may be NULL
 * where nothing is to be set: to learn whether it would be possible).
 * *journal* (throttle_duty.h; or NULL) is called by turns only: a CPU limit
 * leaves nothing to resume.
 * An error where that is not possible (THROTTLE_CGROUP: no control group of its
 * own; THROTTLE_DUTY: vmm_check_turns() forbids it; THROTTLE_AUTO, which prefers
 * the first: both); THROTTLE_OFF makes a throttle that refuses to slow. */
Throttle *throttle_new(Vmm *vmm, Guard *guard, ThrottleMode mode, DutyJournal journal,
                       gpointer user, GError **error);

/* Lifts it; the guest runs as before.  NULL-safe. */
void throttle_free(Throttle *throttle);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Throttle, throttle_free)

/* Share of time that the vCPUs may run: THROTTLE_LEAST_SHARE (less counts as that) to 1, which
 * lifts it: the guest runs freely when this returns.  With less it returns at
 * once.  After FALSE the guest is not slowed (or, where it could not be resumed,
 * the error says so). */
gboolean throttle_set(Throttle *throttle, double run_share, GError **error);

/* The share now; 1 also where the slowing has ended by itself. */
double throttle_get(const Throttle *throttle);

/* Ends the slowing right before the source's pause, as told above; no share
 * below 1 can be set afterwards.  *ret_since_ns: since when the guest is paused
 * (clock_now_ns()), 0 where it runs.  FALSE: a limit could not be lifted. */
gboolean throttle_end_for_pause(Throttle *throttle, uint64_t *ret_since_ns, GError **error);

/* The smallest share so far (1: never slowed), and for how long in all it was
 * below 1. */
void throttle_get_report(const Throttle *throttle, double *ret_least_share,
                         double *ret_throttled_ms);

/* "cgroup" or "duty"; "off" with THROTTLE_OFF. */
const char *throttle_get_means(const Throttle *throttle);

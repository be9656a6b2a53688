/*
 * Slowing a guest by pausing and resuming it in turns
 *
 * Theory of operation: a thread of its own stops and resumes the VMM through
 * vmm.h, whose calls may come from any thread.  A period is 40 ms; where the
 * share leaves less than 4 ms of it to run, the period is stretched so that it
 * does (a share of 0.08: 4 of 50 ms), but not so far that the guest would
 * be paused for more than 95 ms at a time: below a share of about 0.04 the time to
 * run shrinks instead, down to 1 ms of 96 at 0.01.  Only below that, where
 * nothing else helps any more, is it paused for longer: 500 ms at 0.002.  What a
 * stop or a resume took longer than planned is made up for in the next turns, so that the share
 * holds on the whole.
 *
 * While the cycle goes on the guard is armed to resume the guest, and the journal
 * says that a restarted agent resumes it: our death lets the guest run.  A guest that
 * its user has paused is left alone, by both of them, too; one that ended or
 * failed ends the cycle.  (A user's pause within ours, or between our query
 * of the guest's state and our stop, gives no event; we undo it then.)
 *
 * QEMU drains and flushes its disks at each stop: this costs more for a guest
 * that writes to disks than a CPU limit, which is why throttle_cgroup.h is
 * asked first.
 *
 * Locks: `lock` guards what the thread and its owner share and is never held
 * during a call to the VMM.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "guard/guard.h"
#include "vmm/vmm.h"

#define DUTY_PERIOD_MS 40.0
#define DUTY_LEAST_RUN_MS 4.0
#define DUTY_USUAL_STOP_MS 95.0
#define DUTY_LONGEST_STOP_MS 500.0

typedef struct {
    double run_ms, stop_ms;
} DutyPlan;

/* One turn at this share, above 0 and below 1. */
DutyPlan duty_plan(double run_share);

/* Paused time that is still due, made up for in later turns. */
typedef struct {
    double owed_ms; /* negative: it was paused for too long */
} DutyAccount;

/* How long the next run is to be, with what is owed taken into account. */
double duty_account_get_run_ms(const DutyAccount *account, double run_share);

/* After a run of *ran_ms*: for how long to pause now. */
double duty_account_note_run(DutyAccount *account, double run_share, double ran_ms);
void duty_account_note_stop(DutyAccount *account, double stopped_ms);

typedef struct DutyCycle DutyCycle;

/* Puts on record whether a restarted agent is to resume the guest (*pausing*) or
 * to leave it as it is.  From the cycle's thread and its owner's, never at once. */
typedef gboolean (*DutyJournal)(gboolean pausing, gpointer user, GError **error);

/* Borrows all; *journal* may be NULL.  Nothing happens yet. */
DutyCycle *duty_cycle_new(Vmm *vmm, Guard *guard, DutyJournal journal, gpointer user);

/* Begins, or goes on with another share; returns at once.  FALSE with *error*
 * where the cycle could not begin, or had ended by itself since the last call:
 * why.  The cycle is not going on then. */
gboolean duty_cycle_set(DutyCycle *cycle, double run_share, GError **error);

/* TRUE while the guest is being slowed. */
gboolean duty_cycle_is_running(DutyCycle *cycle);

/* Ends it; returns when the guest runs.  FALSE with *error*: it could not be
 * resumed, and the guard still would. */
gboolean duty_cycle_end(DutyCycle *cycle, GError **error);

/* Ends it for the pause of the switchover: a guest that is paused now is left so
 * (*ret_since_ns: since when; 0: it runs).  What the guard is armed with stays. */
void duty_cycle_end_for_pause(DutyCycle *cycle, uint64_t *ret_since_ns);

/* Ends it.  NULL-safe. */
void duty_cycle_free(DutyCycle *cycle);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DutyCycle, duty_cycle_free)

/*
 * A deadline by which a VMM is paused unless it is renewed
 *
 * Theory of operation: a guest that runs by a lease (policy/lease.h) must stand still when the lease
 * ends, also where the agent hangs, is stopped or is dead.  The deadline is one 64-bit value in a file, which
 * the agent and the guard (guard.h) have mapped.  To renew it is to write a later time there, which costs
 * next to nothing; the guard wakes up when the time that it last saw has come, and looks.  Both change
 * it by compare-and-swap, so one that is being renewed and one that has passed are never mixed up:
 *
 *     NONE ──set──► SET ──time──► ACTING ──► PAUSED, WAS_PAUSED, STOPPED, GONE
 *                   │ ▲ renew                   │
 *                   ╰─╯        ◄──────set───────╯   (then the guest may be resumed)
 *
 * The last four tell what the guard has done last.  What of it is still to be undone is noted apart, until
 * the agent says that it is: so a guest that was paused by its lease is never mistaken for one that its
 * user has paused.  Being a file all this outlives the agent: a restarted one opens it, and may
 * renew what the guard of its predecessor still watches.  It does not outlive the host, whose clock
 * it is of: it belongs into the runtime directory.
 *
 * Who resumes the guest says so first (guard_deadline_begin_resume()).  A guard that acts meanwhile might
 * find the guest paused, be done with it, and have it run a moment later; so it stops the process,
 * which holds up the command to resume, too.
 *
 * Times are of clock_boot_ns(): while the host is suspended they pass.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef enum {
    GUARD_DEADLINE_NONE,
    GUARD_DEADLINE_ACTING,     /* it has passed; the guard is about to pause the VMM */
    GUARD_DEADLINE_PAUSED,     /* the guest was paused, by the action */
    GUARD_DEADLINE_WAS_PAUSED, /* it was found paused */
    GUARD_DEADLINE_STOPPED,    /* the action failed: the VMM's process was stopped (SIGSTOP) */
    GUARD_DEADLINE_GONE,       /* the VMM has ended */
    GUARD_DEADLINE_SET,        /* the time has not come yet */
} GuardDeadlineState;

/* "none", "acting", "paused", "was-paused", "stopped", "gone", "set" */
const char *guard_deadline_state_name(GuardDeadlineState state);

typedef struct GuardDeadline GuardDeadline;

/* Opens the file, or makes it; a deadline that is in it stays. */
GuardDeadline *guard_deadline_open(const char *path, GError **error);

/* The file stays, and with it the deadline.  NULL-safe. */
void guard_deadline_close(GuardDeadline *deadline);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GuardDeadline, guard_deadline_close)

const char *guard_deadline_get_path(const GuardDeadline *deadline);

/* *ret_ns* (may be NULL): when SET. */
GuardDeadlineState guard_deadline_get(const GuardDeadline *deadline, uint64_t *ret_ns);

/* How long before the deadline the guard begins to act: GUARD_DEADLINE_LEAD_MS unless told.  For
 * deadlines that are near. */
void guard_deadline_set_lead(GuardDeadline *deadline, guint lead_ms);

/* Makes it later (an earlier time changes nothing).  FALSE where it is not SET: it has passed. */
gboolean guard_deadline_renew(GuardDeadline *deadline, uint64_t time_ns);

/* NONE from now on.  FALSE while the guard is ACTING: ask again, it takes less than a second. */
gboolean guard_deadline_clear(GuardDeadline *deadline);

/* What a guard has done that is to be undone before the guest can run. */
typedef enum {
    GUARD_DEADLINE_UNDO_PAUSE = 1, /* resume the guest */
    GUARD_DEADLINE_UNDO_STOP = 2,  /* SIGCONT, first of all */
} GuardDeadlineUndo;

/* A set of GuardDeadlineUndo; and: this one is undone. */
guint guard_deadline_get_undo(const GuardDeadline *deadline);
void guard_deadline_undone(GuardDeadline *deadline, GuardDeadlineUndo undone);

/* The agent is about to pause the guest itself, which is to be undone as if the guard had done it; and has:
 * the guard need not act any more.  *was_running* FALSE: there is nothing to undo.  Where the guard
 * has acted meanwhile that stands. */
void guard_deadline_begin_pause(GuardDeadline *deadline);
void guard_deadline_end_pause(GuardDeadline *deadline, gboolean was_running);

/* The guest is about to be resumed, or will be by itself, as after an epoch's cut.  FALSE where the deadline
 * is not SET: then it must not be.  To be ended by guard_deadline_end_resume() in any case. */
gboolean guard_deadline_begin_resume(GuardDeadline *deadline);
void guard_deadline_end_resume(GuardDeadline *deadline);

/* Where it stays ACTING: the guard was killed over it.  NONE, and all is to be undone. */
void guard_deadline_give_up_guard(GuardDeadline *deadline);

/* For guard.c: SET, whatever was before.  FALSE while ACTING.  Then waits until a guard has seen it. */
gboolean guard_deadline_set(GuardDeadline *deadline, uint64_t time_ns);
gboolean guard_deadline_await_watched(GuardDeadline *deadline, GError **error);

/* ---- what both processes have mapped ---- */

#define GUARD_DEADLINE_PATH_BYTES 512 /* with its end */

typedef struct {
    uint64_t magic;
    _Atomic uint64_t word;    /* a state below SET, or a time */
    _Atomic uint64_t watched; /* what it was when a guard began to watch it */
    _Atomic uint32_t undo;    /* of GuardDeadlineUndo */
    _Atomic uint32_t resuming;
    _Atomic uint32_t lead_ms; /* 0: GUARD_DEADLINE_LEAD_MS */
} GuardDeadlineFile;

#define GUARD_DEADLINE_MAGIC 0x31656e696c646561u

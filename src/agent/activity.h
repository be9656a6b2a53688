/*
 * Something that goes on with a guest
 *
 * Theory of operation: what takes a while (a move, a stop) is an Activity of
 * its guest, whatever its kind: it has an id, shows its progress, can perhaps
 * be cancelled, and leaves a report when it ends.  The kind (ActivityKind) is a
 * table of functions over its own object, which the Activity owns.  The
 * registry holds the one activity that a guest has at present
 * (registry_set_activity()); whoever wants to follow it subscribes, and knows
 * nothing of its kind.
 *
 * An activity is not the guest's claim (guest.h).  A move holds the claim from
 * its start to its end, because nothing else may be done meanwhile; an activity
 * that lasts for months takes it only for the moments in which it changes the
 * guest's record.
 *
 * Whoever started an activity may go away, and readers may: it goes on.
 *
 * Any thread may call any of these functions.  Those of the kind are called
 * without the activity's lock, so they need one of their own; a subscriber's
 * *on_news* is called with it, so it must only wake its thread.
 */
#pragma once

#include <glib.h>

#include "base/json.h"

typedef struct {
    const char *kind;  /* in the API: "migrate" */
    const char *state; /* the state that users see of its guest meanwhile: "migrating" */
    /* It pauses and resumes the guest, or ends it: what the guest's run state is
     * meanwhile is no event. */
    gboolean drives_run_state;
    /* Adds what is particular to the kind to what the API shows; NULL: nothing. */
    void (*describe)(gpointer user, json_t *view);
    /* The newest progress, a new reference; NULL: none yet.  The pointer is NULL
     * for a kind that has none. */
    json_t *(*get_progress)(gpointer user);
    /* Asks it to end soon; NULL: it cannot be cancelled. */
    void (*cancel)(gpointer user);
    /* NULL: there is nothing to free. */
    void (*free)(gpointer user);
} ActivityKind;

typedef struct Activity Activity;

/* A new activity of the guest with this name; takes *user*. */
Activity *activity_new(const ActivityKind *kind, const char *guest, gpointer user);

Activity *activity_ref(Activity *activity);
void activity_unref(Activity *activity);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Activity, activity_unref)

/* 32 hexadecimal digits, random. */
const char *activity_get_id(const Activity *activity);
const ActivityKind *activity_get_kind(const Activity *activity);
/* What it was made with, for whoever knows its kind. */
gpointer activity_get_user(const Activity *activity);

/* Asks it to end; FALSE where its kind cannot. */
gboolean activity_cancel(Activity *activity);

/* Waits for the end; FALSE after *timeout_ms*. */
gboolean activity_wait(Activity *activity, guint timeout_ms);

/* A copy of the report, or NULL while it is under way; free with json_decref(). */
json_t *activity_get_report(Activity *activity);

/* {"id", "kind", "started", "progress", …}; free with json_decref(). */
json_t *activity_to_json(Activity *activity);

/* ---- for whoever carries it out ---- */

/* Keeps a trace of it, of about *limit_bytes* at most, for its first subscriber.
 * Before any other thread knows the activity. */
void activity_keep_trace(Activity *activity, gsize limit_bytes);

/* Adds a line to the trace (trace_queue.h); without one it does nothing. */
void activity_add_trace(Activity *activity, const char *line);

/* get_progress() has something new. */
void activity_note_progress(Activity *activity);

/* It has ended; *report* is taken, and gets "guest" and "activity" (the id).
 * Nothing may be traced after this. */
void activity_finish(Activity *activity, json_t *report);

/* ---- for whoever follows it ---- */

typedef struct ActivitySubscription ActivitySubscription;

/* *on_news*: there may be something to take.  Holds a reference of its own; free
 * with activity_unsubscribe(). */
ActivitySubscription *activity_subscribe(Activity *activity, void (*on_news)(gpointer user),
                                         gpointer user);

/* When this returns *on_news* is not called any more.  A trace that this one was
 * to read is dropped. */
void activity_unsubscribe(ActivitySubscription *subscription);

/* What is new, as lines of the API's stream, each with its end: first what was
 * traced, then the newest progress; the report last, with *ret_ended* TRUE.
 * NULL where nothing is.  Free with g_free(). */
char *activity_subscription_take(ActivitySubscription *subscription, gboolean *ret_ended);

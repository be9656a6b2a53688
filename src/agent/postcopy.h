/*
 * Guests here whose memory is not all here yet
 *
 * Theory of operation: from the commit of a post-copy on until all of its pages have come, a guest
 * is POSTCOPY (record.h).  One thread *keeps* it: that of the move that brought it, or, after a
 * restart of the agent, that of its recovery.  It holds the guest's claim and an activity by which
 * users see what is outstanding.  Meanwhile the guest's source may connect anew (HELLO "resume"),
 * served by the threads of these connections; a table leads from the transaction to the
 * PostcopyDestination, from the commit on.
 *
 * How it ends:
 *
 *     all pages came        OURS and free, as after any move
 *     the guest shut down   gone; the source is told COMPLETE: it is not needed any more
 *     a user stops it       the same
 *     its VMM died          gone; the source is told not-found: its user decides there
 *     the agent stops       all stays; a restarted one goes on
 */
#pragma once

#include "agent/context.h"
#include "migrate/postcopy_destination.h"
#include "wire/session.h"

typedef struct PostcopyTable PostcopyTable;

PostcopyTable *postcopy_table_new(void);
/* NULL-safe. */
void postcopy_table_free(PostcopyTable *table);

/* Lets the guest's source find *split*, whose host becomes this agent; ends that. */
void postcopy_publish(AgentContext *context, Guest *guest, PostcopyDestination *split);
void postcopy_withdraw(AgentContext *context, PostcopyDestination *split);

typedef enum {
    POSTCOPY_KEPT_WHOLE,    /* it has all of its memory */
    POSTCOPY_KEPT_GONE,     /* it has ended, and is removed */
    POSTCOPY_KEPT_STOPPING, /* the agent stops */
} PostcopyKept;

/* It runs: from now on users see by an activity what it lacks. */
void postcopy_show(Guest *guest, PostcopyDestination *split);

/* Waits for one of these; then withdraws it and ends its activity.  The caller holds the claim. */
/* A guest that is stood by for (protect.h) is not to be any more: begins that.  The source may not answer:
 * then its witness, or *force*, decides. */
gboolean postcopy_end_standby(AgentContext *context, Guest *guest, gboolean force, GError **error);
/* Its standby goes on with it: its process is killed. */
gboolean postcopy_fail_over(AgentContext *context, Guest *guest, GError **error);

/* An operator's decision about a protected guest whose source does not answer: output is let go, and the
 * source is not to go on with it. */
gboolean postcopy_go_alone(AgentContext *context, Guest *guest, GError **error);

PostcopyKept postcopy_keep(AgentContext *context, Guest *guest, PostcopyDestination *split);

/* Its process is gone: takes out what held its output, and removes the overlays with what it wrote, which are of no use without it; but
 * where nobody else has that, an event says where it is.  Before the guest is removed. */
void postcopy_drop_writes(AgentContext *context, Guest *guest);

/* Whether one is kept here for this guest. */
gboolean postcopy_has(AgentContext *context, Guest *guest);

/* Ends such a guest by request, also one that waits for a page for ever.  Returns when it is gone. */
gboolean postcopy_stop(AgentContext *context, Guest *guest, GError **error);

/* What is to be said to a source that resumes: a reference to what serves it; or NULL and
 * *ret_complete: it is not needed any more; or NULL with *error*: BUSY, to try again, or NOT_FOUND,
 * the guest is lost. */
PostcopyDestination *postcopy_find(AgentContext *context, const ResolveMessage *question,
                                   const char *agent, gboolean *ret_complete, GError **error);

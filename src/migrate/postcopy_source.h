/*
 * Post-copy, the source's half after the switchover
 *
 * Theory of operation: the guest belongs to the destination and runs there; the paused VMM here
 * holds the pages that it lacks.  Serving them needs no ownership and cannot do harm, so it may
 * begin before it is known that the destination has committed, and be begun again as often as the
 * connection breaks, by this agent or by one that was restarted:
 *
 *     source                                         destination
 *       TLS, HELLO "resume", RESUME {transaction} -->
 *                                                 <--  OUTSTANDING …, RESUMED   (it has committed)
 *       channel for faults joins
 *       page frames                               -->  puts them in place
 *                                                 <--  WANT
 *       PUSHED                                    -->
 *                                                 <--  COMPLETE
 *
 * The first connection is that of the move, which has said what is outstanding in the other
 * direction.  Only COMPLETE ends this half: then nothing here is needed any more.  An ERROR of code
 * not-found says that the destination has lost the guest: nothing that this half can do helps then.
 *
 * Nothing is written down here: what is outstanding is the destination's to know.
 *
 * A guest that is protected (safety level `full`) sends epochs back meanwhile
 * (protect/checkpoint_receiver.h).  They are what this side goes on from where the destination loses
 * the guest; so COMPLETE ends nothing before they are given up for good, and the destination knows:
 *
 *                                                 <--  COMPLETE
 *       given up, on record; ENDED                -->  output of the guest need not wait any more
 *                                                 <--  ENDED
 */
#pragma once

#include <glib.h>

#include "migrate/report.h"
#include "migrate/takeover_gate.h"
#include "protect/checkpoint_receiver.h"
#include "transfer/postcopy_sender.h"
#include "wire/channel.h"
#include "wire/messages.h"

#define POSTCOPY_SOURCE_PATIENCE_MS 4000

typedef struct {
    const char *destination;    /* HOST[:PORT] */
    const char *agent;          /* the one that has the guest (its lasting id) */
    ResolveMessage transaction; /* its term is the destination's; borrowed */
    PageSource *pages;
    DeltaStore *deltas;          /* of a protected guest; NULL: it is not */
    const CheckpointPart *parts; /* of its epochs */
    guint part_count;
    /* Has it on record that *deltas* will not be used: the guest is the destination's, whatever
     * happens.  For a protected guest. */
    gboolean (*give_up)(gpointer user, GError **error);
    /* Of one that has a witness (borrowed): the destination's leases are granted through it; where that
     * cannot be reached for POSTCOPY_SOURCE_PATIENCE_MS it is asked for leave to take over. */
    TakeoverGate *gate;
    /* The gate is tried as soon as the last lease that went through it has ended, also while a session stands:
     * there is nothing to be served without it. */
    gboolean watches_leases;
    guint patience_ms;        /* in place of POSTCOPY_SOURCE_PATIENCE_MS; 0: that */
    guint connect_timeout_ms; /* 0: by default */
    /* There is no room for the next epoch, and nothing else is wanted of this half: the destination is told,
     * and gives it up (COMPLETE).  NULL: its pages go on to be served without. */
    void (*no_room)(const GError *why, gpointer user);
    /* Whether there is anything to take over with yet; NULL: there is. */
    gboolean (*may_take_over)(gpointer user);
    PostcopySenderOptions sender;
    uint64_t rate; /* of bulk, bytes per second; 0: not limited */
    /* For each connection: certificates may have been renewed. */
    gboolean (*get_channel)(ChannelOptions *ret, gpointer user, GError **error);
    /* A few times a second while pages go; NULL: not wanted. */
    void (*progress)(const MigratePostcopy *counts, uint64_t left, gpointer user);
    /* A few times a second, with the sender of this session; NULL: not wanted. */
    void (*note_sender)(PostcopySender *sender, gpointer user);
    /* For how many pages the source's end is not covered by a store; NULL: there is none. */
    uint64_t (*get_uncovered)(gpointer user);
    /* For how long the destination has not been heard, after each attempt to reach it; 0: it answers.  NULL:
     * not wanted. */
    void (*note_silence)(uint64_t ms, gpointer user);
    /* In place of *rate*, where that changes; NULL: it does not. */
    uint64_t (*get_rate)(gpointer user);
    /* TRUE: this half is to return. */
    gboolean (*is_stopping)(gpointer user);
    /* TRUE where the VMM here has ended. */
    gboolean (*has_ended)(gpointer user);
    gpointer user;
} PostcopySourceJob;

typedef enum {
    POSTCOPY_COMPLETE,
    POSTCOPY_STOPPED, /* is_stopping(): pages are still needed */
    POSTCOPY_LOST,    /* the destination's guest is no more, and cannot have all it needed */
    POSTCOPY_TAKEN, /* through the gate: nobody else runs it any more, and it is to be taken over */
    POSTCOPY_DRAINED, /* the VMM here has ended: what is outstanding is lost */
} PostcopyOutcome;

/* Serves until the end, connecting anew where that is needed.  *session* and *sender*: of the move,
 * the sender answering already, or NULL and NULL; the session stays the caller's, the sender is
 * taken.  *counts* grows.  *error* has the reason, unless COMPLETE. */
PostcopyOutcome postcopy_source_run(const PostcopySourceJob *job, Session *session,
                                    PostcopySender *sender, MigratePostcopy *counts,
                                    GError **error);

/* A source without pages, for who is only to hear that the destination is complete, and to tell it
 * that it is given up (ENDED); a constant. */
PageSource *postcopy_source_no_pages(void);

/* What the destination said to RESUME. */
typedef enum {
    POSTCOPY_ANSWER_NONE,     /* it cannot be reached, or does not speak of this guest */
    POSTCOPY_ANSWER_LATER,    /* it may have the guest, and cannot say yet */
    POSTCOPY_ANSWER_RESUMED,  /* it has committed, and lacks pages */
    POSTCOPY_ANSWER_COMPLETE, /* it has committed, and lacks nothing */
    POSTCOPY_ANSWER_LOST,     /* it knows of no such guest, or has lost it */
} PostcopyAnswer;

/* One attempt: for who does not know whether the destination has committed.  NULL with *error*
 * unless it is RESUMED; *ret_left* then: the sets of outstanding pages, for
 * postcopy_sender_new(). */
Session *postcopy_source_connect(const PostcopySourceJob *job, GPtrArray **ret_left,
                                 PostcopyAnswer *ret_answer, GError **error);

/* Says that the VMM here, and with it what is outstanding, is gone.  POSTCOPY_ANSWER_RESUMED: it has
 * been told; any other answer is the destination's, with *error*.  *why*: for its users; NULL: that. */
PostcopyAnswer postcopy_source_tell_drained(const PostcopySourceJob *job, const char *why,
                                            GError **error);

/* Sends OUTSTANDING frames of these sets (a PageSet a region). */
gboolean postcopy_send_outstanding(Session *session, TrafficClass traffic, const GPtrArray *sets,
                                   GError **error);

/* Adds the runs of an OUTSTANDING frame to *sets*. */
gboolean postcopy_take_outstanding(const PageRegions *regions, GPtrArray *sets, const Frame *frame,
                                   GError **error);

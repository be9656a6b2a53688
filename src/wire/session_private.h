/*
 * Inside a Session
 *
 * Order of locks: a channel's send_lock, the session's, then a channel's others (channel_private.h).
 */
#pragma once

#include "wire/channel_private.h"
#include "wire/session.h"

/* Joining is answered at once, as HELLO is. */
#define ACCEPTED_TIMEOUT_MS 10000
#define SESSION_CHANNELS_MOST (TRAFFIC_CLASSES + SESSION_BULK_MOST)

struct Session {
    Channel *first;
    _Atomic(Channel *) by_class[TRAFFIC_CLASSES];
    char *address; /* of the connecting side; NULL: accepted */

    /* From the first HELLOs. */
    char *token, *peer_agent, *peer_instance;

    GMutex lock; /* protects all below, and attaching */
    GCond changed;
    char *transaction;
    Channel *joined[TRAFFIC_CLASSES]; /* in the order in which they came */
    guint joined_count;
    GError *failure; /* of some channel; once set it stays */
    guint visitors;  /* use channels of a list, without the lock: none is freed meanwhile */
    gboolean closing;
    gboolean reconnects; /* with these: */
    gboolean connects;   /* by this side */
    ChannelOptions options;
    guint patience_ms;
    Channel *bulk[SESSION_BULK_MOST]; /* further ones, in no order */
    guint bulk_numbers[SESSION_BULK_MOST];
    guint bulk_count;
    uint64_t used_numbers; /* bit n: n was one of them */
    SessionBulkTaker taker;
    gpointer taker_user;
    uint64_t ended_sent; /* by those that have ended */
    guint ended_breaks;
};

/* All channels that there are; none is freed before session_end_visit(). */
guint session_visit(Session *session, Channel *ret[SESSION_CHANNELS_MOST]);
void session_end_visit(Session *session);

/* A ChannelFailed: all others fail, too. */
void session_on_channel_failed(Channel *channel, const GError *cause, gboolean sending,
                               gpointer user);

/* Without the lock, once the session reconnects. */
void session_let_reconnect(Session *session, Channel *channel, TrafficClass traffic, guint number);

/* Connects a channel that the other side has accepted; *number*: of bulk, 0: the class's own. */
Channel *session_connect_further(Session *session, TrafficClass traffic, guint number,
                                 const ChannelOptions *options, int timeout_ms,
                                 GCancellable *cancellable, GError **error);

/* With the lock held: FALSE where it has ended. */
gboolean session_check_alive(Session *session, GError **error);

/* session_bulk.c: one more, by what its HELLO says; with the lock held: that channel, or NULL. */
gboolean session_admit_bulk(Session *session, Channel *channel, guint number, GError **error);
Channel *session_find_bulk(Session *session, guint number);

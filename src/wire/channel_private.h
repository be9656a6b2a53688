/*
 * Inside a Channel
 *
 * Order of locks: bulk_lock, send_lock, then the pacer's or state_lock.  A
 * sender keeps bulk_lock and send_lock while it waits for the socket or for
 * its turn under the rate limit; nobody else needs them meanwhile (the
 * heartbeat thread only tries).
 */
#pragma once

#include <stdatomic.h>

#include "wire/channel.h"
#include "wire/rate_limit.h"
#include "wire/stream.h"

/* A rate limit, of one channel or of several that share it. */
typedef struct {
    GMutex lock;
    RateLimit limit;
} Pacer;

/* Called once, from any thread, perhaps with send_lock held, when a channel has failed for good: it
 * was shut down, its peer is silent or gone, or sent what it must not.  *sending*: a send failed,
 * and its caller may still receive the peer's final error. */
typedef void (*ChannelFailed)(Channel *channel, const GError *cause, gboolean sending,
                              gpointer user);

struct Channel {
    Stream *stream;
    char *peer_name;
    char *label;            /* the peer in messages */
    char *instance;         /* ours; may be NULL */
    char *agent;            /* the same */
    char *peer_certificate; /* digest; NULL: insecure */
    gboolean secure;
    uint64_t peer_timeout_ns;
    int wake_fd; /* readable from the first failure of everything on */

    GMutex state_lock;
    GError *failure; /* ends everything: shut down, peer silent */
    ChannelFailed failed;
    gpointer failed_user;

    GMutex bulk_lock; /* the turn of paced frames among themselves */
    GMutex send_lock; /* one frame at a time; protects send_failure */
    GError *send_failure;
    atomic_uint_fast64_t last_sent_ns;

    Pacer *pacer; /* shared; exchanged under send_lock */

    /* Nobody receives yet: the heartbeat thread reads heartbeats, under this lock. */
    atomic_bool unattended;
    GMutex unattended_lock;

    /* Of the receiving thread only. */
    GError *receive_failure;
    uint8_t *buffer;
    size_t capacity, start, end; /* unread bytes of the buffer */
    size_t current;              /* bytes at start that are the frame given out */
    _Atomic(GThread *) receiver;

    GThread *heartbeat;
};

/* Fails every call from now on; takes *cause*.  The first one wins. */
void channel_fail(Channel *channel, GError *cause);

/* FALSE with *error* after channel_fail(). */
gboolean channel_check(Channel *channel, GError **error);

/* The same after channel_shutdown() only: what has arrived from a peer that was
 * given up since is still received. */
gboolean channel_check_open(Channel *channel, GError **error);

/* The heartbeat thread; ends when wake_fd is readable. */
gpointer channel_heartbeat_main(gpointer data);

/* Sends HEARTBEAT unless another frame is being sent. */
void channel_try_heartbeat(Channel *channel);

/* From now on *failed* is called for the first failure; at once for one that has happened. */
void channel_watch_failure(Channel *channel, ChannelFailed failed, gpointer user);
/* Calls it. */
void channel_note_failure(Channel *channel, const GError *cause, gboolean sending);

/* Makes both count against the limit of *with*. */
void channel_share_rate(Channel *channel, Channel *with);
Pacer *channel_pacer_new(void);
void channel_pacer_release(Pacer *pacer);

/* Until somebody receives on it, heartbeats are read and the peer's end is noticed all the same: a
 * peer whose heartbeats fill up our receive buffer would take us for stuck. */
void channel_set_unattended(Channel *channel);
void channel_drain_heartbeats(Channel *channel);

/* After a failed send: the peer's final error, where there is one (an ERROR or
 * ABORT frame that is already on its way).  For the receiving thread, or where
 * nobody receives; ends receiving. */
gboolean channel_find_final_error(Channel *channel, GError **error);

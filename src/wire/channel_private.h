/*
 * Inside a Channel
 *
 * Order of locks: pages_lock, send_lock, then rate_lock or state_lock.  A
 * sender keeps pages_lock and send_lock while it waits for the socket or for
 * its turn under the rate limit; nobody else needs them meanwhile (the
 * heartbeat thread only tries).
 */
#pragma once

#include <stdatomic.h>

#include "wire/channel.h"
#include "wire/rate_limit.h"
#include "wire/stream.h"

struct Channel {
    Stream *stream;
    char *peer_name;
    char *label;    /* the peer in messages */
    char *instance; /* ours; may be NULL */
    char *agent;    /* the same */
    gboolean secure;
    uint64_t peer_timeout_ns;
    int wake_fd; /* readable from the first failure of everything on */

    GMutex state_lock;
    GError *failure; /* ends everything: shut down, peer silent */

    GMutex pages_lock; /* the turn of PAGES frames among themselves */
    GMutex send_lock;  /* one frame at a time; protects send_failure */
    GError *send_failure;
    atomic_uint_fast64_t last_sent_ns;

    GMutex rate_lock;
    RateLimit rate;

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

/* After a failed send: what the peer said last, where it said why (an ERROR or
 * ABORT frame that is already on its way).  For the receiving thread, or where
 * nobody receives; ends receiving. */
gboolean channel_find_final_error(Channel *channel, GError **error);

/*
 * Inside a Channel
 *
 * Order of locks: bulk_lock, send_lock, (a session's lock,) receive_lock, then the pacer's or state_lock.  A
 * sender keeps bulk_lock and send_lock while it waits for the socket or for
 * its turn under the rate limit, a receiver receive_lock while it waits for the socket; nobody else
 * needs them meanwhile (the heartbeat thread only tries, but for a connection that has broken, and
 * is shut down first).
 */
#pragma once

#include <stdatomic.h>

#include "wire/channel.h"
#include "wire/rate_limit.h"
#include "wire/resend_buffer.h"
#include "wire/stream.h"

/* No local network's switches take as long. */
#define CHANNEL_LONG_WAY_NS 5000000ULL

/* A rate limit, of one channel or of several that share it. */
typedef struct {
    GMutex lock;
    RateLimit limit;
    guint channels; /* that share it */
} Pacer;

/* Called once, from any thread, perhaps with send_lock held, when a channel has failed for good: it
 * was shut down, its peer is silent or gone, or sent what it must not.  *sending*: a send failed,
 * and its caller may still receive the peer's final error. */
typedef void (*ChannelFailed)(Channel *channel, const GError *cause, gboolean sending,
                              gpointer user);

struct Channel {
    Stream *stream; /* exchanged by the heartbeat thread, under send_, receive_ and state_lock */
    char *peer_name;
    char *label;            /* the peer in messages */
    char *instance;         /* ours; may be NULL */
    char *agent;            /* the same */
    char *peer_certificate; /* digest; NULL: insecure */
    gboolean secure;
    uint64_t peer_timeout_ns;
    int wake_fd;  /* readable from the first failure of everything on */
    int nudge_fd; /* readable: the heartbeat thread has something to do */
    ChannelTraffic *traffic;

    GMutex state_lock;
    GError *failure; /* ends everything: shut down, peer silent */
    ChannelFailed failed;
    gpointer failed_user;

    GMutex bulk_lock; /* the turn of paced frames among themselves */
    GMutex send_lock; /* one frame at a time; protects send_failure */
    GError *send_failure;
    atomic_uint_fast64_t last_sent_ns;

    Pacer *pacer; /* shared; exchanged under send_lock */

    /* Nobody receives yet: the heartbeat thread reads what comes, as early frames. */
    atomic_bool unattended;

    GMutex receive_lock; /* protects all of this; held while somebody receives */
    GError *receive_failure;
    uint8_t *buffer;
    size_t capacity, start, end; /* unread bytes of the buffer */
    size_t current;              /* bytes at start that are the frame given out */
    /* Frames that were read while nobody received, behind those in the buffer (which ends with a
     * whole one then); what has come of the one behind them; the one that was given out. */
    GQueue early;
    size_t early_bytes;
    GByteArray *tail;
    GBytes *given;
    gboolean restart; /* a new connection: the frame begins anew */
    _Atomic(GThread *) receiver;

    /* ---- reconnecting (channel_reconnect.c) ---- */
    _Atomic(ResendBuffer *) resend;       /* NULL: the connection is the only one; set once */
    uint64_t counted_bytes;               /* of counted frames sent; under send_lock */
    atomic_uint_fast64_t received_bytes;  /* of counted frames: given out, or early */
    atomic_uint_fast64_t confirmed_bytes; /* of those what the peer was told */
    atomic_uint_fast64_t patience_ns;     /* how long a break may take; 0: none */
    gboolean frozen; /* under receive_lock: what has come is final, nothing is read any more */
    atomic_bool recovering;          /* the heartbeat thread is in channel_recover() */
    atomic_bool broken;              /* the stream is shut down; written under state_lock */
    GError *break_cause;             /* under state_lock */
    uint64_t broken_ns;              /* the same */
    atomic_bool peer_done, own_done; /* an end of the connection is meant */
    GCond mended;                    /* with receive_lock: stream_number has changed */
    guint stream_number;
    atomic_uint breaks;
    atomic_uint segment_bytes; /* written by the heartbeat thread */
    Channel *returned; /* under state_lock: the new connection's, made by the other side … */
    uint64_t returned_received;              /* … and what that has of ours */
    Channel *attempt;                        /* under state_lock: ours that is being made */
    ChannelRedial *redial;                   /* NULL: the other side connects */
    uint64_t earlier_sent, earlier_received; /* by earlier connections; under state_lock */
    uint64_t peer_confirmed;                 /* by its last RECONNECT; of the heartbeat thread */
    gboolean resending;                      /* under send_lock */

    uint32_t tuned_unsent; /* channel_tune.c, under state_lock */
    uint64_t limited_us;

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

/* The same with RECEIVED, where there is something to confirm; with BYE. */
void channel_try_confirm(Channel *channel);
void channel_say_bye(Channel *channel);

/* From now on *failed* is called for the first failure; at once for one that has happened. */
void channel_watch_failure(Channel *channel, ChannelFailed failed, gpointer user);
/* Calls it. */
void channel_note_failure(Channel *channel, const GError *cause, gboolean sending);

/* Makes both count against the limit of *with*. */
void channel_share_rate(Channel *channel, Channel *with);
Pacer *channel_pacer_new(void);
void channel_pacer_release(Pacer *pacer);

/* Until somebody receives on it, what comes is read and the peer's end is noticed all the same: a
 * peer whose heartbeats fill up our receive buffer would take us for stuck. */
void channel_set_unattended(Channel *channel);
/* Reads what has come, as early frames, unless somebody receives; FALSE where nothing had. */
gboolean channel_pump(Channel *channel);
/* The same, with receive_lock held, and the first *most* bytes only. */
gboolean channel_pump_locked(Channel *channel, size_t most);
/* With receive_lock held: whole counted frames that are in the buffer and were not given out; drops
 * what has come of the next. */
uint64_t channel_drop_partial_frame(Channel *channel);

/* With send_lock held: sends all of the cursor; with *paced* no faster than the rate allows. */
gboolean channel_send_pieces(Channel *channel, StreamCursor *cursor, gboolean paced,
                             GError **error);

/* Sees to what the socket buffers, by what the kernel tells since the last time. */
void channel_tune(Channel *channel, uint64_t elapsed_ns);

/* Makes the heartbeat thread look. */
void channel_nudge(Channel *channel);

/* ---- reconnecting (channel_reconnect.c) ---- */

/* The connection has failed with *cause*.  TRUE: another one may take its place, callers wait. */
gboolean channel_report_break(Channel *channel, const GError *cause);
/* For a receiver, with receive_lock held (and not while it waits): until there is a new connection;
 * moves *deadline_ns* on by what that took, unless it is near. */
gboolean channel_await_mend(Channel *channel, uint64_t *deadline_ns, GError **error);
/* For a sender, with send_lock held (and not while it waits): keeps a counted frame. */
gboolean channel_keep_frame(Channel *channel, const StreamCursor *cursor, GError **error);
/* For the heartbeat thread: makes a new connection, or takes the one that the other side has made.
 * *alive_ns*: the last sign of life; *stuck*: there are such signs, but what is sent does not arrive.  FALSE: the
 * channel has failed. */
gboolean channel_recover(Channel *channel, uint64_t alive_ns, gboolean stuck);
/* Whether it is to be tried after *silent_ns* without a sign of life; after *stuck_ns* in which what was sent was
 * sent again, and nothing of it arrived. */
gboolean channel_may_probe(Channel *channel, uint64_t silent_ns, uint64_t stuck_ns);
void channel_clear_reconnect(Channel *channel);

/* The peer's final error among the early frames. */
gboolean channel_find_early_error(Channel *channel, GError **error);

typedef struct {
    int reach_ms;        /* how long TCP may take to connect; 0: as long as all */
    int timeout_ms;      /* all of it */
    guint segment_bytes; /* of TCP, at most; 0: as the path tells */
    int wake_fd;         /* readable: give up; -1: none */
    gboolean reached;    /* answered: TCP has connected */
} ChannelAttempt;

/* As channel_connect(). */
Channel *channel_connect_attempt(const char *address, const ChannelOptions *options,
                                 ChannelAttempt *attempt, GError **error);

/* After a failed send: the peer's final error, where there is one (an ERROR or
 * ABORT frame that is already on its way).  For the receiving thread, or where
 * nobody receives; ends receiving. */
gboolean channel_find_final_error(Channel *channel, GError **error);

/*
 * A session: the channels of one transaction between two agents
 *
 * Theory of operation: what two agents send each other in a transaction has classes of traffic
 * (frame.h, one table): the sequence itself, pages that a thread waits for, checkpoints, bulk.
 * Each class is sent and received on one channel; at first all on the one that the session begins
 * with, so that a session of one channel is a FIFO.  Where a class is not to wait behind another, a
 * further channel *joins* for it:
 *
 *     connecting side                          accepting side
 *       TLS, HELLO "migrate"        -->
 *                                   <--          HELLO with a random token
 *       ... the transaction is named to the peer ...
 *       TLS, HELLO "join" with transaction,
 *       class and token             -->          session_admit(): all as in the first HELLO?
 *                                   <--          HELLO, ACCEPTED (or ERROR)
 *
 * Nobody else can join: the token went through the first channel only, and the peer must show the
 * same certificate, agent id and instance as on that.  Order holds within a channel, never between
 * two: a class is moved to a channel of its own while nothing of that class is under way, and what
 * depends on an order across classes waits for an answer.
 *
 * Bulk may have further channels, with a number in HELLO "join": an epoch's pages go by any of them.
 * What has an order among these is for who sends and receives on them (transfer/bulk_sender.h,
 * frame_queue.h).  These come and go, and the end of one is not the session's.
 *
 * Where it was allowed (session_allow_reconnect()), each channel survives its connection: the side that
 * had connected connects again, with HELLO "reconnect" that says the same as that of "join", and
 * session_await_return() looks at it as session_admit() does (channel_reconnect.c).
 *
 * The channels live and die together.  Each has its heartbeats; one that fails makes all others
 * fail with its error (frames that have arrived are still given out).  The rate limit is of all
 * channels together.
 *
 * Threads: any sends; of each channel one receives.  Joining and ending by one thread.
 */
#pragma once

#include "wire/channel.h"
#include "wire/messages.h"

typedef struct Session Session;

/* Connects the first channel, as channel_connect() does. */
Session *session_connect(const char *address, const ChannelOptions *options, int timeout_ms,
                         GCancellable *cancellable, GError **error);

/* HELLO of the connecting side, as handshake_connect(); keeps what joining needs. */
gboolean session_greet(Session *session, const char *purpose, HelloMessage *ret_peer,
                       guint *ret_version, GError **error);

/* The accepting side: makes a token, gives it with handshake_accept(), and the session takes the
 * channel then. */
gboolean session_make_token(char token[HELLO_TOKEN_DIGITS + 1], GError **error);
Session *session_new(Channel *channel, const HelloMessage *peer, const char *token);

/* The last reference drains and closes all channels, the first channel first: a peer that sees a
 * joined one end has all that was sent on the first.  NULL-safe. */
Session *session_ref(Session *session);
void session_unref(Session *session);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Session, session_unref)

/* As channel_shutdown(), for all channels, and no more join. */
void session_shutdown(Session *session);

/* ---- joining ---- */

/* From now on channels of this transaction may join. */
void session_set_transaction(Session *session, const char *transaction);
/* FALSE, too, where the session is ending: a later one of that transaction may have begun. */
gboolean session_has_transaction(Session *session, const char *transaction);

/* Connects a channel for *traffic*; what is sent as that goes by it from then on.  UNSUPPORTED
 * where the peer gave no token. */
gboolean session_join(Session *session, TrafficClass traffic, const ChannelOptions *options,
                      int timeout_ms, GCancellable *cancellable, GError **error);

/* Lets a channel join whose HELLO (*hello*) asks to, and sends ACCEPTED.  Takes the channel where
 * it returns TRUE.  VMFERRY_ERROR_REFUSED for a stranger, without the reason. */
gboolean session_admit(Session *session, Channel *channel, const HelloMessage *hello,
                       GError **error);

/* The error for a stranger, also where there is no such session. */
void session_refuse(GError **error);

/* Waits until *traffic* has a channel of its own. */
gboolean session_await_channel(Session *session, TrafficClass traffic, int timeout_ms,
                               GError **error);

/* ---- further channels for bulk (session_bulk.c) ---- */

/* At a time, beside the one that bulk goes by anyway. */
#define SESSION_BULK_MOST 7u

/* Connects one more with a *number* that no other has had (1 to HELLO_MOST_NUMBER).  Borrowed, until
 * session_end_bulk(); it fails with the session, but not the session with it.  NULL with *error*:
 * nothing has changed. */
Channel *session_join_bulk(Session *session, guint number, const ChannelOptions *options,
                           int timeout_ms, GCancellable *cancellable, GError **error);

/* The accepting side: who receives by it from now on (called with the session's lock held, from any
 * thread); FALSE: it is not taken.  NULL: none joins any more; no call is under way then. */
typedef gboolean (*SessionBulkTaker)(Channel *channel, guint number, gpointer user, GError **error);
void session_take_bulk(Session *session, SessionBulkTaker taker, gpointer user);

/* Closes one; nobody uses it any more.  Either side; unknown numbers are ignored. */
void session_end_bulk(Session *session, guint number);

/* Whether one of them is broken just now: session_is_broken() does not say so. */
gboolean session_has_broken_bulk(Session *session);

/* ---- surviving connections ---- */

/* With a guest that stands no longer break is waited for. */
#define SESSION_PAUSE_PATIENCE_MS 3000u

/* From now on a break of a connection may take *patience_ms* before it is the session's end; channels that
 * join later are included.  *options*: of the connecting side, as for session_join(), and what it
 * points to outlives the session; NULL on the accepting one.  Once for a session; FALSE where it cannot
 * be: the peer gave no token, or is this process itself. */
gboolean session_allow_reconnect(Session *session, const ChannelOptions *options,
                                 guint patience_ms);
/* 0: no more breaks are survived. */
void session_set_patience(Session *session, guint patience_ms);

/* As channel_renew(), for all channels. */
void session_renew(Session *session, const GError *cause);

/* A new connection of a channel of this session. */
typedef struct {
    Channel *broken;   /* borrowed until session_readmit(): which one */
    uint64_t received; /* what the peer has of that */
} SessionReturn;

/* Whether *channel*, whose HELLO (*hello*) asks for that, may be one; as session_admit().  Waits for RECONNECT. */
gboolean session_await_return(Session *session, Channel *channel, const HelloMessage *hello,
                              SessionReturn *ret, GError **error);
/* Then gives it: takes *channel*. */
void session_readmit(Session *session, const SessionReturn *returned, Channel *channel);

/* Before the end of a session whose last frame must arrive: waits until the peer has confirmed all that was
 * sent on the first channel, over breaks.  TRUE at once where it does not survive them. */
gboolean session_flush(Session *session, int timeout_ms);

/* Whether both are with the same agent, as its certificate and HELLO say. */
gboolean session_has_same_peer(Session *session, Session *other);

guint session_count_breaks(Session *session);
/* The least of channel_get_segment_bytes(); 0: no channel has a limit. */
guint session_get_segment_bytes(Session *session);
/* Whether a connection is broken just now that there is no other for. */
gboolean session_is_broken(Session *session);
/* Whether none is, nor has failed. */
gboolean session_is_connected(Session *session);

/* ---- frames ---- */

/* As the channel_ functions, each on the channel of the type's class, or of *traffic*. */
gboolean session_send(Session *session, FrameType type, const struct iovec *payload, int count,
                      GError **error);
gboolean session_send_bytes(Session *session, FrameType type, const void *payload, size_t length,
                            GError **error);
gboolean session_send_as(Session *session, TrafficClass traffic, FrameType type,
                         const struct iovec *payload, int count, GError **error);

/* Receives from the channel of *traffic*: of classes that share it, too.  On a channel that control
 * does not use, frames of control other than ERROR and ABORT are INVALID. */
gboolean session_receive(Session *session, TrafficClass traffic, int timeout_ms, Frame *ret,
                         GError **error);
gboolean session_expect(Session *session, FrameType type, int timeout_ms, Frame *ret,
                        GError **error);

void session_send_error(Session *session, const GError *cause);
void session_send_abort(Session *session, const GError *cause);
/* Makes all calls, also those under way in other threads, fail with *cause*: something on this side
 * that the session cannot go on without has failed.  The first cause of all wins. */
void session_fail(Session *session, const GError *cause);
/* Puts what the peer has said last, where it has, in place of an *error* that another channel ended
 * with.  For who receives on the first one. */
void session_prefer_final_error(Session *session, GError **error);
void session_error_from_frame(Session *session, const Frame *frame, GError **error);

/* The channel that *traffic* goes by now; borrowed. */
Channel *session_get_channel(Session *session, TrafficClass traffic);

/* ---- facts ---- */

/* As channel_get_peer_certificate(). */
const char *session_get_peer_certificate(Session *session);
const char *session_get_peer_name(Session *session);
/* Its lasting id, as its HELLO said; borrowed, NULL before. */
const char *session_get_peer_agent(Session *session);
void session_set_rate(Session *session, uint64_t bytes_per_second);
uint64_t session_get_sent_bytes(Session *session);
uint64_t session_get_backlog_bytes(Session *session);

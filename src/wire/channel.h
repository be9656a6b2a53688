/*
 * A secured, framed connection between two agents
 *
 * Theory of operation: a Channel is a TCP connection, with TLS 1.3 and mutual
 * certificates unless it was made insecure on purpose.  One thread receives,
 * any thread sends; a frame is sent whole.  A heartbeat thread sends
 * HEARTBEAT whenever nothing else was sent for HEARTBEAT_INTERVAL_MS; received
 * heartbeats are swallowed.  When nothing at all came from the peer for the peer
 * time-out, every call fails with VMFERRY_ERROR_DISCONNECTED, also those that
 * wait to send: a cut link that drops packets looks like a closed one.  A peer
 * that lives but takes nothing (it starts a VMM, say) is given
 * CHANNEL_STALL_FACTOR times as long.
 *
 * The socket is non-blocking; the TLS state is used under a lock that is never
 * held while waiting.
 *
 * A send that fails because the peer closed looks for the ERROR or ABORT frame
 * that says why (the final error) and fails with its message, unless another thread
 * receives: then that one gets the frame.  A failed send ends sending, not receiving: frames
 * that arrived before are still given out.
 *
 * Limits: a peer that stops while much of what it sent waits to be received
 * here is noticed once that has been received.
 */
#pragma once

#include <gio/gio.h>
#include <glib.h>
#include <stdatomic.h>
#include <sys/uio.h>

#include "wire/frame.h"

#define CHANNEL_HEARTBEAT_INTERVAL_MS 500
#define CHANNEL_PEER_TIMEOUT_MS 5000
#define CHANNEL_STALL_FACTOR 12
#define CHANNEL_DEFAULT_PORT 4747

typedef struct TlsIdentity TlsIdentity; /* wire/tls.h */
typedef struct Channel Channel;

typedef struct {
    FrameType type;
    uint32_t length;
    const uint8_t *payload; /* owned by the channel, valid until the next receive */
} Frame;

/* What several channels have sent and received together, as channel_get_sent_bytes(). */
typedef struct {
    atomic_uint_fast64_t sent_bytes, received_bytes;
} ChannelTraffic;

/* How far channel_connect() has come. */
typedef enum {
    CHANNEL_STAGE_ADDRESS, /* the address as text */
    CHANNEL_STAGE_CONNECT, /* the host's name, its address, the port */
    CHANNEL_STAGE_TLS,
    CHANNEL_STAGE_DONE,
} ChannelStage;

typedef struct {
    TlsIdentity *tls;    /* NULL: plain text, only by the user's explicit choice */
    int peer_timeout_ms; /* 0: CHANNEL_PEER_TIMEOUT_MS */
    /* Our id in HELLO, by which an agent that reaches itself notices; NULL for none. */
    const char *instance;
    /* Our lasting id in HELLO; NULL for none. */
    const char *agent;
    /* Counts this channel, too; outlives it.  NULL for none. */
    ChannelTraffic *traffic;
    /* In place of a connection over the network: a connected stream socket, whose other end this process
     * serves itself; -1 with *error*.  Without TLS, and the address is a name for messages then.  NULL:
     * the address counts. */
    int (*dial)(gpointer dial_user, GError **error);
    gpointer dial_user;
    guint most_segment;  /* as of connect_socket(); 0: no limit */
    ChannelStage *stage; /* is set by channel_connect(); NULL for none */
} ChannelOptions;

/* Connects to HOST, HOST:PORT or [V6]:PORT within *timeout_ms*.  With TLS the
 * peer's certificate must be of our CA and carry HOST as its name (DNS or IP
 * subject alternative name). */
Channel *channel_connect(const char *address, const ChannelOptions *options, int timeout_ms,
                         GCancellable *cancellable, GError **error);

/* Takes over an accepted socket (closed in any case) and does the server's
 * half of the TLS handshake, for which the peer has the peer time-out.
 * Without TLS any stream socket will do, also one of a pair. */
Channel *channel_accept(int fd, const ChannelOptions *options, GError **error);

/* ---- surviving a connection (channel_reconnect.c) ---- */

/* Connects again to the same peer, for *traffic* of *transaction*; the strings are copied, what
 * *options* points to outlives the channel. */
typedef struct {
    char *address, *transaction, *token, *agent, *instance;
    TrafficClass traffic;
    guint number; /* of a further channel for bulk; 0: the class's own */
    ChannelOptions options;
} ChannelRedial;

/* From now on what is sent is kept until the peer confirms it, and a connection that breaks is replaced by
 * another one within *patience_ms*: by ours where *redial* is given, else by the peer's
 * (channel_take_over()). */
void channel_allow_reconnect(Channel *channel, const ChannelRedial *redial, guint patience_ms);
/* 0: a break is the channel's end from now on. */
void channel_set_patience(Channel *channel, guint patience_ms);
/* As session_flush(), for one channel that nobody receives on. */
gboolean channel_flush(Channel *channel, int timeout_ms);
/* For a sender that is stuck and must not be: gives the connection up, so that what was not confirmed, and what is
 * sent from now on, however much, goes by a new one.  Nothing where a break is not survived. */
void channel_renew(Channel *channel, const GError *cause);
/* Where the next counted frame begins. */
uint64_t channel_get_position(Channel *channel);
/* After channel_renew(): where an empty frame of *type*, which was sent at *position*, has not been received by then, an
 * empty one of type *instead* comes in its place.  It may be on its way just then: the peer has either. */
void channel_revoke(Channel *channel, uint64_t position, FrameType type, FrameType instead);
/* The peer has connected again: takes *new_one*, on which RECONNECT has come. */
void channel_take_over(Channel *channel, Channel *new_one, uint64_t peer_received);
/* What a connection's TCP segments were limited to since larger ones did not arrive; 0: nothing. */
guint channel_get_segment_bytes(Channel *channel);
/* How often that has happened. */
guint channel_get_breaks(Channel *channel);
/* Broken, or silent for so long that another connection is tried. */
gboolean channel_is_broken(Channel *channel);

/* The payload of RECEIVED and RECONNECT. */
void received_frame_encode(uint64_t bytes, uint8_t out[FRAME_RECEIVED_BYTES]);
gboolean received_frame_decode(const Frame *frame, uint64_t *ret, GError **error);

/* Drains and closes: waits up to 1 s until the peer's kernel has what was sent last.
 * NULL-safe. */
void channel_free(Channel *channel);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Channel, channel_free)

/* The same at once: what was sent and has not arrived is dropped, also in the kernel.  NULL-safe. */
void channel_abandon(Channel *channel);

/* Makes all calls, also those under way in other threads, fail at once with
 * VMFERRY_ERROR_CANCELLED. */
void channel_shutdown(Channel *channel);

/* The peer's name: of its certificate, or its address where insecure. */
const char *channel_get_peer_name(Channel *channel);
/* The address that it is connected to, without the port; "peer" where that is none.  Free with
 * g_free(). */
char *channel_get_peer_host(Channel *channel);
gboolean channel_is_secure(Channel *channel);

/* SHA-256 of the peer's certificate in hexadecimal digits; NULL where insecure. */
const char *channel_get_peer_certificate(Channel *channel);

/* TRUE with why where it was given up, or the peer has ended it. */
gboolean channel_has_failed(Channel *channel, GError **ret_failure);

/* For the thread that receives, and waits for something else meanwhile: reads ahead some of what has come.
 * FALSE with *error* where the peer has ended the connection, or sent ERROR or ABORT. */
gboolean channel_look_ahead(Channel *channel, GError **error);

/* As in ChannelOptions. */
const char *channel_get_instance(Channel *channel);
const char *channel_get_agent(Channel *channel);

/* Sends one frame; returns when all of it is with the kernel.  A frame with pages
 * waits for its turn under the rate limit; others go through and are counted
 * against it. */
gboolean channel_send(Channel *channel, FrameType type, const struct iovec *payload, int count,
                      GError **error);
gboolean channel_send_bytes(Channel *channel, FrameType type, const void *payload, size_t length,
                            GError **error);

/* The same as *traffic*, whatever class the type has by itself: pages wait for their turn as bulk
 * only. */
gboolean channel_send_as(Channel *channel, TrafficClass traffic, FrameType type,
                         const struct iovec *payload, int count, GError **error);

/* Receives the next frame that is no heartbeat.  *timeout_ms* -1: as long as
 * the peer lives.  VMFERRY_ERROR_TIMEOUT leaves the channel usable. */
gboolean channel_receive(Channel *channel, int timeout_ms, Frame *ret, GError **error);

/* The same, and the payload's memory becomes the caller's: the channel takes
 * *buffer* (of *capacity* bytes, g_malloc'ed, NULL at first) in exchange and
 * leaves the one that holds the payload there. */
gboolean channel_receive_swap(Channel *channel, int timeout_ms, Frame *ret, uint8_t **buffer,
                              size_t *capacity, GError **error);

/* As channel_receive(), and the frame must be of this type.  An ERROR or ABORT frame
 * becomes an error with the peer's code and message. */
gboolean channel_expect(Channel *channel, FrameType type, int timeout_ms, Frame *ret,
                        GError **error);

/* Sends an ERROR frame (an ABORT frame) with *cause*, best effort. */
void channel_send_error(Channel *channel, const GError *cause);
void channel_send_abort(Channel *channel, const GError *cause);

/* Turns a received ERROR or ABORT frame into a GError ("HOST: message"). */
void channel_error_from_frame(Channel *channel, const Frame *frame, GError **error);

/* Limit in bytes a second on the wire, 0 for none. */
void channel_set_rate(Channel *channel, uint64_t bytes_per_second);

/* Bytes put on and taken from the socket so far, TLS included. */
uint64_t channel_get_sent_bytes(Channel *channel);
uint64_t channel_get_received_bytes(Channel *channel);

/* Of the sent bytes those that the peer's kernel has not confirmed yet: 0
 * means that the link is idle. */
uint64_t channel_get_backlog_bytes(Channel *channel);

/* What the kernel knows of the way that a connection takes.  Zero: not known. */
typedef struct {
    uint64_t round_trip_ns;       /* smoothed */
    uint64_t least_round_trip_ns; /* channel_get_round_trip_ns() */
    uint64_t segments;            /* with content, sent so far … */
    uint64_t retransmitted;       /* … of these again */
    double lost_share;            /* of the bytes sent, that were sent again */
    uint64_t unsent_bytes;        /* wait in the kernel until they may go */
    guint most_segment;           /* bytes of content in one */
    guint path_mtu;               /* as far as it is known */
    guint header_bytes;           /* of IP and TCP, without options */
    char congestion_control[16];  /* its name */
} ChannelPath;

void channel_get_path(Channel *channel, ChannelPath *ret);

/* The shortest time that the peer's kernel has taken to confirm something; 0: not known. */
uint64_t channel_get_round_trip_ns(Channel *channel);

/*
 * A non-blocking stream of bytes over a socket, plain or TLS
 *
 * Theory of operation: one thread reads, one thread at a time writes (the
 * caller sees to that), both at once.  Nothing here waits except the TLS
 * handshake.  Plain bytes go from the caller's pieces to the kernel without a
 * copy.  With TLS, a batch of records is encrypted into a buffer under the TLS
 * lock and sent from there without it; so OpenSSL never sees a full socket,
 * and a reader never waits for one.
 */
#pragma once

#include <glib.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "wire/tls.h"

typedef struct Stream Stream;

/* Pieces still to be sent; stream_write() moves it on (and changes them). */
typedef struct {
    struct iovec *at;
    size_t left;
} StreamCursor;

/* Skips *bytes*, which must be there; returns the cursor at its end or at a
 * piece that is not empty. */
void stream_cursor_advance(StreamCursor *cursor, size_t bytes);

typedef struct {
    gboolean server;
    const char *host;  /* client: must be in the peer's certificate */
    const char *label; /* names the peer in errors */
    int wake_fd;       /* readable: give up; -1: none */
    uint64_t deadline_ns;
} StreamHandshake;

/* Takes the socket.  Plain until stream_start_tls(). */
Stream *stream_new(int fd);
void stream_free(Stream *stream);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Stream, stream_free)

gboolean stream_start_tls(Stream *stream, TlsIdentity *identity, const StreamHandshake *handshake,
                          GError **error);

/* The TLS layer, for tests; NULL where plain. */
struct TlsSession *stream_get_tls(Stream *stream);

/* The peer's name in its certificate, and the SHA-256 of that in hexadecimal digits (TLS only). */
char *stream_get_certificate_name(Stream *stream);
char *stream_get_certificate_digest(Stream *stream);

/* FALSE where the peer's certificate is for clients only (pki_issue_engine()): it is no host. */
gboolean stream_is_of_host(Stream *stream);

int stream_get_fd(const Stream *stream);

/* Names the peer in errors; borrowed. */
void stream_set_label(Stream *stream, const char *label);

/* From now on what is sent and received is added there, too; both are borrowed. */
void stream_count_in(Stream *stream, atomic_uint_fast64_t *sent_bytes,
                     atomic_uint_fast64_t *received_bytes);

/* Number of bytes read, 0 where nothing is there now, -1 with *error*; the end
 * of the stream is VMFERRY_ERROR_DISCONNECTED. */
ssize_t stream_read(Stream *stream, void *buffer, size_t length, GError **error);

/* Takes at most about *limit* bytes from the cursor.  Returns the number of
 * bytes the kernel took, TLS included, 0 where it takes none now, -1 with
 * *error*.  All is sent when the cursor is at its end and
 * stream_has_unsent() says no. */
ssize_t stream_write(Stream *stream, StreamCursor *cursor, size_t limit, GError **error);
gboolean stream_has_unsent(const Stream *stream);

/* Sends a TLS peer close_notify: the end is intended (best effort, needs the writer's turn). */
void stream_drain_and_close(Stream *stream);

/* Signs of the peer's life; two samples show whether anything happened between them. */
typedef struct {
    uint64_t arrived;      /* bytes that came, read or not */
    uint64_t acknowledged; /* bytes that the peer's kernel has taken */
    uint64_t unread;       /* of those that arrived */
    guint retransmits;     /* so often in a row something was sent again without an answer (TCP) */
    gboolean ended;        /* the peer has closed, or the connection is broken */
} StreamSigns;

void stream_peek(Stream *stream, StreamSigns *ret);

/* Bytes in our kernel that the peer's kernel has not taken. */
uint64_t stream_get_unacknowledged(const Stream *stream);

uint64_t stream_get_sent_bytes(const Stream *stream);
uint64_t stream_get_received_bytes(const Stream *stream);

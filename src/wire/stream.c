#include "wire/stream.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "wire/tls_session.h"

#define PIECES_PER_CALL 256
/* Encrypted at a time: many records a system call, and still in the CPU's cache. */
#define TLS_BATCH_BYTES (128u << 10)

struct Stream {
    int fd;
    TlsSession *tls;   /* NULL: plain */
    const char *label; /* borrowed */
    GMutex read_lock;  /* held over a read and the count of it */
    atomic_uint_fast64_t sent_bytes, received_bytes;
    atomic_uint_fast64_t *all_sent, *all_received; /* of others, too; NULL: none */
};

Stream *stream_new(int fd)
{
    Stream *stream = g_new0(Stream, 1);

    stream->fd = fd;
    stream->label = "peer";
    g_mutex_init(&stream->read_lock);
    return stream;
}

void stream_free(Stream *stream)
{
    if (!stream)
        return;
    tls_session_free(stream->tls);
    fd_close(&stream->fd);
    g_mutex_clear(&stream->read_lock);
    g_free(stream);
}

int stream_get_fd(const Stream *stream)
{
    return stream->fd;
}

void stream_set_label(Stream *stream, const char *label)
{
    stream->label = label;
}

void stream_count_in(Stream *stream, atomic_uint_fast64_t *sent_bytes,
                     atomic_uint_fast64_t *received_bytes)
{
    stream->all_sent = sent_bytes;
    stream->all_received = received_bytes;
}

gboolean stream_start_tls(Stream *stream, TlsIdentity *identity, const StreamHandshake *handshake,
                          GError **error)
{
    stream->tls = tls_session_new(identity, stream->fd, handshake, error);
    return stream->tls && tls_session_handshake(stream->tls, handshake, error);
}

TlsSession *stream_get_tls(Stream *stream)
{
    return stream->tls;
}

char *stream_get_certificate_name(Stream *stream)
{
    return stream->tls ? tls_session_get_peer_name(stream->tls) : NULL;
}

char *stream_get_certificate_digest(Stream *stream)
{
    return stream->tls ? tls_session_get_peer_digest(stream->tls) : NULL;
}

gboolean stream_is_of_host(Stream *stream)
{
    return stream->tls && tls_session_is_of_host(stream->tls);
}

/* ---- reading ---- */

static void set_socket_error(const Stream *stream, int errnum, GError **error)
{
    if (errnum == ETIMEDOUT)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s does not answer any more", stream->label);
    else
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s: the connection broke: %s", stream->label,
                  g_strerror(errnum));
}

static ssize_t read_plain(Stream *stream, void *buffer, size_t length, GError **error)
{
    for (;;) {
        ssize_t got = recv(stream->fd, buffer, length, MSG_DONTWAIT);

        if (got > 0)
            return got;
        if (got == 0) {
            error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s closed the connection", stream->label);
            return -1;
        }
        if (errno == EAGAIN)
            return 0;
        if (errno != EINTR) {
            set_socket_error(stream, errno, error);
            return -1;
        }
    }
}

ssize_t stream_read(Stream *stream, void *buffer, size_t length, GError **error)
{
    lock_guard(&stream->read_lock);
    size_t raw = 0;
    ssize_t got;

    if (stream->tls) {
        got = tls_session_read(stream->tls, buffer, length, stream->label, &raw, error);
    } else {
        got = read_plain(stream, buffer, length, error);
        raw = (size_t)MAX(got, 0);
    }
    atomic_fetch_add(&stream->received_bytes, raw);
    if (stream->all_received)
        atomic_fetch_add(stream->all_received, raw);
    return got;
}

uint64_t stream_get_unacknowledged(const Stream *stream)
{
    int bytes = 0;

    return ioctl(stream->fd, SIOCOUTQ, &bytes) < 0 ? 0 : (uint64_t)bytes;
}

/* Not TCP: none. */
static guint count_retransmits(const Stream *stream)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;

    if (getsockopt(stream->fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0 || info.tcpi_unacked == 0)
        return 0;
    return info.tcpi_retransmits;
}

void stream_peek(Stream *stream, StreamSigns *ret)
{
    lock_guard(&stream->read_lock);
    struct pollfd state = {.fd = stream->fd, .events = POLLRDHUP};
    int unread = 0;

    if (ioctl(stream->fd, SIOCINQ, &unread) < 0)
        unread = 0;
    *ret = (StreamSigns){.arrived = atomic_load(&stream->received_bytes) + (uint64_t)unread,
                         .acknowledged =
                             atomic_load(&stream->sent_bytes) - stream_get_unacknowledged(stream),
                         .unread = (uint64_t)unread,
                         .retransmits = count_retransmits(stream),
                         .ended = poll(&state, 1, 0) > 0};
}

/* ---- writing ---- */

/* The kernel's verdict on one attempt to send. */
static ssize_t sent(Stream *stream, ssize_t put, GError **error)
{
    if (put > 0) {
        atomic_fetch_add(&stream->sent_bytes, (uint64_t)put);
        if (stream->all_sent)
            atomic_fetch_add(stream->all_sent, (uint64_t)put);
        return put;
    }
    if (put == 0 || errno == EAGAIN || errno == EINTR)
        return 0;
    set_socket_error(stream, errno, error);
    return -1;
}

static ssize_t write_plain(Stream *stream, StreamCursor *cursor, size_t limit, GError **error)
{
    struct iovec pieces[PIECES_PER_CALL];
    struct msghdr message = {.msg_iov = pieces};
    ssize_t put;

    while (message.msg_iovlen < MIN(PIECES_PER_CALL, cursor->left) && limit > 0) {
        struct iovec *piece = &pieces[message.msg_iovlen];

        *piece = cursor->at[message.msg_iovlen++];
        piece->iov_len = MIN(piece->iov_len, limit);
        limit -= piece->iov_len;
    }
    put = sent(stream, sendmsg(stream->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT), error);
    stream_cursor_advance(cursor, (size_t)MAX(put, 0));
    return put;
}

static ssize_t write_tls(Stream *stream, StreamCursor *cursor, size_t limit, GError **error)
{
    const uint8_t *data;
    size_t length;
    ssize_t put;

    if (tls_session_peek_outgoing(stream->tls, NULL) == 0 &&
        !tls_session_encrypt(stream->tls, cursor, MIN(limit, TLS_BATCH_BYTES), stream->label,
                             error))
        return -1;
    length = tls_session_peek_outgoing(stream->tls, &data);
    put = sent(stream, send(stream->fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT), error);
    tls_session_drop_outgoing(stream->tls, (size_t)MAX(put, 0));
    return put;
}

ssize_t stream_write(Stream *stream, StreamCursor *cursor, size_t limit, GError **error)
{
    return stream->tls ? write_tls(stream, cursor, limit, error)
                       : write_plain(stream, cursor, limit, error);
}

gboolean stream_has_unsent(const Stream *stream)
{
    return stream->tls && tls_session_peek_outgoing(stream->tls, NULL) > 0;
}

void stream_drain_and_close(Stream *stream)
{
    const uint8_t *data;
    size_t length;

    /* Behind half a record an alert would only look like a broken stream. */
    if (!stream->tls || stream_has_unsent(stream))
        return;
    tls_session_close(stream->tls);
    length = tls_session_peek_outgoing(stream->tls, &data);
    (void)sent(stream, send(stream->fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT), NULL);
}

uint64_t stream_get_sent_bytes(const Stream *stream)
{
    return atomic_load(&stream->sent_bytes);
}

uint64_t stream_get_received_bytes(const Stream *stream)
{
    return atomic_load(&stream->received_bytes);
}

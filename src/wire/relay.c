#include "wire/relay.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"

typedef struct {
    uint8_t bytes[RELAY_BYTES];
    size_t at, end;
} Piece;

typedef struct {
    Stream *stream;
    int near;
    gboolean near_ended;
    gboolean moved; /* in this turn */
    Piece in, out;  /* from the stream, to it */
} Relay;

static gboolean is_empty(const Piece *piece)
{
    return piece->at == piece->end;
}

static gboolean set_near_error(int errnum, GError **error)
{
    error_set_errno(error, errnum, "relay");
    return FALSE;
}

static gboolean move_in(Relay *relay, GError **error)
{
    Piece *in = &relay->in;

    if (is_empty(in)) {
        ssize_t got = stream_read(relay->stream, in->bytes, sizeof in->bytes, error);

        if (got < 0)
            return FALSE;
        in->at = 0;
        in->end = (size_t)got;
    }
    if (!is_empty(in)) {
        ssize_t put =
            send(relay->near, in->bytes + in->at, in->end - in->at, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (put < 0 && errno != EAGAIN && errno != EINTR) {
            /* It does not read any more; what it has said may still be on its way. */
            in->at = in->end;
            return errno == EPIPE || errno == ECONNRESET || set_near_error(errno, error);
        }
        in->at += (size_t)MAX(put, 0);
        relay->moved |= put > 0;
    }
    return TRUE;
}

static gboolean read_near(Relay *relay, GError **error)
{
    Piece *out = &relay->out;
    ssize_t got = recv(relay->near, out->bytes, sizeof out->bytes, MSG_DONTWAIT);

    out->at = out->end = 0;
    if (got > 0)
        out->end = (size_t)got;
    else if (got == 0 || errno == ECONNRESET)
        relay->near_ended = TRUE;
    else if (errno != EAGAIN && errno != EINTR)
        return set_near_error(errno, error);
    return TRUE;
}

static gboolean move_out(Relay *relay, GError **error)
{
    Piece *out = &relay->out;
    struct iovec rest;
    StreamCursor cursor = {&rest, 1};
    ssize_t put;

    if (is_empty(out) && !relay->near_ended && !read_near(relay, error))
        return FALSE;
    if (is_empty(out) && !stream_has_unsent(relay->stream))
        return TRUE;
    rest = (struct iovec){out->bytes + out->at, out->end - out->at};
    put = stream_write(relay->stream, &cursor, sizeof out->bytes, error);
    if (put < 0)
        return FALSE;
    out->at = cursor.left > 0 ? out->end - rest.iov_len : out->end;
    relay->moved |= put > 0;
    return TRUE;
}

static gboolean is_done(const Relay *relay)
{
    return relay->near_ended && is_empty(&relay->out) && !stream_has_unsent(relay->stream);
}

/* FALSE with *error* where it is to end. */
static gboolean await(const Relay *relay, int wake_fd, uint64_t deadline_ns, GError **error)
{
    gboolean sends = !is_empty(&relay->out) || stream_has_unsent(relay->stream);
    gboolean takes = is_empty(&relay->in);
    struct pollfd fds[] = {
        {stream_get_fd(relay->stream), (short)((takes ? POLLIN : 0) | (sends ? POLLOUT : 0)), 0},
        {relay->near, (short)((takes ? 0 : POLLOUT) | (sends || relay->near_ended ? 0 : POLLIN)),
         0},
        {wake_fd, POLLIN, 0},
    };
    uint64_t now_ns = clock_now_ns();
    int ms = now_ns < deadline_ns ? (int)((deadline_ns - now_ns) / 1000000) + 1 : 0;

    /* A socket with nothing to wait for would only report its end, again and again. */
    for (guint i = 0; i < G_N_ELEMENTS(fds); i++)
        if (fds[i].events == 0)
            fds[i].fd = -1;
    if (poll(fds, G_N_ELEMENTS(fds), ms) < 0 && errno != EINTR)
        return set_near_error(errno, error);
    if (fds[2].revents) {
        error_set(error, VMFERRY_ERROR_CANCELLED, "the connection is being closed");
        return FALSE;
    }
    if (clock_now_ns() < deadline_ns)
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "nothing was said for too long");
    return FALSE;
}

gboolean relay_run(Stream *stream, int near, int wake_fd, guint silence_ms, GError **error)
{
    g_autofree Relay *relay = g_new0(Relay, 1);
    uint64_t deadline_ns = clock_now_ns() + (uint64_t)silence_ms * 1000000;

    relay->stream = stream;
    relay->near = near;
    for (;;) {
        relay->moved = FALSE;
        if (!move_in(relay, error) || !move_out(relay, error))
            return FALSE;
        if (is_done(relay)) {
            stream_drain_and_close(stream);
            return TRUE;
        }
        if (relay->moved)
            deadline_ns = clock_now_ns() + (uint64_t)silence_ms * 1000000;
        else if (!await(relay, wake_fd, deadline_ns, error))
            return FALSE;
    }
}

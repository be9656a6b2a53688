/*
 * Sending frames
 */
#include <poll.h>

#include "base/clock.h"
#include "base/error.h"
#include "wire/channel_private.h"
#include "base/lock_guard.h"
#include "wire/socket_wait.h"

/* After that long a sender that waits notices a change of the rate. */
#define LONGEST_NAP_NS 100000000ULL
#define LEAST_PIECE_BYTES 512u

/* ---- the rate ---- */

Pacer *channel_pacer_new(void)
{
    Pacer *pacer = g_atomic_rc_box_new0(Pacer);

    g_mutex_init(&pacer->lock);
    pacer->channels = 1;
    return pacer;
}

static void pacer_clear(gpointer data)
{
    Pacer *pacer = data;

    g_mutex_clear(&pacer->lock);
}

void channel_pacer_release(Pacer *pacer)
{
    g_mutex_lock(&pacer->lock);
    pacer->channels--;
    g_mutex_unlock(&pacer->lock);
    g_atomic_rc_box_release_full(pacer, pacer_clear);
}

void channel_share_rate(Channel *channel, Channel *with)
{
    lock_guard(&channel->send_lock);

    channel_pacer_release(channel->pacer);
    channel->pacer = g_atomic_rc_box_acquire(with->pacer);
    g_mutex_lock(&channel->pacer->lock);
    channel->pacer->channels++;
    g_mutex_unlock(&channel->pacer->lock);
}

void channel_set_rate(Channel *channel, uint64_t bytes_per_second)
{
    lock_guard(&channel->pacer->lock);

    rate_limit_init(&channel->pacer->limit, bytes_per_second, clock_now_ns());
}

/* What all that share the limit may send at once, each before the others are counted, is one piece. */
static size_t get_piece(const Pacer *pacer)
{
    if (pacer->limit.bytes_per_second == 0)
        return SIZE_MAX;
    return MAX(rate_limit_piece(&pacer->limit) / MAX(pacer->channels, 1), LEAST_PIECE_BYTES);
}

/* How long to wait for the turn of *bytes* (at most a piece). */
static uint64_t next_turn_ns(Channel *channel, size_t bytes, size_t *ret_piece)
{
    RateLimit *limit = &channel->pacer->limit;
    lock_guard(&channel->pacer->lock);

    *ret_piece = get_piece(channel->pacer);
    return rate_limit_delay_ns(limit, MIN(bytes, *ret_piece), clock_now_ns());
}

/* Waits until some of *bytes* may go; *ret_piece* is how many. */
static gboolean wait_turn(Channel *channel, size_t bytes, size_t *ret_piece, GError **error)
{
    for (;;) {
        uint64_t delay_ns = next_turn_ns(channel, bytes, ret_piece);

        if (delay_ns == 0)
            return TRUE;
        if (socket_wait(-1, 0, channel->wake_fd, clock_now_ns() + MIN(delay_ns, LONGEST_NAP_NS)) ==
            SOCKET_WOKEN)
            return channel_check(channel, error);
        /* What is sent now is kept only, and who has the lock keeps the new connection off. */
        if (atomic_load(&channel->broken)) {
            *ret_piece = SIZE_MAX;
            return TRUE;
        }
    }
}

static void charge(Channel *channel, size_t bytes)
{
    lock_guard(&channel->pacer->lock);

    rate_limit_charge(&channel->pacer->limit, bytes, clock_now_ns());
}

/* ---- frames ---- */

static gboolean give_up(Channel *channel, GError **error)
{
    double seconds = clock_ns_to_ms(channel->peer_timeout_ns) * CHANNEL_STALL_FACTOR / 1e3;

    channel_fail(channel, g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_DISCONNECTED,
                                      "%s has taken nothing for %.1f s: the connection is given up",
                                      channel->label, seconds));
    return channel_check(channel, error);
}

/* Waits until the socket takes more.  On a slow link the kernel says so only
 * after megabytes have left, so what counts as progress is that bytes leave.
 * Whether the peer is alive at all is the heartbeat thread's business. */
static gboolean wait_writable(Channel *channel, GError **error)
{
    uint64_t progress_ns = clock_now_ns();
    uint64_t queued = stream_get_unacknowledged(channel->stream);

    for (;;) {
        uint64_t slice_end = clock_now_ns() + channel->peer_timeout_ns / 4;
        uint64_t queued_now;

        switch (socket_wait(stream_get_fd(channel->stream), POLLOUT, channel->wake_fd, slice_end)) {
        case SOCKET_READY:
            return TRUE;
        case SOCKET_WOKEN:
            return channel_check(channel, error);
        case SOCKET_TIMED_OUT:
            break;
        }
        queued_now = stream_get_unacknowledged(channel->stream);
        if (queued_now < queued)
            progress_ns = clock_now_ns();
        queued = queued_now;
        if (channel->resending && clock_now_ns() - progress_ns >= channel->peer_timeout_ns) {
            error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s was silent", channel->label);
            return FALSE;
        }
        if (clock_now_ns() - progress_ns >= CHANNEL_STALL_FACTOR * channel->peer_timeout_ns)
            return give_up(channel, error);
    }
}

static size_t cursor_bytes(const StreamCursor *cursor)
{
    size_t bytes = 0;

    for (size_t i = 0; i < cursor->left; i++)
        bytes += cursor->at[i].iov_len;
    return bytes;
}

gboolean channel_send_pieces(Channel *channel, StreamCursor *cursor, gboolean paced, GError **error)
{
    size_t limit = SIZE_MAX;

    while (cursor->left > 0 || stream_has_unsent(channel->stream)) {
        ssize_t put;

        /* Ciphertext that the socket did not take had its turn already. */
        if (paced && !stream_has_unsent(channel->stream) &&
            !wait_turn(channel, cursor_bytes(cursor), &limit, error))
            return FALSE;
        put = stream_write(channel->stream, cursor, limit, error);
        if (put < 0 || (put == 0 && !wait_writable(channel, error)))
            return FALSE;
        if (put > 0) {
            atomic_store(&channel->last_sent_ns, clock_now_ns());
            charge(channel, (size_t)put);
        }
    }
    return TRUE;
}

static gboolean check_sending(Channel *channel, GError **error)
{
    if (!channel_check(channel, error))
        return FALSE;
    if (channel->send_failure && error)
        *error = g_error_copy(channel->send_failure);
    return channel->send_failure == NULL;
}

/* With send_lock held.  A frame that is kept has been sent, whatever becomes of the connection. */
static gboolean send_locked(Channel *channel, FrameType type, StreamCursor *cursor, gboolean paced,
                            GError **error)
{
    size_t bytes = cursor_bytes(cursor);
    GError *failure = NULL;

    if (!check_sending(channel, error))
        return FALSE;
    if (frame_type_is_counted(type)) {
        if (!channel_keep_frame(channel, cursor, error) || !check_sending(channel, error))
            return FALSE;
        channel->counted_bytes += bytes;
    }
    if (atomic_load(&channel->broken) || channel_send_pieces(channel, cursor, paced, &failure))
        return TRUE;
    if (channel_report_break(channel, failure)) {
        g_error_free(failure);
        return TRUE;
    }
    /* Half a frame may be out: nothing can follow it. */
    channel->send_failure = g_error_copy(failure);
    channel_note_failure(channel, failure, TRUE);
    g_propagate_error(error, failure);
    return FALSE;
}

static gboolean send_in_turn(Channel *channel, FrameType type, gboolean paced, StreamCursor *cursor,
                             GError **error)
{
    size_t piece;
    gboolean ok;

    if (paced) {
        g_mutex_lock(&channel->bulk_lock);
        /* Not under send_lock: other frames may pass meanwhile. */
        if (!wait_turn(channel, cursor_bytes(cursor), &piece, error)) {
            g_mutex_unlock(&channel->bulk_lock);
            return FALSE;
        }
    }
    g_mutex_lock(&channel->send_lock);
    ok = send_locked(channel, type, cursor, paced, error);
    g_mutex_unlock(&channel->send_lock);
    if (paced)
        g_mutex_unlock(&channel->bulk_lock);
    return ok;
}

/* Header and payload as one list; FALSE where the payload breaks its limits. */
static gboolean make_frame(FrameType type, const struct iovec *payload, int count,
                           uint8_t header_bytes[FRAME_HEADER_BYTES], struct iovec *pieces,
                           GError **error)
{
    FrameHeader header = {.type = type};
    size_t length = 0;

    pieces[0] = (struct iovec){header_bytes, FRAME_HEADER_BYTES};
    for (int i = 0; i < count; i++) {
        pieces[i + 1] = payload[i];
        length += payload[i].iov_len;
    }
    header.length = (uint32_t)MIN(length, UINT32_MAX);
    if (!frame_header_check(&header, error))
        return FALSE;
    frame_header_encode(&header, header_bytes);
    return TRUE;
}

/* A peer that gave up has usually said why before it closed: its final error is
 * worth more than "broken pipe".  Not after START, whose answer must not be
 * read over, not for who asks for pages and never receives them, and not where another thread
 * receives (it finds that error itself). */
static void prefer_final_error(Channel *channel, FrameType type, GError **error)
{
    GThread *receiver = atomic_load(&channel->receiver);
    g_autoptr(GError) final_error = NULL;

    if (!error || !error_is(*error, VMFERRY_ERROR_DISCONNECTED) || type == FRAME_START ||
        type == FRAME_ERROR || type == FRAME_WANT || (receiver && receiver != g_thread_self()) ||
        !channel_check(channel, NULL) || !channel_find_final_error(channel, &final_error))
        return;
    g_clear_error(error);
    *error = g_steal_pointer(&final_error);
}

gboolean channel_send_as(Channel *channel, TrafficClass traffic, FrameType type,
                         const struct iovec *payload, int count, GError **error)
{
    gboolean paced = frame_type_is_paced(type, traffic);
    g_autofree struct iovec *pieces = g_new(struct iovec, (gsize)count + 1);
    uint8_t header[FRAME_HEADER_BYTES];
    StreamCursor cursor = {.at = pieces, .left = (size_t)count + 1};
    g_autoptr(GError) failure = NULL;

    if (!make_frame(type, payload, count, header, pieces, error))
        return FALSE;
    if (type == FRAME_ERROR || type == FRAME_ABORT)
        atomic_store(&channel->own_done, TRUE);
    if (send_in_turn(channel, type, paced, &cursor, &failure))
        return TRUE;
    prefer_final_error(channel, type, &failure);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

gboolean channel_send(Channel *channel, FrameType type, const struct iovec *payload, int count,
                      GError **error)
{
    return channel_send_as(channel, frame_type_traffic(type), type, payload, count, error);
}

gboolean channel_send_bytes(Channel *channel, FrameType type, const void *payload, size_t length,
                            GError **error)
{
    struct iovec piece = {(void *)payload, length};

    return channel_send(channel, type, &piece, length > 0 ? 1 : 0, error);
}

/* FALSE where another frame is being sent right now. */
static gboolean try_to_send(Channel *channel, FrameType type, const void *payload, size_t length)
{
    FrameHeader header = {.type = type, .length = (uint32_t)length};
    uint8_t bytes[FRAME_HEADER_BYTES];
    struct iovec pieces[] = {{bytes, sizeof bytes}, {(void *)payload, length}};
    StreamCursor cursor = {.at = pieces, .left = length > 0 ? 2 : 1};
    gboolean sent;

    if (!g_mutex_trylock(&channel->send_lock))
        return FALSE;
    frame_header_encode(&header, bytes);
    sent = send_locked(channel, type, &cursor, FALSE, NULL);
    g_mutex_unlock(&channel->send_lock);
    return sent;
}

/* What is being sent is sign of life enough. */
void channel_try_heartbeat(Channel *channel)
{
    try_to_send(channel, FRAME_HEARTBEAT, NULL, 0);
}

void channel_try_confirm(Channel *channel)
{
    uint64_t received = atomic_load(&channel->received_bytes);
    uint8_t payload[FRAME_RECEIVED_BYTES];

    if (!atomic_load(&channel->resend) || atomic_load(&channel->broken) ||
        received == atomic_load(&channel->confirmed_bytes))
        return;
    received_frame_encode(received, payload);
    if (try_to_send(channel, FRAME_RECEIVED, payload, sizeof payload))
        atomic_store(&channel->confirmed_bytes, received);
}

/* At once or not at all: nobody waits for a peer that takes nothing. */
void channel_say_bye(Channel *channel)
{
    FrameHeader header = {.type = FRAME_BYE};
    uint8_t bytes[FRAME_HEADER_BYTES];
    struct iovec piece = {bytes, sizeof bytes};
    StreamCursor cursor = {.at = &piece, .left = 1};
    lock_guard(&channel->send_lock);

    frame_header_encode(&header, bytes);
    /* Nobody would take the end of others for a break; and a stranger is told nothing. */
    if (atomic_load(&channel->resend) && !channel->send_failure &&
        !stream_has_unsent(channel->stream))
        (void)stream_write(channel->stream, &cursor, SIZE_MAX, NULL);
}

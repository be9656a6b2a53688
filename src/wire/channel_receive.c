/*
 * Receiving frames
 *
 * One buffer holds what was read and not yet given out.  Reads are as large as
 * the frame being received plus a little, so that of the frame behind it only
 * little has to be moved to the front.
 */
#include <poll.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "wire/channel_private.h"
#include "wire/socket_wait.h"

#define READ_AHEAD_BYTES (64u << 10)
#define FINAL_ERROR_WAIT_NS 1000000000ULL
#define FINAL_ERROR_MOST_BYTES (8u << 20)

/* Makes room so that *need* bytes from start on lie in one piece. */
static void make_room(Channel *channel, size_t need)
{
    size_t unread = channel->end - channel->start;

    if (unread == 0)
        channel->start = channel->end = 0;
    if (channel->start + need + READ_AHEAD_BYTES <= channel->capacity)
        return;
    if (need + READ_AHEAD_BYTES > channel->capacity) {
        channel->capacity = need + READ_AHEAD_BYTES;
        channel->buffer = g_realloc(channel->buffer, channel->capacity);
    }
    if (unread > 0)
        memmove(channel->buffer, channel->buffer + channel->start, unread);
    channel->start = 0;
    channel->end = unread;
}

/* How long the peer may be silent is the heartbeat thread's business. */
static gboolean wait_readable(Channel *channel, uint64_t deadline_ns, GError **error)
{
    switch (socket_wait(stream_get_fd(channel->stream), POLLIN, channel->wake_fd, deadline_ns)) {
    case SOCKET_READY:
        return TRUE;
    case SOCKET_WOKEN:
        return channel_check(channel, error);
    case SOCKET_TIMED_OUT:
        break;
    }
    error_set(error, VMFERRY_ERROR_TIMEOUT, "%s: no answer in time", channel->label);
    return FALSE;
}

/* Reads until *need* bytes lie at start. */
static gboolean fill(Channel *channel, size_t need, uint64_t deadline_ns, GError **error)
{
    make_room(channel, need);
    while (channel->end - channel->start < need) {
        size_t room = MIN(channel->capacity - channel->end,
                          channel->start + need - channel->end + READ_AHEAD_BYTES);
        ssize_t got = stream_read(channel->stream, channel->buffer + channel->end, room,
                                  &channel->receive_failure);

        if (got < 0) {
            channel_note_failure(channel, channel->receive_failure, FALSE);
            /* Where it was shut down here, the end of the connection is only a consequence. */
            if (channel_check_open(channel, error))
                g_propagate_error(error, g_error_copy(channel->receive_failure));
            return FALSE;
        }
        if (got == 0 && !wait_readable(channel, deadline_ns, error))
            return FALSE;
        channel->end += (size_t)got;
    }
    return TRUE;
}

/* What came where a header was expected, explained where that is known. */
static void explain_bad_header(Channel *channel, const uint8_t *bytes, GError **error)
{
    if (!channel->secure && bytes[0] == 0x16 && bytes[1] == 0x03) {
        g_clear_error(error);
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s speaks TLS, this side runs with --insecure and does not", channel->label);
    } else {
        g_prefix_error(error, "%s: ", channel->label);
    }
}

static gboolean read_header(Channel *channel, uint64_t deadline_ns, FrameHeader *ret,
                            GError **error)
{
    if (!fill(channel, FRAME_HEADER_BYTES, deadline_ns, error))
        return FALSE;
    if (frame_header_decode(channel->buffer + channel->start, ret, &channel->receive_failure))
        return TRUE;
    explain_bad_header(channel, channel->buffer + channel->start, &channel->receive_failure);
    channel_note_failure(channel, channel->receive_failure, FALSE);
    g_propagate_error(error, g_error_copy(channel->receive_failure));
    return FALSE;
}

static gboolean receive_any(Channel *channel, uint64_t deadline_ns, Frame *ret, GError **error)
{
    FrameHeader header;

    /* What was given out last is not needed any more. */
    channel->start += channel->current;
    channel->current = 0;
    if (!read_header(channel, deadline_ns, &header, error) ||
        !fill(channel, FRAME_HEADER_BYTES + header.length, deadline_ns, error))
        return FALSE;
    channel->current = FRAME_HEADER_BYTES + header.length;
    *ret = (Frame){.type = header.type,
                   .length = header.length,
                   .payload = channel->buffer + channel->start + FRAME_HEADER_BYTES};
    return TRUE;
}

/* ---- before anybody receives ---- */

void channel_set_unattended(Channel *channel)
{
    atomic_store(&channel->receiver, NULL);
    atomic_store(&channel->unattended, TRUE);
}

/* The heartbeat thread lets go of what only the receiver may use. */
static void attend(Channel *channel)
{
    if (!atomic_load(&channel->unattended))
        return;
    g_mutex_lock(&channel->unattended_lock);
    atomic_store(&channel->unattended, FALSE);
    g_mutex_unlock(&channel->unattended_lock);
}

/* Whatever else has come stays where it is, for the receiver. */
void channel_drain_heartbeats(Channel *channel)
{
    lock_guard(&channel->unattended_lock);
    FrameHeader header;

    if (!atomic_load(&channel->unattended) || channel->receive_failure)
        return;
    channel->start += channel->current;
    channel->current = 0;
    while (read_header(channel, clock_now_ns(), &header, NULL) && header.type == FRAME_HEARTBEAT)
        channel->start += FRAME_HEADER_BYTES;
}

/* ---- receiving ---- */

gboolean channel_receive(Channel *channel, int timeout_ms, Frame *ret, GError **error)
{
    uint64_t deadline_ns = socket_deadline(timeout_ms);
    Frame frame;

    atomic_store(&channel->receiver, g_thread_self());
    attend(channel);
    do {
        if (!channel_check_open(channel, error))
            return FALSE;
        if (channel->receive_failure) {
            g_propagate_error(error, g_error_copy(channel->receive_failure));
            return FALSE;
        }
        if (!receive_any(channel, deadline_ns, &frame, error))
            return FALSE;
    } while (frame.type == FRAME_HEARTBEAT);
    *ret = frame;
    return TRUE;
}

gboolean channel_receive_swap(Channel *channel, int timeout_ms, Frame *ret, uint8_t **buffer,
                              size_t *capacity, GError **error)
{
    uint8_t *full;
    size_t full_capacity, ahead;

    if (!channel_receive(channel, timeout_ms, ret, error))
        return FALSE;
    /* Only what was read ahead has to be copied, little of it. */
    full = channel->buffer;
    full_capacity = channel->capacity;
    ahead = channel->end - channel->start - channel->current;
    if (*capacity < ahead + READ_AHEAD_BYTES) {
        *capacity = MAX(full_capacity, ahead + READ_AHEAD_BYTES);
        g_free(*buffer);
        *buffer = g_malloc(*capacity);
    }
    if (ahead > 0)
        memcpy(*buffer, full + channel->end - ahead, ahead);
    channel->buffer = *buffer;
    channel->capacity = *capacity;
    channel->start = channel->current = 0;
    channel->end = ahead;
    *buffer = full;
    *capacity = full_capacity;
    return TRUE;
}

gboolean channel_expect(Channel *channel, FrameType type, int timeout_ms, Frame *ret,
                        GError **error)
{
    Frame frame;

    if (!channel_receive(channel, timeout_ms, &frame, error)) {
        if (error && error_is(*error, VMFERRY_ERROR_TIMEOUT))
            g_prefix_error(error, "waiting for %s: ", frame_type_name(type));
        return FALSE;
    }
    if (frame.type == type) {
        *ret = frame;
        return TRUE;
    }
    if (frame.type == FRAME_ERROR || frame.type == FRAME_ABORT)
        channel_error_from_frame(channel, &frame, error);
    else
        error_set(error, VMFERRY_ERROR_INVALID, "%s sent %s where %s was expected", channel->label,
                  frame_type_name(frame.type), frame_type_name(type));
    return FALSE;
}

/* ---- the final error ---- */

/* Looks for an ERROR or ABORT frame among whole frames; drops the others.
 * FALSE: there is none yet; *ret_dead*: there will be none. */
static gboolean scan_for_error(Channel *channel, GByteArray *bytes, gboolean *ret_dead,
                               GError **error)
{
    while (bytes->len >= FRAME_HEADER_BYTES) {
        FrameHeader header;
        Frame frame;

        if (!frame_header_decode(bytes->data, &header, NULL)) {
            *ret_dead = TRUE;
            return FALSE;
        }
        if (bytes->len < FRAME_HEADER_BYTES + header.length)
            return FALSE;
        frame = (Frame){header.type, header.length, bytes->data + FRAME_HEADER_BYTES};
        if (frame.type == FRAME_ERROR || frame.type == FRAME_ABORT) {
            channel_error_from_frame(channel, &frame, error);
            return TRUE;
        }
        g_byte_array_remove_range(bytes, 0, FRAME_HEADER_BYTES + header.length);
    }
    return FALSE;
}

/* Reads on into a buffer of its own: the last frame given out stays valid. */
static gboolean read_on(Channel *channel, GByteArray *bytes, uint64_t deadline_ns)
{
    uint8_t chunk[16384];
    ssize_t got = stream_read(channel->stream, chunk, sizeof chunk, NULL);

    if (got > 0)
        g_byte_array_append(bytes, chunk, (guint)got);
    return got > 0 || (got == 0 && wait_readable(channel, deadline_ns, NULL));
}

gboolean channel_find_final_error(Channel *channel, GError **error)
{
    uint64_t deadline_ns = clock_now_ns() + FINAL_ERROR_WAIT_NS;
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    size_t unread;
    gboolean dead;

    attend(channel);
    unread = channel->start + channel->current;
    dead = channel->receive_failure != NULL;

    byte_write_span(bytes, channel->buffer ? channel->buffer + unread : NULL,
                    channel->end - unread);
    if (!channel->receive_failure)
        error_set(&channel->receive_failure, VMFERRY_ERROR_DISCONNECTED, "%s closed the connection",
                  channel->label);
    while (!dead && bytes->len < FINAL_ERROR_MOST_BYTES) {
        if (scan_for_error(channel, bytes, &dead, error))
            return TRUE;
        dead = dead || !read_on(channel, bytes, deadline_ns);
    }
    return FALSE;
}

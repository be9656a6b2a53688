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
/* Read before anybody receives, at most. */
#define EARLY_MOST_BYTES (4u << 20)
/* The peer is told what has come at least that often. */
#define CONFIRM_BYTES (512u << 10)
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

/* What came before it is still given out. */
static void end_receiving(Channel *channel, const GError *cause)
{
    if (!channel->receive_failure)
        channel->receive_failure = g_error_copy(cause);
    channel_note_failure(channel, cause, FALSE);
}

/* The stream has failed.  FALSE with *error*, or with restart where there is another one now. */
static gboolean handle_failure(Channel *channel, GError *taken, uint64_t *deadline_ns,
                               GError **error)
{
    g_autoptr(GError) failure = taken;

    if (channel_report_break(channel, failure)) {
        channel->restart = channel_await_mend(channel, deadline_ns, error);
        return FALSE;
    }
    end_receiving(channel, failure);
    /* Where it was shut down here, the end of the connection is only a consequence. */
    if (channel_check_open(channel, error))
        g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* Reads until *need* bytes lie at start. */
static gboolean fill(Channel *channel, size_t need, uint64_t *deadline_ns, GError **error)
{
    make_room(channel, need);
    while (channel->end - channel->start < need) {
        /* What has come of it is the heartbeat thread's to read. */
        if (atomic_load(&channel->broken) || channel->frozen) {
            channel->restart = channel_await_mend(channel, deadline_ns, error);
            return FALSE;
        }
        size_t room = MIN(channel->capacity - channel->end,
                          channel->start + need - channel->end + READ_AHEAD_BYTES);
        GError *failure = NULL;
        ssize_t got = stream_read(channel->stream, channel->buffer + channel->end, room, &failure);

        if (got < 0)
            return handle_failure(channel, failure, deadline_ns, error);
        if (got == 0 && !wait_readable(channel, *deadline_ns, error))
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

static gboolean read_header(Channel *channel, uint64_t *deadline_ns, FrameHeader *ret,
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

static gboolean read_frame(Channel *channel, uint64_t *deadline_ns, Frame *ret, GError **error)
{
    FrameHeader header;

    if (!read_header(channel, deadline_ns, &header, error) ||
        !fill(channel, FRAME_HEADER_BYTES + header.length, deadline_ns, error))
        return FALSE;
    channel->current = FRAME_HEADER_BYTES + header.length;
    *ret = (Frame){.type = header.type,
                   .length = header.length,
                   .payload = channel->buffer + channel->start + FRAME_HEADER_BYTES};
    return TRUE;
}

/* ---- what frames mean to the channel itself ---- */

static void count_frame(Channel *channel, const Frame *frame)
{
    uint64_t received;

    if (!frame_type_is_counted(frame->type))
        return;
    received = atomic_fetch_add(&channel->received_bytes, FRAME_HEADER_BYTES + frame->length) +
               FRAME_HEADER_BYTES + frame->length;
    if (atomic_load(&channel->resend) &&
        received - atomic_load(&channel->confirmed_bytes) >= CONFIRM_BYTES)
        channel_nudge(channel);
}

static gboolean take_confirmation(Channel *channel, const Frame *frame, GError **error)
{
    ResendBuffer *resend = atomic_load(&channel->resend);
    uint64_t bytes;

    if (!received_frame_decode(frame, &bytes, error))
        return FALSE;
    if (!resend || resend_buffer_confirm(resend, bytes))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s confirms what was not sent", channel->label);
    return FALSE;
}

/* Once for each frame.  FALSE: it breaks the rules. */
static gboolean note_frame(Channel *channel, const Frame *frame, GError **error)
{
    count_frame(channel, frame);
    if (frame->type == FRAME_BYE || frame->type == FRAME_ERROR || frame->type == FRAME_ABORT)
        atomic_store(&channel->peer_done, TRUE);
    return frame->type != FRAME_RECEIVED || take_confirmation(channel, frame, error);
}

static gboolean is_for_channel(FrameType type)
{
    return type == FRAME_HEARTBEAT || type == FRAME_RECEIVED || type == FRAME_BYE;
}

/* ---- early frames ---- */

/* What lies at *bytes* as a whole frame; FALSE where it is none (yet). */
static gboolean find_frame(const uint8_t *bytes, size_t length, Frame *ret, GError **error)
{
    FrameHeader header;

    if (length < FRAME_HEADER_BYTES || !frame_header_decode(bytes, &header, error) ||
        length < FRAME_HEADER_BYTES + (size_t)header.length)
        return FALSE;
    *ret = (Frame){header.type, header.length, bytes + FRAME_HEADER_BYTES};
    return TRUE;
}

/* Behind the whole frames in the buffer: where a part of one begins. */
static size_t find_partial(const Channel *channel, uint64_t *ret_counted)
{
    size_t at = channel->start + channel->current;
    Frame frame;

    *ret_counted = 0;
    while (find_frame(channel->buffer + at, channel->end - at, &frame, NULL)) {
        if (frame_type_is_counted(frame.type))
            *ret_counted += FRAME_HEADER_BYTES + frame.length;
        at += FRAME_HEADER_BYTES + frame.length;
    }
    return at;
}

static gboolean has_early(const Channel *channel)
{
    return channel->tail->len > 0 || !g_queue_is_empty((GQueue *)&channel->early);
}

/* The buffer stays where it is: a frame of it may be in use. */
static void begin_early(Channel *channel)
{
    uint64_t counted;
    size_t at;

    if (has_early(channel) || !channel->buffer)
        return;
    at = find_partial(channel, &counted);
    g_byte_array_append(channel->tail, channel->buffer + at, (guint)(channel->end - at));
    channel->end = at;
}

/* FALSE: what follows is no frame, or breaks the rules. */
static gboolean sort_tail(Channel *channel)
{
    g_autoptr(GError) problem = NULL;
    size_t at = 0;
    Frame frame;

    while (find_frame(channel->tail->data + at, channel->tail->len - at, &frame, &problem)) {
        size_t bytes = FRAME_HEADER_BYTES + frame.length;

        if (!note_frame(channel, &frame, &problem))
            break;
        if (!is_for_channel(frame.type)) {
            g_queue_push_tail(&channel->early, g_bytes_new(channel->tail->data + at, bytes));
            channel->early_bytes += bytes;
        }
        at += bytes;
    }
    if (problem) {
        explain_bad_header(channel, channel->tail->data + at, &problem);
        end_receiving(channel, problem);
    }
    if (at > 0)
        g_byte_array_remove_range(channel->tail, 0, (guint)at);
    return problem == NULL;
}

gboolean channel_pump_locked(Channel *channel, size_t most)
{
    g_autofree uint8_t *chunk = g_malloc(READ_AHEAD_BYTES);
    size_t read = 0;
    ssize_t got = 1;

    if (channel->receive_failure || channel->frozen)
        return FALSE;
    begin_early(channel);
    while (got > 0 && read < most && channel->early_bytes < EARLY_MOST_BYTES &&
           sort_tail(channel)) {
        g_autoptr(GError) failure = NULL;

        got = stream_read(channel->stream, chunk, READ_AHEAD_BYTES, &failure);
        if (got > 0) {
            g_byte_array_append(channel->tail, chunk, (guint)got);
            read += (size_t)got;
        } else if (got < 0 && !channel_report_break(channel, failure)) {
            end_receiving(channel, failure);
        }
    }
    if (!channel->receive_failure)
        sort_tail(channel);
    return read > 0;
}

gboolean channel_pump(Channel *channel)
{
    gboolean read;

    if (atomic_load(&channel->broken) || !g_mutex_trylock(&channel->receive_lock))
        return FALSE;
    read = channel_pump_locked(channel, EARLY_MOST_BYTES);
    g_mutex_unlock(&channel->receive_lock);
    return read;
}

uint64_t channel_drop_partial_frame(Channel *channel)
{
    uint64_t counted = 0;

    if (channel->buffer && !has_early(channel))
        channel->end = find_partial(channel, &counted);
    else if (channel->buffer)
        find_partial(channel, &counted);
    g_byte_array_set_size(channel->tail, 0);
    return counted;
}

/* The next frame, where it was read early. */
static gboolean pop_early(Channel *channel, Frame *ret)
{
    gsize length;
    const uint8_t *bytes;

    channel->given = g_queue_pop_head(&channel->early);
    if (!channel->given)
        return FALSE;
    bytes = g_bytes_get_data(channel->given, &length);
    channel->early_bytes -= length;
    return find_frame(bytes, length, ret, NULL);
}

/* Once nothing is early any more, what has come of the next frame goes on in the buffer. */
static void end_early(Channel *channel)
{
    size_t length = channel->tail->len;

    if (length == 0)
        return;
    make_room(channel, length);
    memcpy(channel->buffer + channel->end, channel->tail->data, length);
    channel->end += length;
    g_byte_array_set_size(channel->tail, 0);
}

/* ---- receiving ---- */

/* For good; what came before it is still given out. */
static gboolean check_receiving(Channel *channel, GError **error)
{
    Frame frame;

    if (!channel->receive_failure ||
        (channel->buffer &&
         find_frame(channel->buffer + channel->start, channel->end - channel->start, &frame, NULL)))
        return TRUE;
    g_propagate_error(error, g_error_copy(channel->receive_failure));
    return FALSE;
}

/* A frame that breaks the rules ends it, as a header that is none does. */
static gboolean note_given(Channel *channel, const Frame *frame, GError **error)
{
    if (note_frame(channel, frame, &channel->receive_failure))
        return TRUE;
    channel_note_failure(channel, channel->receive_failure, FALSE);
    g_propagate_error(error, g_error_copy(channel->receive_failure));
    return FALSE;
}

/* What was given out last is not needed any more.  Early frames have been noted. */
static gboolean receive_any(Channel *channel, uint64_t *deadline_ns, Frame *ret, GError **error)
{
    channel->start += channel->current;
    channel->current = 0;
    g_clear_pointer(&channel->given, g_bytes_unref);
    do {
        channel->restart = FALSE;
        if (channel->start == channel->end) {
            if (pop_early(channel, ret))
                return TRUE;
            end_early(channel);
        }
        if (!check_receiving(channel, error))
            return FALSE;
        if (read_frame(channel, deadline_ns, ret, error))
            return note_given(channel, ret, error);
    } while (channel->restart);
    return FALSE;
}

void channel_set_unattended(Channel *channel)
{
    atomic_store(&channel->receiver, NULL);
    atomic_store(&channel->unattended, TRUE);
}

static gboolean receive_locked(Channel *channel, int timeout_ms, Frame *ret, GError **error)
{
    uint64_t deadline_ns = socket_deadline(timeout_ms);
    Frame frame;

    atomic_store(&channel->receiver, g_thread_self());
    atomic_store(&channel->unattended, FALSE);
    do {
        if (!channel_check_open(channel, error))
            return FALSE;
        if (!receive_any(channel, &deadline_ns, &frame, error))
            return FALSE;
    } while (is_for_channel(frame.type));
    *ret = frame;
    return TRUE;
}

gboolean channel_receive(Channel *channel, int timeout_ms, Frame *ret, GError **error)
{
    lock_guard(&channel->receive_lock);

    return receive_locked(channel, timeout_ms, ret, error);
}

/* A frame that was read early is copied. */
static void copy_given(Channel *channel, Frame *frame, uint8_t **buffer, size_t *capacity)
{
    gsize length;
    const uint8_t *bytes = g_bytes_get_data(channel->given, &length);

    if (*capacity < length) {
        g_free(*buffer);
        *buffer = g_malloc(length);
        *capacity = length;
    }
    memcpy(*buffer, bytes, length);
    frame->payload = *buffer + FRAME_HEADER_BYTES;
}

gboolean channel_receive_swap(Channel *channel, int timeout_ms, Frame *ret, uint8_t **buffer,
                              size_t *capacity, GError **error)
{
    uint8_t *full;
    size_t full_capacity, ahead;
    lock_guard(&channel->receive_lock);

    if (!receive_locked(channel, timeout_ms, ret, error))
        return FALSE;
    if (channel->given) {
        copy_given(channel, ret, buffer, capacity);
        return TRUE;
    }
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

gboolean channel_find_early_error(Channel *channel, GError **error)
{
    lock_guard(&channel->receive_lock);

    for (GList *link = channel->early.head; link; link = link->next) {
        gsize length;
        const uint8_t *bytes = g_bytes_get_data(link->data, &length);
        Frame frame;

        if (find_frame(bytes, length, &frame, NULL) &&
            (frame.type == FRAME_ERROR || frame.type == FRAME_ABORT)) {
            channel_error_from_frame(channel, &frame, error);
            return TRUE;
        }
    }
    return FALSE;
}

gboolean channel_look_ahead(Channel *channel, GError **error)
{
    channel_pump(channel);
    return !channel_find_early_error(channel, error) && !channel_has_failed(channel, error);
}

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
    ssize_t got;

    if (atomic_load(&channel->broken) || channel->frozen)
        return FALSE;
    got = stream_read(channel->stream, chunk, sizeof chunk, NULL);

    if (got > 0)
        g_byte_array_append(bytes, chunk, (guint)got);
    return got > 0 || (got == 0 && wait_readable(channel, deadline_ns, NULL));
}

/* A GFunc. */
static void append_early(gpointer frame, gpointer bytes)
{
    gsize length;
    const uint8_t *data = g_bytes_get_data(frame, &length);

    byte_write_span(bytes, data, length);
}

gboolean channel_find_final_error(Channel *channel, GError **error)
{
    uint64_t deadline_ns = clock_now_ns() + FINAL_ERROR_WAIT_NS;
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    size_t unread;
    gboolean dead;
    lock_guard(&channel->receive_lock);

    atomic_store(&channel->unattended, FALSE);
    unread = channel->start + channel->current;
    dead = channel->receive_failure != NULL;

    byte_write_span(bytes, channel->buffer ? channel->buffer + unread : NULL,
                    channel->end - unread);
    g_queue_foreach(&channel->early, append_early, bytes);
    byte_write_span(bytes, channel->tail->data, channel->tail->len);
    if (!channel->receive_failure)
        error_set(&channel->receive_failure, VMFERRY_ERROR_DISCONNECTED, "%s closed the connection",
                  channel->label);
    /* It may have been read before the end was. */
    do {
        if (scan_for_error(channel, bytes, &dead, error))
            return TRUE;
        dead = dead || !read_on(channel, bytes, deadline_ns);
    } while (!dead && bytes->len < FINAL_ERROR_MOST_BYTES);
    return FALSE;
}

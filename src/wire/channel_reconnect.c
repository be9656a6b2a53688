/*
 * A channel that survives its connection
 *
 * Theory of operation: frames of the counted types are numbered by their bytes, in each direction.  A
 * sender keeps them (resend_buffer.h) until RECEIVED says that the peer has them.  Where the
 * connection breaks, or the side that had made it hears nothing for a while, that side connects again:
 *
 *     connecting side                                accepting side
 *       TLS, HELLO "reconnect" with
 *       transaction, class and token     -->           session_await_return(): all as in the first HELLO?
 *                                        <--           HELLO
 *       stops reading the old connection
 *       RECONNECT: so much has come      -->           stops reading the old connection
 *                                        <--           RECONNECT: so much has come
 *       what is missing there, then what follows  <->  the same
 *
 * Only then, or after the peer time-out, is the old connection given up: one that comes alive again while
 * a new one is being made goes on.  What each side has received is final before it is told, and a frame of which a part has
 * come only is sent again as a whole.  So every frame arrives once and in order, and those above see
 * a connection that stood still.
 *
 * All of it is the heartbeat thread's work; senders go on until what may be kept is full, receivers
 * wait.  The end of a connection that is meant (BYE, ERROR, ABORT) is none that is mended.
 */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "wire/channel_private.h"
#include "wire/messages.h"
#include "wire/socket_wait.h"

/* What may be under way unconfirmed: 1 Gbit/s times half a second. */
#define KEPT_MOST_BYTES ((size_t)64 << 20)
#define RESEND_BYTES ((size_t)256 << 10)
/* That long without a sign of life, and another connection is tried: four heartbeats. */
#define PROBE_NS 2000000000ULL
/* One attempt: TCP's handshake, of which a lost SYN would be sent again after one second, so anew is sooner; and what
 * follows. On a long way there must be time for the round trips. */
#define SHORTEST_REACH_MS 300
#define LONGEST_REACH_MS 2000
#define REACH_ROUND_TRIPS 3
#define SHORTEST_ATTEMPT_MS 1000
#define LONGEST_ATTEMPT_MS 8000
#define ATTEMPT_ROUND_TRIPS 6
/* Dense at first, since most breaks are short. */
#define DENSE_NS 60000000000ULL
static const guint naps_ms[] = {0, 100, 200, 500};
#define LATE_NAP_MS 1000u
#define ACCEPTING_NAP_MS 100u
/* What a path carries that loses larger packets without a word (RFC 2923): IPv6's least MTU, and what every
 * host takes by IPv4. */
static const guint segments_bytes[] = {1220, 536};
#define ANSWER_TIMEOUT_MS 8000
/* A receive with a deadline nearer than that is a look, and no break makes it longer. */
#define LOOK_NS 1000000000ULL
#define NAP_MS 50u

/* ---- frames ---- */

void received_frame_encode(uint64_t bytes, uint8_t out[FRAME_RECEIVED_BYTES])
{
    uint64_t little = GUINT64_TO_LE(bytes);

    memcpy(out, &little, sizeof little);
}

gboolean received_frame_decode(const Frame *frame, uint64_t *ret, GError **error)
{
    ByteReader reader = byte_reader_make(frame->payload, frame->length);

    *ret = byte_read_le64(&reader);
    if (byte_reader_ok(&reader) && reader.left == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "malformed %s frame", frame_type_name(frame->type));
    return FALSE;
}

/* ---- switching it on ---- */

static ChannelRedial *redial_copy(const ChannelRedial *redial)
{
    ChannelRedial *copy = g_new(ChannelRedial, 1);

    *copy = (ChannelRedial){.address = g_strdup(redial->address),
                            .transaction = g_strdup(redial->transaction),
                            .token = g_strdup(redial->token),
                            .agent = g_strdup(redial->agent),
                            .instance = g_strdup(redial->instance),
                            .traffic = redial->traffic,
                            .number = redial->number,
                            .options = redial->options};
    /* What a handshake takes is no traffic of the transaction. */
    copy->options.traffic = NULL;
    return copy;
}

static void redial_free(ChannelRedial *redial)
{
    if (!redial)
        return;
    g_free(redial->address);
    g_free(redial->transaction);
    g_free(redial->token);
    g_free(redial->agent);
    g_free(redial->instance);
    g_free(redial);
}

void channel_allow_reconnect(Channel *channel, const ChannelRedial *redial, guint patience_ms)
{
    lock_guard(&channel->send_lock);

    if (atomic_load(&channel->resend))
        return;
    channel->redial = redial ? redial_copy(redial) : NULL;
    channel_set_patience(channel, patience_ms);
    /* Last: the heartbeat thread looks at the rest once this is there. */
    atomic_store(&channel->resend, resend_buffer_new(channel->counted_bytes, KEPT_MOST_BYTES));
}

void channel_set_patience(Channel *channel, guint patience_ms)
{
    atomic_store(&channel->patience_ns, (uint64_t)patience_ms * 1000000);
}

guint channel_get_segment_bytes(Channel *channel)
{
    return atomic_load(&channel->segment_bytes);
}

guint channel_get_breaks(Channel *channel)
{
    return atomic_load(&channel->breaks);
}

gboolean channel_is_broken(Channel *channel)
{
    return atomic_load(&channel->broken) || atomic_load(&channel->recovering);
}

void channel_nudge(Channel *channel)
{
    uint64_t one = 1;

    (void)!write(channel->nudge_fd, &one, sizeof one);
}

void channel_clear_reconnect(Channel *channel)
{
    channel_free(channel->returned);
    redial_free(channel->redial);
    resend_buffer_free(atomic_load(&channel->resend));
    g_clear_error(&channel->break_cause);
    g_queue_clear_full(&channel->early, (GDestroyNotify)g_bytes_unref);
    g_clear_pointer(&channel->given, g_bytes_unref);
    if (channel->tail)
        g_byte_array_unref(channel->tail);
    g_cond_clear(&channel->mended);
}

/* ---- a break, for those who send and receive ---- */

static gboolean may_mend(Channel *channel)
{
    return atomic_load(&channel->resend) && atomic_load(&channel->patience_ns) > 0 &&
           !atomic_load(&channel->own_done) && !atomic_load(&channel->peer_done) &&
           channel_check(channel, NULL);
}

/* With state_lock held. */
static void break_off_locked(Channel *channel, const GError *cause)
{
    if (atomic_load(&channel->broken))
        return;
    channel->break_cause = g_error_copy(cause);
    channel->broken_ns = clock_now_ns();
    atomic_store(&channel->broken, TRUE);
    /* Who waits for it comes out; what has arrived can still be read. */
    shutdown(stream_get_fd(channel->stream), SHUT_RDWR);
}

static void break_off(Channel *channel, const GError *cause)
{
    lock_guard(&channel->state_lock);

    break_off_locked(channel, cause);
}

gboolean channel_report_break(Channel *channel, const GError *cause)
{
    if (!may_mend(channel) || !error_is(cause, VMFERRY_ERROR_DISCONNECTED))
        return FALSE;
    break_off(channel, cause);
    channel_nudge(channel);
    return TRUE;
}

/* What our kernel has of it goes nowhere any more: by a shutdown it would still be sent. */
static void forget_unsent(Channel *channel)
{
    const struct sockaddr nobody = {.sa_family = AF_UNSPEC};

    (void)connect(stream_get_fd(channel->stream), &nobody, sizeof nobody);
}

void channel_renew(Channel *channel, const GError *cause)
{
    ResendBuffer *resend = atomic_load(&channel->resend);

    if (!resend || !may_mend(channel))
        return;
    g_mutex_lock(&channel->state_lock);
    /* Until there is a new connection. */
    resend_buffer_set_limit(resend, SIZE_MAX);
    if (!atomic_load(&channel->broken))
        forget_unsent(channel);
    break_off_locked(channel, cause);
    g_mutex_unlock(&channel->state_lock);
    channel_nudge(channel);
}

uint64_t channel_get_position(Channel *channel)
{
    lock_guard(&channel->send_lock);

    return channel->counted_bytes;
}

void channel_revoke(Channel *channel, uint64_t position, FrameType type, FrameType instead)
{
    ResendBuffer *resend = atomic_load(&channel->resend);
    FrameHeader header = {.type = type};
    uint8_t before[FRAME_HEADER_BYTES], bytes[FRAME_HEADER_BYTES];

    frame_header_encode(&header, before);
    header.type = instead;
    frame_header_encode(&header, bytes);
    if (resend)
        resend_buffer_replace(resend, position, before, bytes, sizeof bytes);
}

gboolean channel_await_mend(Channel *channel, uint64_t *deadline_ns, GError **error)
{
    uint64_t begun_ns = clock_now_ns();
    gboolean is_look = *deadline_ns != SOCKET_WAIT_FOREVER && *deadline_ns < begun_ns + LOOK_NS;
    guint number = channel->stream_number;

    while (channel->stream_number == number && g_queue_is_empty(&channel->early) &&
           !channel->receive_failure) {
        if (!channel_check(channel, error))
            return FALSE;
        if (is_look && clock_now_ns() >= *deadline_ns) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "%s: no answer in time", channel->label);
            return FALSE;
        }
        g_cond_wait_until(&channel->mended, &channel->receive_lock,
                          g_get_monotonic_time() + NAP_MS * 1000);
    }
    if (*deadline_ns != SOCKET_WAIT_FOREVER && !is_look)
        *deadline_ns += clock_now_ns() - begun_ns;
    return TRUE;
}

/* While nobody receives, the peer's confirmations are read here. */
static void await_confirmation(Channel *channel, ResendBuffer *resend)
{
    if (!atomic_load(&channel->broken) && g_mutex_trylock(&channel->receive_lock)) {
        gboolean read = FALSE;

        if (!channel->frozen &&
            socket_wait(stream_get_fd(channel->stream), POLLIN, channel->wake_fd,
                        clock_now_ns() + NAP_MS * 1000000ULL) == SOCKET_READY)
            read = channel_pump_locked(channel, RESEND_BYTES);
        g_mutex_unlock(&channel->receive_lock);
        if (read)
            return;
    }
    resend_buffer_wait(resend, NAP_MS);
}

/* A peer that lives, and has confirmed nothing since *since_ns*: as one that takes nothing. */
static gboolean check_confirming(Channel *channel, uint64_t since_ns, GError **error)
{
    uint64_t limit_ns = CHANNEL_STALL_FACTOR * channel->peer_timeout_ns;

    if (!channel_is_broken(channel) && clock_now_ns() - since_ns > limit_ns)
        channel_fail(channel,
                     g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_DISCONNECTED,
                                 "%s has confirmed nothing for %.1f s: the connection is given up",
                                 channel->label, clock_ns_to_ms(limit_ns) / 1e3));
    return channel_check(channel, error);
}

gboolean channel_keep_frame(Channel *channel, const StreamCursor *cursor, GError **error)
{
    ResendBuffer *resend = atomic_load(&channel->resend);
    uint64_t since_ns = clock_now_ns();
    uint64_t unconfirmed = 0;

    if (!resend)
        return TRUE;
    while (!resend_buffer_append(resend, cursor->at, cursor->left)) {
        uint64_t unconfirmed_now = resend_buffer_count_unconfirmed(resend);

        if (unconfirmed_now != unconfirmed || channel_is_broken(channel))
            since_ns = clock_now_ns();
        unconfirmed = unconfirmed_now;
        g_mutex_unlock(&channel->send_lock);
        await_confirmation(channel, resend);
        g_mutex_lock(&channel->send_lock);
        if (!check_confirming(channel, since_ns, error))
            return FALSE;
    }
    return TRUE;
}

gboolean channel_flush(Channel *channel, int timeout_ms)
{
    ResendBuffer *resend = atomic_load(&channel->resend);
    uint64_t end_ns = socket_deadline(timeout_ms);
    uint64_t since_ns = clock_now_ns();

    while (resend && resend_buffer_count_unconfirmed(resend) > 0) {
        if (channel_is_broken(channel))
            since_ns = clock_now_ns();
        if (!check_confirming(channel, since_ns, NULL) || clock_now_ns() > end_ns)
            return FALSE;
        await_confirmation(channel, resend);
    }
    return TRUE;
}

static gboolean has_returned(Channel *channel)
{
    lock_guard(&channel->state_lock);

    return channel->returned != NULL;
}

gboolean channel_may_probe(Channel *channel, uint64_t silent_ns, uint64_t stuck_ns)
{
    if (!atomic_load(&channel->resend))
        return FALSE;
    if (atomic_load(&channel->broken))
        return TRUE;
    if (!may_mend(channel))
        return FALSE;
    if (has_returned(channel))
        return TRUE;
    return MAX(silent_ns, channel->redial ? stuck_ns : 0) >=
           MIN(PROBE_NS, channel->peer_timeout_ns / 2);
}

/* ---- the heartbeat thread: giving the old connection up ---- */

static void report_silence(Channel *channel)
{
    g_autoptr(GError) cause = NULL;

    error_set(&cause, VMFERRY_ERROR_DISCONNECTED, "%s was silent", channel->label);
    channel_report_break(channel, cause);
}

/* Nothing is read from the old connection any more.  Returns how much of the peer's has come. */
static uint64_t freeze(Channel *channel)
{
    lock_guard(&channel->receive_lock);

    while (channel_pump_locked(channel, RESEND_BYTES))
        ;
    channel->frozen = TRUE;
    return atomic_load(&channel->received_bytes) + channel_drop_partial_frame(channel);
}

static void drain(Channel *channel)
{
    lock_guard(&channel->receive_lock);

    while (channel_pump_locked(channel, RESEND_BYTES))
        ;
    g_cond_broadcast(&channel->mended);
}

/* ---- the heartbeat thread: a new connection ---- */

static void stop_heartbeat(Channel *channel)
{
    channel_fail(channel, g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_CANCELLED, "closed"));
    g_thread_join(g_steal_pointer(&channel->heartbeat));
}

/* What was read ahead on the new connection comes behind all that has been received. */
static void take_read_ahead(Channel *channel, const Channel *from)
{
    size_t at = from->start + from->current;

    byte_write_span(channel->tail, from->buffer ? from->buffer + at : NULL, from->end - at);
    byte_write_span(channel->tail, from->tail->data, from->tail->len);
}

/* With send_lock held. */
static Stream *exchange_stream(Channel *channel, Channel *new_one)
{
    Stream *old;

    g_mutex_lock(&channel->receive_lock);
    take_read_ahead(channel, new_one);
    g_mutex_lock(&channel->state_lock);
    old = channel->stream;
    channel->earlier_sent += stream_get_sent_bytes(old);
    channel->earlier_received += stream_get_received_bytes(old);
    channel->stream = g_steal_pointer(&new_one->stream);
    channel->tuned_unsent = 0;
    channel->limited_us = 0;
    stream_set_label(channel->stream, channel->label);
    if (channel->traffic)
        stream_count_in(channel->stream, &channel->traffic->sent_bytes,
                        &channel->traffic->received_bytes);
    g_clear_error(&channel->break_cause);
    atomic_store(&channel->broken, FALSE);
    resend_buffer_set_limit(channel->resend, KEPT_MOST_BYTES);
    g_mutex_unlock(&channel->state_lock);
    channel->frozen = FALSE;
    channel->stream_number++;
    g_cond_broadcast(&channel->mended);
    g_mutex_unlock(&channel->receive_lock);
    return old;
}

/* With send_lock held: nothing new may pass what is sent again. */
static gboolean send_again(Channel *channel, uint64_t from, GError **error)
{
    ResendBuffer *resend = atomic_load(&channel->resend);
    g_autofree uint8_t *chunk = g_malloc(RESEND_BYTES);
    size_t length;

    while ((length = resend_buffer_copy(resend, &from, chunk, RESEND_BYTES)) > 0) {
        struct iovec piece = {chunk, length};
        StreamCursor cursor = {.at = &piece, .left = 1};

        if (!channel_send_pieces(channel, &cursor, FALSE, error))
            return FALSE;
    }
    return TRUE;
}

/* Takes *new_one* and its connection.  FALSE: that has broken, too. */
static gboolean install(Channel *channel, Channel *new_one, uint64_t peer_received)
{
    g_autoptr(Channel) taken = new_one;
    g_autoptr(GError) failure = NULL;
    gboolean whole;
    Stream *old;

    stop_heartbeat(taken);
    g_mutex_lock(&channel->send_lock);
    old = exchange_stream(channel, taken);
    resend_buffer_confirm(channel->resend, peer_received);
    channel->peer_confirmed = peer_received;
    channel->resending = TRUE;
    whole = send_again(channel, peer_received, &failure);
    channel->resending = FALSE;
    g_mutex_unlock(&channel->send_lock);
    stream_free(old);
    atomic_fetch_add(&channel->breaks, 1);
    if (whole)
        log_info("%s: connected again", channel->label);
    else
        channel_report_break(channel, failure);
    return whole;
}

static gboolean check_held(Channel *channel, uint64_t peer_received, GError **error)
{
    if (resend_buffer_holds_from(channel->resend, peer_received))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "%s has received %" G_GUINT64_FORMAT
              " bytes, from which on nothing can be sent again: the session cannot go on",
              channel->label, peer_received);
    return FALSE;
}

static gboolean send_received(Channel *on, uint64_t bytes, GError **error)
{
    uint8_t payload[FRAME_RECEIVED_BYTES];

    received_frame_encode(bytes, payload);
    return channel_send_bytes(on, FRAME_RECONNECT, payload, sizeof payload, error);
}

/* FALSE where the channel has failed meanwhile. */
static gboolean set_attempt(Channel *channel, Channel *attempt)
{
    lock_guard(&channel->state_lock);

    channel->attempt = attempt;
    return channel->failure == NULL;
}

/* The peer's answer, and no matter of the network. */
static gboolean is_final(const GError *error)
{
    return error_is(error, VMFERRY_ERROR_REFUSED) || error_is(error, VMFERRY_ERROR_INVALID) ||
           error_is(error, VMFERRY_ERROR_UNSUPPORTED);
}

static gboolean is_same_peer(Channel *channel, Channel *new_one, const HelloMessage *hello,
                             GError **error)
{
    if (g_strcmp0(channel_get_peer_certificate(new_one), channel->peer_certificate) == 0 &&
        g_strcmp0(hello->agent, channel->redial->agent) == 0 &&
        g_strcmp0(hello->instance, channel->redial->instance) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "%s is another agent than the one that this session began with, or was restarted",
              channel_get_peer_name(new_one));
    return FALSE;
}

typedef struct {
    Channel *channel;
    uint64_t since_ns;   /* the last sign of life */
    gboolean by_silence; /* nobody had said that it is broken */
    gboolean stuck;      /* the peer lives, and what is sent does not arrive there */
    gboolean told;       /* the log has it */
    int reach_ms,
        attempt_ms; /* how long the next one may take: to reach the peer; all behind that */
    guint attempts;
    gboolean reached;   /* TCP had connected in the last one */
    StreamSigns before; /* of the old connection, when it was last looked at */
    uint64_t confirmed; /* what the peer had by then */
    GError *last;       /* what the last attempt failed by … */
    gboolean final;     /* … and any other would */
} Recovery;

/* Up to where the old connection is given up: a new one on which the peer knows what it is for. */
static Channel *dial_again(Recovery *recovery, GError **error)
{
    Channel *channel = recovery->channel;
    const ChannelRedial *redial = channel->redial;
    ChannelAttempt attempt = {.reach_ms = recovery->reach_ms,
                              .timeout_ms = recovery->reach_ms + recovery->attempt_ms,
                              .segment_bytes = atomic_load(&channel->segment_bytes),
                              .wake_fd = channel->wake_fd};
    g_autoptr(Channel) new_one =
        channel_connect_attempt(redial->address, &redial->options, &attempt, error);
    HelloMessage hello = {0};
    gboolean greeted;

    recovery->reached = attempt.reached;
    /* Nobody listens just then, or another host has its address for a while. */
    if (!new_one)
        return NULL;
    greeted = set_attempt(channel, new_one) &&
              handshake_reconnect(new_one, redial->transaction, redial->traffic, redial->number,
                                  redial->token, &hello, error) &&
              is_same_peer(channel, new_one, &hello, error);
    set_attempt(channel, NULL);
    hello_message_clear(&hello);
    recovery->final = !greeted && is_final(*error);
    return greeted ? g_steal_pointer(&new_one) : NULL;
}

/* Takes *new_one*. */
static gboolean switch_over(Channel *channel, Channel *taken, gboolean *ret_final, GError **error)
{
    g_autoptr(Channel) new_one = taken;
    uint64_t peer_received = 0;
    gboolean agreed;
    Frame frame;

    report_silence(channel);
    /* Nobody waits for another one any more. */
    if (!atomic_load(&channel->broken))
        return FALSE;
    agreed = set_attempt(channel, new_one) && send_received(new_one, freeze(channel), error) &&
             !atomic_load(&channel->peer_done) &&
             channel_expect(new_one, FRAME_RECONNECT, ANSWER_TIMEOUT_MS, &frame, error) &&
             received_frame_decode(&frame, &peer_received, error) &&
             check_held(channel, peer_received, error);
    set_attempt(channel, NULL);
    *ret_final = !agreed && *error && is_final(*error);
    return agreed && install(channel, g_steal_pointer(&new_one), peer_received);
}

/* ---- the heartbeat thread: the accepting side ---- */

void channel_take_over(Channel *channel, Channel *new_one, uint64_t peer_received)
{
    Channel *unused;

    g_mutex_lock(&channel->state_lock);
    unused = channel->returned;
    channel->returned = new_one;
    channel->returned_received = peer_received;
    g_mutex_unlock(&channel->state_lock);
    channel_nudge(channel);
    channel_free(unused);
}

static Channel *take_returned(Channel *channel, uint64_t *ret_received)
{
    lock_guard(&channel->state_lock);

    *ret_received = channel->returned_received;
    return g_steal_pointer(&channel->returned);
}

/* Takes *new_one*. */
static gboolean accept_returned(Channel *channel, Channel *taken, uint64_t peer_received,
                                gboolean *ret_final, GError **error)
{
    g_autoptr(Channel) new_one = taken;

    if (!check_held(channel, peer_received, error)) {
        *ret_final = TRUE;
        channel_send_error(new_one, *error);
        return FALSE;
    }
    report_silence(channel);
    return atomic_load(&channel->broken) && send_received(new_one, freeze(channel), NULL) &&
           install(channel, g_steal_pointer(&new_one), peer_received);
}

/* ---- the heartbeat thread: until it is mended ---- */

static void begin_recovery(Recovery *recovery, Channel *channel, uint64_t alive_ns, gboolean stuck)
{
    uint64_t round_trip_ms = channel_get_round_trip_ns(channel) / 1000000;
    lock_guard(&channel->state_lock);
    gboolean broken = atomic_load(&channel->broken);

    *recovery = (Recovery){
        .channel = channel,
        .since_ns = broken ? channel->broken_ns : alive_ns,
        .by_silence = !broken,
        .stuck = !broken && stuck,
        .reach_ms =
            (int)CLAMP(REACH_ROUND_TRIPS * round_trip_ms, SHORTEST_REACH_MS, LONGEST_REACH_MS),
        .attempt_ms = (int)CLAMP(ATTEMPT_ROUND_TRIPS * round_trip_ms, SHORTEST_ATTEMPT_MS,
                                 LONGEST_ATTEMPT_MS),
        .confirmed = channel->peer_confirmed,
    };
    stream_peek(channel->stream, &recovery->before);
}

static void tell_break(Recovery *recovery)
{
    Channel *channel = recovery->channel;
    g_autoptr(GError) cause = NULL;

    g_mutex_lock(&channel->state_lock);
    if (!recovery->told && channel->break_cause)
        cause = g_error_copy(channel->break_cause);
    g_mutex_unlock(&channel->state_lock);
    if (!cause)
        return;
    recovery->told = TRUE;
    log_info("%s; connecting again", cause->message);
}

/* What the peer has said last is why, where it has said why. */
static GError *find_reason(Recovery *recovery)
{
    Channel *channel = recovery->channel;
    double seconds = clock_ns_to_ms(clock_now_ns() - recovery->since_ns) / 1e3;
    g_autoptr(GError) cause = NULL;
    GError *reason = NULL;

    if (channel_find_early_error(channel, &reason))
        return reason;
    g_mutex_lock(&channel->state_lock);
    cause = g_error_copy(channel->break_cause);
    g_mutex_unlock(&channel->state_lock);
    if (atomic_load(&channel->peer_done))
        return g_steal_pointer(&cause);
    error_set(&reason,
              recovery->final ? (VmferryErrorCode)recovery->last->code : VMFERRY_ERROR_DISCONNECTED,
              "%s; tried to connect again for %.1f s%s%s", cause->message, seconds,
              recovery->last ? ": " : "", recovery->last ? recovery->last->message : "");
    return reason;
}

/* Returns FALSE, as what follows. */
static gboolean give_up(Recovery *recovery)
{
    Channel *channel = recovery->channel;
    g_autoptr(GError) cause = NULL;
    GError *reason;

    /* A receiver that waits has the lock. */
    error_set(&cause, VMFERRY_ERROR_DISCONNECTED, "%s was silent", channel->label);
    break_off(channel, cause);
    reason = find_reason(recovery);
    g_mutex_lock(&channel->receive_lock);
    if (!channel->receive_failure)
        channel->receive_failure = g_error_copy(reason);
    g_cond_broadcast(&channel->mended);
    g_mutex_unlock(&channel->receive_lock);
    channel_fail(channel, reason);
    return FALSE;
}

static gboolean lives_again(Recovery *recovery)
{
    Channel *channel = recovery->channel;
    StreamSigns now;

    if (atomic_load(&channel->broken))
        return FALSE;
    stream_peek(channel->stream, &now);
    return recovery->stuck ? now.acknowledged != recovery->before.acknowledged
                           : now.arrived != recovery->before.arrived;
}

/* The next connection has smaller packets. */
static void shrink_segments(Channel *channel)
{
    guint now = atomic_load(&channel->segment_bytes);

    for (guint i = 0; i < G_N_ELEMENTS(segments_bytes); i++) {
        if (now > 0 && now <= segments_bytes[i])
            continue;
        atomic_store(&channel->segment_bytes, segments_bytes[i]);
        log_warning(
            "%s: large packets seem to be lost on the way (path MTU): connecting again with "
            "segments of %u bytes",
            channel->label, segments_bytes[i]);
        return;
    }
}

/* One attempt of the side that connects.  TRUE: there is a connection. */
static gboolean try_to_connect(Recovery *recovery)
{
    Channel *channel = recovery->channel;
    Channel *new_one;

    g_clear_error(&recovery->last);
    new_one = dial_again(recovery, &recovery->last);
    /* TCP's handshake is of small packets, TLS's is not; but a peer that is stopped does not answer either: what it
     * was sent before has arrived. */
    if (!new_one && recovery->reached && !recovery->final && recovery->before.retransmits > 0 &&
        error_is(recovery->last, VMFERRY_ERROR_TIMEOUT))
        shrink_segments(channel);
    recovery->attempts++;
    recovery->reach_ms = MIN(recovery->reach_ms * 5 / 4, LONGEST_REACH_MS);
    recovery->attempt_ms = MIN(recovery->attempt_ms * 5 / 4, LONGEST_ATTEMPT_MS);
    if (!new_one)
        return FALSE;
    if (lives_again(recovery)) {
        channel_free(new_one);
        return TRUE;
    }
    return switch_over(channel, new_one, &recovery->final, &recovery->last);
}

static gboolean try_returned(Recovery *recovery)
{
    uint64_t peer_received;
    Channel *new_one = take_returned(recovery->channel, &peer_received);

    g_clear_error(&recovery->last);
    return new_one && accept_returned(recovery->channel, new_one, peer_received, &recovery->final,
                                      &recovery->last);
}

static guint get_nap_ms(const Recovery *recovery)
{
    if (!recovery->channel->redial)
        return ACCEPTING_NAP_MS;
    if (clock_now_ns() - recovery->since_ns > DENSE_NS)
        return LATE_NAP_MS;
    return naps_ms[MIN(recovery->attempts, G_N_ELEMENTS(naps_ms) - 1)];
}

static void nap(const Recovery *recovery)
{
    Channel *channel = recovery->channel;
    uint64_t end_ns = clock_now_ns() + get_nap_ms(recovery) * 1000000ULL;
    uint64_t nudges;

    while (socket_wait(channel->nudge_fd, POLLIN, channel->wake_fd, end_ns) == SOCKET_READY) {
        (void)!read(channel->nudge_fd, &nudges, sizeof nudges);
        /* What nudges this side says nothing of the peer. */
        if (!channel->redial)
            return;
    }
}

/* The patience may have become shorter meanwhile. */
static uint64_t get_limit_ns(const Recovery *recovery)
{
    const Channel *channel = recovery->channel;
    uint64_t patience_ns = atomic_load(&channel->patience_ns);

    return recovery->by_silence ? MAX(patience_ns, channel->peer_timeout_ns) : patience_ns;
}

/* FALSE: it is the channel's end. */
static gboolean go_on(Recovery *recovery)
{
    Channel *channel = recovery->channel;

    if (!channel_check(channel, NULL))
        return FALSE;
    if (atomic_load(&channel->broken))
        drain(channel);
    tell_break(recovery);
    /* There was a new one, by which something came to the peer before it broke. */
    if (recovery->confirmed != channel->peer_confirmed) {
        recovery->confirmed = channel->peer_confirmed;
        recovery->since_ns = clock_now_ns();
    }
    if (!may_mend(channel) || recovery->final ||
        clock_now_ns() - recovery->since_ns >= get_limit_ns(recovery))
        return give_up(recovery);
    return TRUE;
}

static gboolean mend(Recovery *recovery)
{
    Channel *channel = recovery->channel;

    for (;;) {
        if (!go_on(recovery))
            return FALSE;
        if (channel->redial ? try_to_connect(recovery) : try_returned(recovery))
            return TRUE;
        /* Who sends is not to be stuck in the old one. */
        if (clock_now_ns() - recovery->since_ns > channel->peer_timeout_ns)
            report_silence(channel);
        if (lives_again(recovery))
            return TRUE;
        nap(recovery);
    }
}

gboolean channel_recover(Channel *channel, uint64_t alive_ns, gboolean stuck)
{
    Recovery recovery;
    gboolean mended;

    atomic_store(&channel->recovering, TRUE);
    begin_recovery(&recovery, channel, alive_ns, stuck);
    if (recovery.stuck)
        shrink_segments(channel);
    mended = mend(&recovery);
    atomic_store(&channel->recovering, FALSE);
    g_clear_error(&recovery.last);
    return mended;
}

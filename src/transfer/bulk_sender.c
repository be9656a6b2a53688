#include "transfer/bulk_sender.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "wire/epoch_frame.h"
#include "wire/messages.h"

#define TICK_MS 100
#define JOIN_TIMEOUT_MS 5000

typedef struct {
    FrameType type;
    size_t length;
    uint8_t payload[];
} QueuedFrame;

/* One connection.  All but what is said otherwise is under the sender's lock. */
typedef struct {
    BulkSender *sender;
    guint number; /* 0: the first; never changes, as the channel */
    Channel *channel;
    GThread *thread;   /* NULL: the caller alone sends */
    gboolean in_use;   /* FALSE: stands by, and gets no frames */
    gboolean sending;  /* a frame, just now */
    gboolean unbarred; /* has frames that no barrier is behind */
    gboolean
        unconfirmed; /* has frames that may not have been applied, or a barrier that is awaited */
    gboolean ended;  /* failed, or to be closed: its thread ends */
} Connection;

struct BulkSender {
    Session *session;
    BulkSenderOptions options;
    GCancellable *cancel; /* what is being connected */
    GThread *control;
    GMutex lock; /* protects all below */
    GCond changed;
    GCond stop;                                     /* for the control thread */
    GQueue frames;                                  /* of QueuedFrame */
    Connection *connections[CONNECTION_COUNT_MOST]; /* the first one at 0 */
    guint count, most_used;
    guint next_number;
    uint32_t barrier; /* the last one */
    ConnectionCount policy;
    uint64_t limit_bytes_per_second;
    GError *failure;
    gboolean
        flushed; /* what the caller has sent since is not to be passed: no barrier is behind it yet */
    gboolean begun, steady, stopping;
};

/* ---- with the lock held ---- */

static guint count_in_use(const BulkSender *sender)
{
    guint count = 0;

    for (guint i = 0; i < sender->count; i++)
        count += sender->connections[i]->in_use;
    return count;
}

static gboolean check(const BulkSender *sender, GError **error)
{
    if (!sender->failure)
        return TRUE;
    if (error)
        *error = g_error_copy(sender->failure);
    return FALSE;
}

static void fail(BulkSender *sender, const GError *cause)
{
    if (!sender->failure)
        sender->failure = g_error_copy(cause);
    g_cond_broadcast(&sender->changed);
}

static void leave_out(Connection *connection)
{
    connection->ended = TRUE;
    connection->in_use = FALSE;
    g_cond_broadcast(&connection->sender->changed);
}

/* A connection has failed.  FALSE: with frames, so that it is the end of all. */
static gboolean do_without(Connection *connection, const GError *cause)
{
    BulkSender *sender = connection->sender;
    g_autoptr(GError) lost = NULL;

    if (connection->number > 0 && !connection->unconfirmed) {
        leave_out(connection);
        log_info("%s: going on without one of the connections for pages: %s",
                 session_get_peer_name(sender->session), cause->message);
        return TRUE;
    }
    lost = g_error_copy(cause);
    if (connection->number > 0)
        g_prefix_error(&lost, "one of the connections for pages was lost, and pages with it: ");
    fail(sender, lost);
    return FALSE;
}

/* The first connection takes what comes; others, what it has no time for, and has no order.  What a
 * broken one keeps waits for its new connection, and all wait for that. */
static gboolean may_take(const Connection *connection)
{
    const BulkSender *sender = connection->sender;
    const QueuedFrame *next = g_queue_peek_head((GQueue *)&sender->frames);
    guint waiting = g_queue_get_length((GQueue *)&sender->frames);

    if (waiting == 0 || !connection->in_use || connection->sending)
        return FALSE;
    return connection->number == 0 || (!sender->flushed && !frame_type_has_order(next->type) &&
                                       !channel_is_broken(connection->channel) &&
                                       (sender->connections[0]->sending || waiting > 1));
}

/* ---- the connections' threads ---- */

static void send_queued(Connection *connection, QueuedFrame *frame)
{
    BulkSender *sender = connection->sender;
    g_autoptr(GError) failure = NULL;
    gboolean sent;

    connection->sending = TRUE;
    g_mutex_unlock(&sender->lock);
    sent = channel_send_bytes(connection->channel, frame->type, frame->payload, frame->length,
                              &failure);
    g_mutex_lock(&sender->lock);
    connection->sending = FALSE;
    if (sent) {
        connection->unbarred = connection->unconfirmed = TRUE;
        g_free(frame);
    } else if (do_without(connection, failure)) {
        /* Where it has come all the same, the same content is applied twice. */
        g_queue_push_head(&sender->frames, frame);
    } else {
        g_free(frame);
    }
    g_cond_broadcast(&sender->changed);
}

static gpointer connection_thread(gpointer data)
{
    Connection *connection = data;
    BulkSender *sender = connection->sender;

    g_mutex_lock(&sender->lock);
    while (!connection->ended && !sender->stopping && !sender->failure) {
        if (may_take(connection))
            send_queued(connection, g_queue_pop_head(&sender->frames));
        else
            g_cond_wait(&sender->changed, &sender->lock);
    }
    g_mutex_unlock(&sender->lock);
    return NULL;
}

static Connection *connection_new(BulkSender *sender, guint number, Channel *channel)
{
    Connection *connection = g_new0(Connection, 1);

    *connection = (Connection){.sender = sender, .number = number, .channel = channel};
    connection->in_use = TRUE;
    return connection;
}

static void connection_free(Connection *connection)
{
    if (connection->thread)
        g_thread_join(connection->thread);
    g_free(connection);
}

/* ---- barriers ---- */

static gboolean send_barrier(Channel *channel, uint32_t number, uint64_t channels, GError **error)
{
    BulkBarrier barrier = {number, channels};
    g_autoptr(GByteArray) payload = g_byte_array_new();

    barrier_frame_encode(payload, &barrier);
    return channel_send_bytes(channel, FRAME_BULK_BARRIER, payload->data, payload->len, error);
}

/* With the lock held: nothing of it can be missing, and it carries nothing just now. */
static gboolean is_spare(const Connection *connection)
{
    return !connection->unconfirmed &&
           (!connection->in_use || channel_is_broken(connection->channel));
}

/* With the lock held, on all further connections that are needed; tells which have it. */
static gboolean send_further_barriers(BulkSender *sender, uint64_t *ret_channels, GError **error)
{
    *ret_channels = 0;
    for (guint i = 1; i < sender->count; i++) {
        Connection *connection = sender->connections[i];
        g_autoptr(GError) failure = NULL;

        if (!connection->ended && is_spare(connection))
            leave_out(connection);
        if (connection->ended)
            continue;
        if (send_barrier(connection->channel, sender->barrier, 0, &failure)) {
            /* The peer waits for it. */
            connection->unconfirmed = TRUE;
            connection->unbarred = FALSE;
            *ret_channels |= 1ULL << connection->number;
        } else if (!do_without(connection, failure)) {
            return check(sender, error);
        }
    }
    return TRUE;
}

/* With the lock held.  Nothing is being sent on further ones. */
static gboolean put_barrier(BulkSender *sender, GError **error)
{
    uint64_t channels;

    sender->barrier++;
    return send_further_barriers(sender, &channels, error) &&
           send_barrier(sender->connections[0]->channel, sender->barrier, channels, error);
}

/* With the lock held.  Behind it the caller may send what has an order. */
static gboolean end_pages(BulkSender *sender, GError **error)
{
    gboolean unbarred = FALSE;

    sender->flushed = TRUE;
    for (guint i = 1; i < sender->count; i++)
        unbarred |= sender->connections[i]->unbarred;
    return !unbarred || put_barrier(sender, error);
}

/* With the lock held: before others than the first connection may be used. */
static gboolean begin_pages(BulkSender *sender, GError **error)
{
    if (!sender->flushed || sender->count == 1 ||
        (!sender->connections[0]->sending && g_queue_is_empty(&sender->frames)))
        return TRUE;
    sender->flushed = FALSE;
    return put_barrier(sender, error);
}

static gboolean is_idle(const BulkSender *sender)
{
    if (!g_queue_is_empty((GQueue *)&sender->frames))
        return FALSE;
    for (guint i = 0; i < sender->count; i++)
        if (sender->connections[i]->sending)
            return FALSE;
    return TRUE;
}

/* ---- sending ---- */

static QueuedFrame *queued_frame_new(FrameType type, const struct iovec *pieces, int count)
{
    size_t length = 0, at = 0;
    QueuedFrame *frame;

    for (int i = 0; i < count; i++)
        length += pieces[i].iov_len;
    frame = g_malloc(sizeof *frame + length);
    frame->type = type;
    frame->length = length;
    for (int i = 0; i < count; i++) {
        memcpy(frame->payload + at, pieces[i].iov_base, pieces[i].iov_len);
        at += pieces[i].iov_len;
    }
    return frame;
}

/* What the peer has said is why, where it has. */
static gboolean explain(BulkSender *sender, gboolean done, GError **error)
{
    if (!done && error && error_is(*error, VMFERRY_ERROR_DISCONNECTED))
        session_prefer_final_error(sender->session, error);
    return done;
}

/* FALSE: others are used, too. */
static gboolean take_first(BulkSender *sender)
{
    lock_guard(&sender->lock);
    Connection *first = sender->connections[0];

    if (sender->failure || count_in_use(sender) > 1 || !is_idle(sender))
        return FALSE;
    first->sending = TRUE;
    return TRUE;
}

static void give_first_back(BulkSender *sender)
{
    lock_guard(&sender->lock);

    sender->connections[0]->sending = FALSE;
    g_cond_broadcast(&sender->changed);
}

static gboolean push(BulkSender *sender, QueuedFrame *frame, GError **error)
{
    lock_guard(&sender->lock);

    while (!sender->failure && g_queue_get_length(&sender->frames) >= count_in_use(sender))
        g_cond_wait(&sender->changed, &sender->lock);
    if (!check(sender, error) || !begin_pages(sender, error)) {
        g_free(frame);
        return FALSE;
    }
    g_queue_push_tail(&sender->frames, frame);
    g_cond_broadcast(&sender->changed);
    return TRUE;
}

gboolean bulk_sender_send(BulkSender *sender, FrameType type, const struct iovec *pieces, int count,
                          GError **error)
{
    gboolean sent;

    if (!take_first(sender))
        return explain(sender, push(sender, queued_frame_new(type, pieces, count), error), error);
    sent = channel_send(sender->connections[0]->channel, type, pieces, count, error);
    give_first_back(sender);
    return sent;
}

static gboolean flush(BulkSender *sender, GError **error)
{
    lock_guard(&sender->lock);

    while (!sender->failure && !is_idle(sender))
        g_cond_wait(&sender->changed, &sender->lock);
    return check(sender, error) && end_pages(sender, error);
}

gboolean bulk_sender_flush(BulkSender *sender, GError **error)
{
    return explain(sender, flush(sender, error), error);
}

gboolean bulk_sender_check(BulkSender *sender, GError **error)
{
    lock_guard(&sender->lock);

    return check(sender, error);
}

void bulk_sender_note_applied(BulkSender *sender)
{
    lock_guard(&sender->lock);

    for (guint i = 0; i < sender->count; i++)
        sender->connections[i]->unconfirmed = sender->connections[i]->unbarred;
}

/* ---- the control thread: more and fewer ---- */

/* With the lock held: the highest numbers stand by. */
static void use(BulkSender *sender, guint wanted)
{
    guint in_use = count_in_use(sender);

    for (guint i = sender->count; i-- > 1 && in_use > wanted;)
        if (sender->connections[i]->in_use) {
            sender->connections[i]->in_use = FALSE;
            in_use--;
        }
    for (guint i = 1; i < sender->count && in_use < wanted; i++)
        if (!sender->connections[i]->in_use && !sender->connections[i]->ended) {
            sender->connections[i]->in_use = TRUE;
            in_use++;
        }
    sender->most_used = MAX(sender->most_used, in_use);
    g_cond_broadcast(&sender->changed);
}

/* With the lock held: *channel* begins behind the last barrier. */
static gboolean add(BulkSender *sender, Channel *channel, guint number, GError **error)
{
    Connection *connection = connection_new(sender, number, channel);
    Connection *first = sender->connections[0];

    if (!first->thread)
        first->thread = g_thread_try_new("send-first", connection_thread, first, error);
    if (first->thread && send_barrier(channel, sender->barrier, 0, error))
        connection->thread = g_thread_try_new("send-more", connection_thread, connection, error);
    if (!connection->thread) {
        g_free(connection);
        return FALSE;
    }
    sender->connections[sender->count++] = connection;
    sender->most_used = MAX(sender->most_used, count_in_use(sender));
    g_cond_broadcast(&sender->changed);
    return TRUE;
}

static gboolean is_steady(BulkSender *sender)
{
    lock_guard(&sender->lock);

    return sender->steady || sender->stopping || sender->failure;
}

/* One more.  FALSE: it cannot be had. */
static gboolean connect_one(BulkSender *sender)
{
    guint number = sender->next_number;
    g_autoptr(GError) error = NULL;
    Channel *channel;
    gboolean added = FALSE;

    if (number > HELLO_MOST_NUMBER || sender->count == CONNECTION_COUNT_MOST)
        return FALSE;
    channel = session_join_bulk(sender->session, number, sender->options.channel, JOIN_TIMEOUT_MS,
                                sender->cancel, &error);
    sender->next_number++;
    if (channel) {
        g_mutex_lock(&sender->lock);
        added = !sender->stopping && add(sender, channel, number, &error);
        g_mutex_unlock(&sender->lock);
        if (!added)
            session_end_bulk(sender->session, number);
    }
    if (error)
        log_info("%s: no further connection for pages: %s", session_get_peer_name(sender->session),
                 error->message);
    return added;
}

/* With the lock held: one that is to be closed, out of the list; NULL: none. */
static Connection *take_over(BulkSender *sender)
{
    for (guint i = 1; i < sender->count; i++) {
        Connection *connection = sender->connections[i];

        if (!connection->ended && (connection->in_use || connection->unconfirmed ||
                                   connection->sending || sender->steady))
            continue;
        if (connection->sending)
            continue;
        connection->ended = TRUE;
        memmove(sender->connections + i, sender->connections + i + 1,
                (sender->count - i - 1) * sizeof *sender->connections);
        sender->count--;
        g_cond_broadcast(&sender->changed);
        return connection;
    }
    return NULL;
}

static void close_unused(BulkSender *sender)
{
    for (;;) {
        Connection *connection;
        guint number;

        g_mutex_lock(&sender->lock);
        connection = take_over(sender);
        g_mutex_unlock(&sender->lock);
        if (!connection)
            return;
        number = connection->number;
        connection_free(connection);
        session_end_bulk(sender->session, number);
    }
}

/* With the lock held: those on which nothing is sent just now, too. */
static void look_for_failures(BulkSender *sender)
{
    for (guint i = 1; i < sender->count; i++) {
        Connection *connection = sender->connections[i];
        g_autoptr(GError) failure = NULL;

        if (!connection->ended && !connection->sending &&
            channel_has_failed(connection->channel, &failure))
            do_without(connection, failure);
    }
}

/* With the lock held. */
static ConnectionSample take_sample(BulkSender *sender)
{
    ConnectionSample sample = {.now_ms = clock_ns_to_ms(clock_now_ns()),
                               .limit_bytes_per_ms = (double)sender->limit_bytes_per_second / 1000};
    uint64_t sent = session_get_sent_bytes(sender->session);
    uint64_t backlog = session_get_backlog_bytes(sender->session);
    guint waiting = 0, in_use = 0, measuring = 0;

    sample.carried_bytes = sent - MIN(backlog, sent);
    for (guint i = 0; i < sender->count; i++) {
        const Connection *connection = sender->connections[i];
        ChannelPath path;

        if (!connection->in_use)
            continue;
        channel_get_path(connection->channel, &path);
        in_use++;
        waiting += connection->sending || path.unsent_bytes > 0;
        measuring += strncmp(path.congestion_control, "bbr", 3) == 0;
        if (i == 0) {
            sample.round_trip_ms = clock_ns_to_ms(path.round_trip_ns);
            sample.shortest_round_trip_ms = clock_ns_to_ms(path.least_round_trip_ns);
        }
        sample.lost_share = MAX(sample.lost_share, path.lost_share);
    }
    sample.measures_way = measuring == in_use;
    sample.waits = waiting == in_use && !session_is_broken(sender->session);
    return sample;
}

/* With the lock held: how many more are to be made. */
static guint look(BulkSender *sender)
{
    ConnectionSample sample;
    guint wanted, in_use;

    look_for_failures(sender);
    in_use = count_in_use(sender);
    if (!sender->begun || sender->steady || sender->failure)
        return 0;
    if (sender->options.connections > 0) {
        wanted = sender->next_number > HELLO_MOST_NUMBER ? in_use : sender->options.connections;
    } else {
        if (in_use < sender->policy.count)
            connection_count_note_failure(&sender->policy, in_use);
        sample = take_sample(sender);
        wanted = connection_count_note(&sender->policy, &sample);
    }
    use(sender, wanted);
    in_use = count_in_use(sender);
    return wanted > in_use ? wanted - in_use : 0;
}

static gpointer control_thread(gpointer data)
{
    BulkSender *sender = data;
    gboolean stopping = FALSE;

    while (!stopping) {
        guint wanted, missing;

        g_mutex_lock(&sender->lock);
        wanted = missing = look(sender);
        g_mutex_unlock(&sender->lock);
        while (missing > 0 && !is_steady(sender) && connect_one(sender))
            missing--;
        if (is_steady(sender))
            missing = 0;
        close_unused(sender);
        g_mutex_lock(&sender->lock);
        if (wanted > 0)
            connection_count_note_change(&sender->policy);
        if (missing > 0 && sender->options.connections > 0)
            sender->options.connections = count_in_use(sender);
        if (missing > 0)
            connection_count_note_failure(&sender->policy, count_in_use(sender));
        if (!sender->stopping)
            g_cond_wait_until(&sender->stop, &sender->lock,
                              g_get_monotonic_time() + TICK_MS * 1000);
        stopping = sender->stopping;
        g_mutex_unlock(&sender->lock);
    }
    return NULL;
}

/* ---- the whole ---- */

BulkSender *bulk_sender_new(Session *session, const BulkSenderOptions *options, GError **error)
{
    BulkSender *sender = g_new0(BulkSender, 1);

    sender->session = session;
    sender->options = *options;
    sender->cancel = g_cancellable_new();
    sender->next_number = 1;
    g_mutex_init(&sender->lock);
    g_cond_init(&sender->changed);
    g_cond_init(&sender->stop);
    g_queue_init(&sender->frames);
    connection_count_init(&sender->policy,
                          options->connections ? options->connections : CONNECTION_COUNT_MOST);
    sender->connections[sender->count++] =
        connection_new(sender, 0, session_get_channel(session, TRAFFIC_BULK));
    sender->most_used = 1;
    if (options->connections == 1)
        return sender;
    sender->control = g_thread_try_new("connections", control_thread, sender, error);
    if (sender->control)
        return sender;
    bulk_sender_free(sender);
    return NULL;
}

void bulk_sender_free(BulkSender *sender)
{
    if (!sender)
        return;
    g_mutex_lock(&sender->lock);
    sender->stopping = TRUE;
    g_cond_broadcast(&sender->changed);
    g_cond_signal(&sender->stop);
    /* Who waits for its peer comes out; the first one has more to say. */
    for (guint i = 1; i < sender->count; i++)
        if (sender->connections[i]->sending)
            channel_shutdown(sender->connections[i]->channel);
    g_mutex_unlock(&sender->lock);
    g_cancellable_cancel(sender->cancel);
    if (sender->control)
        g_thread_join(sender->control);
    for (guint i = 0; i < sender->count; i++)
        connection_free(sender->connections[i]);
    g_queue_clear_full(&sender->frames, g_free);
    g_clear_error(&sender->failure);
    g_object_unref(sender->cancel);
    g_cond_clear(&sender->changed);
    g_cond_clear(&sender->stop);
    g_mutex_clear(&sender->lock);
    g_free(sender);
}

void bulk_sender_begin(BulkSender *sender)
{
    lock_guard(&sender->lock);

    sender->begun = TRUE;
}

void bulk_sender_set_steady(BulkSender *sender, gboolean steady)
{
    lock_guard(&sender->lock);

    sender->steady = steady;
}

void bulk_sender_set_limit(BulkSender *sender, uint64_t bytes_per_second)
{
    lock_guard(&sender->lock);

    sender->limit_bytes_per_second = bytes_per_second;
}

void bulk_sender_get_counts(BulkSender *sender, guint *ret_now, guint *ret_most)
{
    lock_guard(&sender->lock);

    *ret_now = count_in_use(sender);
    *ret_most = sender->most_used;
}

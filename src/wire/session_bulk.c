/*
 * Further channels for bulk
 */
#include "base/error.h"
#include "base/lock_guard.h"
#include "wire/session_private.h"

Channel *session_find_bulk(Session *session, guint number)
{
    for (guint i = 0; i < session->bulk_count; i++)
        if (session->bulk_numbers[i] == number)
            return session->bulk[i];
    return NULL;
}

static gboolean check_number(guint number, GError **error)
{
    if (number >= 1 && number <= HELLO_MOST_NUMBER)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%u is not a valid number of a channel", number);
    return FALSE;
}

/* With the lock held. */
static gboolean check_room(Session *session, guint number, GError **error)
{
    if (!session_check_alive(session, error))
        return FALSE;
    if (session->used_numbers & (1ULL << number))
        error_set(error, VMFERRY_ERROR_EXISTS, "there has been a channel %u for bulk", number);
    else if (session->bulk_count == SESSION_BULK_MOST)
        error_set(error, VMFERRY_ERROR_BUSY, "there are %u further channels for bulk already",
                  session->bulk_count);
    else
        return TRUE;
    return FALSE;
}

/* With the lock held, to who receives by it. */
static gboolean give(Session *session, Channel *channel, guint number, GError **error)
{
    if (session->taker)
        return session->taker(channel, number, session->taker_user, error);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "nothing here takes further channels");
    return FALSE;
}

/* Takes the channel where it can.  *admits*: of the accepting side. */
static gboolean attach(Session *session, Channel *channel, guint number, gboolean admits,
                       GError **error)
{
    gboolean reconnects, taken;

    channel_share_rate(channel, session->first);
    channel_set_unattended(channel);
    g_mutex_lock(&session->lock);
    reconnects = session->reconnects;
    g_mutex_unlock(&session->lock);
    if (reconnects)
        session_let_reconnect(session, channel, TRAFFIC_BULK, number);
    g_mutex_lock(&session->lock);
    taken =
        check_room(session, number, error) && (!admits || give(session, channel, number, error));
    if (taken) {
        /* It may have changed meanwhile. */
        if (reconnects)
            channel_set_patience(channel, session->patience_ms);
        session->bulk_numbers[session->bulk_count] = number;
        session->bulk[session->bulk_count++] = channel;
        session->used_numbers |= 1ULL << number;
    }
    g_mutex_unlock(&session->lock);
    /* It ends with the first one. */
    if (taken)
        channel_watch_failure(session->first, session_on_channel_failed, session);
    return taken;
}

Channel *session_join_bulk(Session *session, guint number, const ChannelOptions *options,
                           int timeout_ms, GCancellable *cancellable, GError **error)
{
    g_autoptr(Channel) channel = NULL;

    if (!check_number(number, error))
        return NULL;
    channel = session_connect_further(session, TRAFFIC_BULK, number, options, timeout_ms,
                                      cancellable, error);
    if (channel && attach(session, channel, number, FALSE, error))
        return g_steal_pointer(&channel);
    g_prefix_error(error, "a further channel for bulk: ");
    return NULL;
}

gboolean session_admit_bulk(Session *session, Channel *channel, guint number, GError **error)
{
    gboolean attached;

    if (!check_number(number, error))
        return FALSE;
    /* Who receives by it may end it at once. */
    g_mutex_lock(&session->lock);
    session->visitors++;
    g_mutex_unlock(&session->lock);
    /* First of all: once the peer knows, the first channel may speak of this one.  Where the peer does not
     * hear of it, the receiver sees it end. */
    attached = attach(session, channel, number, TRUE, error);
    if (attached)
        channel_send_bytes(channel, FRAME_ACCEPTED, NULL, 0, NULL);
    session_end_visit(session);
    return attached;
}

void session_take_bulk(Session *session, SessionBulkTaker taker, gpointer user)
{
    lock_guard(&session->lock);

    session->taker = taker;
    session->taker_user = user;
}

/* With the lock held: nobody finds it any more. */
static Channel *remove_bulk(Session *session, guint number)
{
    Channel *channel = session_find_bulk(session, number);
    guint at = 0;

    if (!channel)
        return NULL;
    while (session->bulk[at] != channel)
        at++;
    session->bulk_count--;
    session->bulk[at] = session->bulk[session->bulk_count];
    session->bulk_numbers[at] = session->bulk_numbers[session->bulk_count];
    session->ended_sent += channel_get_sent_bytes(channel);
    session->ended_breaks += channel_get_breaks(channel);
    return channel;
}

void session_end_bulk(Session *session, guint number)
{
    Channel *channel;

    g_mutex_lock(&session->lock);
    channel = remove_bulk(session, number);
    while (channel && session->visitors > 0)
        g_cond_wait(&session->changed, &session->lock);
    g_mutex_unlock(&session->lock);
    channel_free(channel);
}

gboolean session_has_broken_bulk(Session *session)
{
    lock_guard(&session->lock);

    for (guint i = 0; i < session->bulk_count; i++)
        if (channel_is_broken(session->bulk[i]))
            return TRUE;
    return FALSE;
}

#include "migrate/postcopy_fetch.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"

#define CONNECT_TIMEOUT_MS 3000
#define ACCEPTED_TIMEOUT_MS 10000
#define JOIN_TIMEOUT_MS 10000
#define HEAR_SLICE_MS 100

/* A name may lead elsewhere by now. */
static gboolean greet(const PostcopyFetchJob *job, Session *session, GError **error)
{
    HelloMessage peer = {0};
    gboolean right;
    guint version;

    if (!session_greet(session, "fetch", &peer, &version, error))
        return FALSE;
    right = strcmp(peer.agent, job->agent) == 0;
    hello_message_clear(&peer);
    if (!right)
        error_set(error, VMFERRY_ERROR_REFUSED, "%s is another agent than the store",
                  session_get_peer_name(session));
    return right;
}

static gboolean await_accepted(const PostcopyFetchJob *job, Session *session, GError **error)
{
    uint64_t end = clock_now_ns() + (uint64_t)ACCEPTED_TIMEOUT_MS * 1000000;
    Frame frame;

    while (!g_cancellable_is_cancelled(job->cancellable)) {
        g_autoptr(GError) quiet = NULL;

        if (session_expect(session, FRAME_ACCEPTED, HEAR_SLICE_MS, &frame, &quiet))
            return TRUE;
        if (error_is(quiet, VMFERRY_ERROR_TIMEOUT) && clock_now_ns() < end)
            continue;
        g_propagate_error(error, g_steal_pointer(&quiet));
        return FALSE;
    }
    error_set(error, VMFERRY_ERROR_CANCELLED, "nobody waits for it any more");
    return FALSE;
}

/* Up to ACCEPTED. */
static Session *connect_store(const PostcopyFetchJob *job, GError **error)
{
    g_autoptr(Session) session =
        session_connect(job->store, &job->channel, CONNECT_TIMEOUT_MS, job->cancellable, error);
    g_autofree char *text = resolve_message_encode(&job->transaction);

    if (!session || !greet(job, session, error) ||
        !session_send_bytes(session, FRAME_RESUME, text, strlen(text), error) ||
        !await_accepted(job, session, error))
        return NULL;
    return g_steal_pointer(&session);
}

gboolean postcopy_fetch(PostcopyDestination *split, const PostcopyFetchJob *job, GError **error)
{
    g_autoptr(Session) session = connect_store(job, error);

    if (!session)
        return FALSE;
    session_set_transaction(session, job->transaction.transaction);
    return session_join(session, TRAFFIC_FAULT, &job->channel, JOIN_TIMEOUT_MS, job->cancellable,
                        error) &&
           !fault_point("destination.fetch", error) &&
           postcopy_destination_fetch(split, session, error);
}

gboolean postcopy_fetch_drop(const PostcopyFetchJob *job, GError **error)
{
    g_autoptr(Session) session = connect_store(job, error);

    return session && session_send_bytes(session, FRAME_COMPLETE, NULL, 0, error);
}

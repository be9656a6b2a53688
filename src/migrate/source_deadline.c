/*
 * The pause has a limit, also when it has begun
 *
 * The policy plans a pause within --downtime-cap, from what the link has carried
 * so far.  A link that collapses just then, or a destination that hangs, must
 * not cost minutes: up to START the source decides alone, so when the limit
 * passes the guest goes on here and the move fails.  The limit is the cap and a
 * quarter of it, half a second at least: an estimate that was off by a little is
 * no reason to throw a move away.
 *
 * Each step checks the clock; a send that hangs is ended by a thread that cuts
 * the connection.  It is gone before START is sent.
 *
 * Where the session survives that (source_may_retract()), the pause ends at the cap itself, or as soon as a connection
 * is seen to be broken, and the move is back in its rounds: nothing is lost but some milliseconds.  The thread has the
 * connection made anew then, so that no send is waited for.
 *
 * Limits: a command that QEMU is executing (draining disks at `stop`) is waited
 * for.
 */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "migrate/source_move.h"

#define LEAST_SLACK_MS 500u
#define SLACK_SHARE 4
/* With --verify all of RAM, and of disks that are copied, is read on both sides in the pause. */
#define VERIFY_BYTES_PER_MS 200000u
/* Who checks the clock may still say goodbye. */
#define CUT_AFTER_NS 200000000ULL
/* Of the cap, for the guest to go on within it. */
#define RESUME_MS 100u
#define RESUME_SHARE 4
#define LOOK_MS 20
#define RENEW_AFTER_MS 30

struct SourceDeadline {
    Session *session;
    uint64_t at_ns;
    int done; /* readable: there is nothing to watch any more */
    GThread *thread;
    gboolean retracts; /* where it passes the move goes back to its rounds */
    gint cut;          /* atomic */
    gint broken;       /* the same: a connection was */
};

static gboolean wait_done(const SourceDeadline *deadline, int timeout_ms)
{
    struct pollfd done = {.fd = deadline->done, .events = POLLIN};

    return poll(&done, 1, timeout_ms) > 0;
}

/* What has gone by a further channel is waited for, too. */
static gboolean is_broken(const SourceDeadline *deadline)
{
    return session_is_broken(deadline->session) || session_has_broken_bulk(deadline->session);
}

static gpointer renew_thread(gpointer data)
{
    SourceDeadline *deadline = data;
    g_autoptr(GError) cause = NULL;

    while (!is_broken(deadline) && clock_now_ns() < deadline->at_ns)
        if (wait_done(deadline, LOOK_MS))
            return NULL;
    g_atomic_int_set(&deadline->broken, is_broken(deadline));
    if (wait_done(deadline, RENEW_AFTER_MS))
        return NULL;
    error_set(&cause, VMFERRY_ERROR_DISCONNECTED, "%s takes too little for the guest's pause",
              session_get_peer_name(deadline->session));
    session_renew(deadline->session, cause);
    return NULL;
}

static gpointer watch_thread(gpointer data)
{
    SourceDeadline *deadline = data;
    uint64_t cut_at = deadline->at_ns + CUT_AFTER_NS;

    for (uint64_t now = clock_now_ns(); now < cut_at; now = clock_now_ns())
        if (wait_done(deadline, (int)((cut_at - now) / 1000000 + 1)))
            return NULL;
    g_atomic_int_set(&deadline->cut, 1);
    session_shutdown(deadline->session);
    return NULL;
}

uint64_t source_deadline_limit_ms(const SourceMove *move)
{
    const MigrateOptions *options = &move->job->options;
    guint cap = options->downtime_cap_ms;
    uint64_t limit = source_may_retract(move) ? cap - MIN(cap / RESUME_SHARE, RESUME_MS)
                                              : cap + MAX(cap / SLACK_SHARE, LEAST_SLACK_MS);

    if (options->verify)
        limit += 2 * move->report->ram_bytes / VERIFY_BYTES_PER_MS + source_disks_verify_ms(move);
    return limit;
}

static void set_broken(SourceMove *move, GError **error)
{
    move->pause_failed = TRUE;
    error_set(error, VMFERRY_ERROR_DISCONNECTED,
              "%s: the connection broke while the guest was paused",
              session_get_peer_name(move->session));
}

static void set_passed(SourceMove *move, GError **error)
{
    move->pause_failed = TRUE;
    error_set(
        error, VMFERRY_ERROR_TIMEOUT,
        "the guest has been paused for %.0f ms and its destination cannot be told to start it "
        "yet: the link or the destination has become slower (--downtime-cap is %u ms, the limit %u "
        "ms)",
        clock_ns_to_ms(clock_now_ns() - move->paused_ns), move->job->options.downtime_cap_ms,
        (guint)source_deadline_limit_ms(move));
}

gboolean source_deadline_start(SourceMove *move, GError **error)
{
    SourceDeadline *deadline;

    /* A guest that its user has paused waits for nothing. */
    if (move->stays_paused)
        return TRUE;
    deadline = g_new0(SourceDeadline, 1);
    deadline->session = move->session;
    deadline->retracts = source_may_retract(move);
    deadline->at_ns = move->paused_ns + source_deadline_limit_ms(move) * 1000000;
    deadline->done = eventfd(0, EFD_CLOEXEC);
    if (deadline->done < 0)
        error_set_errno(error, errno, "eventfd");
    else
        deadline->thread = g_thread_try_new(
            "deadline", deadline->retracts ? renew_thread : watch_thread, deadline, error);
    if (!deadline->thread) {
        fd_close(&deadline->done);
        g_free(deadline);
        return FALSE;
    }
    move->deadline = deadline;
    return TRUE;
}

gboolean source_deadline_check(SourceMove *move, GError **error)
{
    if (!move->deadline)
        return TRUE;
    if (g_atomic_int_get(&move->deadline->broken)) {
        set_broken(move, error);
        return FALSE;
    }
    if (clock_now_ns() <= move->deadline->at_ns)
        return TRUE;
    set_passed(move, error);
    return FALSE;
}

gboolean source_deadline_end(SourceMove *move, GError **error)
{
    SourceDeadline *deadline = move->deadline;
    uint64_t one = 1;
    gboolean passed, broken;

    if (!deadline)
        return TRUE;
    if (write(deadline->done, &one, sizeof one) < 0)
        g_assert_not_reached(); /* a counter that is 0 takes a 1 */
    g_thread_join(deadline->thread);
    passed = clock_now_ns() > deadline->at_ns || g_atomic_int_get(&deadline->cut);
    broken = deadline->retracts && g_atomic_int_get(&deadline->broken);
    fd_close(&deadline->done);
    g_clear_pointer(&move->deadline, g_free);
    if (broken)
        set_broken(move, error);
    else if (passed)
        set_passed(move, error);
    return !passed && !broken;
}

void source_deadline_replace_error(SourceMove *move, GError **error)
{
    if (!move->deadline || !g_atomic_int_get(&move->deadline->cut))
        return;
    g_clear_error(error);
    set_passed(move, error);
}

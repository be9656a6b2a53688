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

struct SourceDeadline {
    Session *session;
    uint64_t at_ns;
    int done; /* readable: there is nothing to watch any more */
    GThread *thread;
    gint cut; /* atomic */
};

static gpointer watch_thread(gpointer data)
{
    SourceDeadline *deadline = data;
    struct pollfd done = {.fd = deadline->done, .events = POLLIN};
    uint64_t cut_at = deadline->at_ns + CUT_AFTER_NS;

    for (uint64_t now = clock_now_ns(); now < cut_at; now = clock_now_ns())
        if (poll(&done, 1, (int)((cut_at - now) / 1000000 + 1)) > 0)
            return NULL;
    g_atomic_int_set(&deadline->cut, 1);
    session_shutdown(deadline->session);
    return NULL;
}

uint64_t source_deadline_limit_ms(const SourceMove *move)
{
    const MigrateOptions *options = &move->job->options;
    guint cap = options->downtime_cap_ms;
    uint64_t limit = cap + MAX(cap / SLACK_SHARE, LEAST_SLACK_MS);

    if (options->verify)
        limit += 2 * move->report->ram_bytes / VERIFY_BYTES_PER_MS + source_disks_verify_ms(move);
    return limit;
}

static void set_passed(SourceMove *move, GError **error)
{
    error_set(
        error, VMFERRY_ERROR_TIMEOUT,
        "the guest has been paused for %.0f ms and its destination cannot be told to start it "
        "yet: the link or the destination has become slower (--downtime-cap is %u ms, the "
        "limit with what estimates may be off %u ms)",
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
    deadline->at_ns = move->paused_ns + source_deadline_limit_ms(move) * 1000000;
    deadline->done = eventfd(0, EFD_CLOEXEC);
    if (deadline->done < 0)
        error_set_errno(error, errno, "eventfd");
    else
        deadline->thread = g_thread_try_new("deadline", watch_thread, deadline, error);
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
    if (!move->deadline || clock_now_ns() <= move->deadline->at_ns)
        return TRUE;
    set_passed(move, error);
    return FALSE;
}

gboolean source_deadline_end(SourceMove *move, GError **error)
{
    SourceDeadline *deadline = move->deadline;
    uint64_t one = 1;
    gboolean passed;

    if (!deadline)
        return TRUE;
    if (write(deadline->done, &one, sizeof one) < 0)
        g_assert_not_reached(); /* a counter that is 0 takes a 1 */
    g_thread_join(deadline->thread);
    passed = clock_now_ns() > deadline->at_ns || g_atomic_int_get(&deadline->cut);
    fd_close(&deadline->done);
    g_clear_pointer(&move->deadline, g_free);
    if (passed)
        set_passed(move, error);
    return !passed;
}

void source_deadline_replace_error(SourceMove *move, GError **error)
{
    if (!move->deadline || !g_atomic_int_get(&move->deadline->cut))
        return;
    g_clear_error(error);
    set_passed(move, error);
}

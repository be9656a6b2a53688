#include "migrate/lease_keeper.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/thread.h"
#include "policy/lease.h"

#define NS_PER_MS ((uint64_t)1000000)
#define TRY_AGAIN_MS 50
#define SHORTEST_ASK_MS 20
/* So long before the last lease ends the guest is paused by us: before the guard begins. */
#define PAUSE_AHEAD_MS (GUARD_DEADLINE_LEAD_MS + 200)
/* A guard that takes longer to act has been killed over it. */
#define ACTING_MS (2 * GUARD_DEADLINE_LEAD_MS)
/* A lease that ends sooner is not worth resuming a guest for. */
#define WORTH_MS (PAUSE_AHEAD_MS + 50)

struct LeaseKeeper {
    LeaseKeeperOptions options;
    char *transaction, *file;
    GuardDeadline *deadline;
    GThread *thread;
    Guard *guard; /* of the thread */

    GMutex lock;  /* protects all below */
    GCond change; /* *changed*, or a new state */
    LeaseHolder holder;
    LeaseKeeperState state;
    gboolean changed; /* for the thread to look at */
    gboolean heard_any, released, stopping;
    WitnessState heard;
};

static gboolean has_lease_worth(LeaseKeeper *keeper)
{
    return lease_holder_deadline(&keeper->holder) > clock_boot_ns() + WORTH_MS * NS_PER_MS;
}

/* With the lock held. */
static void set_state(LeaseKeeper *keeper, LeaseKeeperState state)
{
    keeper->state = state;
    g_cond_broadcast(&keeper->change);
}

/* With the lock held. */
static void wake_thread(LeaseKeeper *keeper)
{
    keeper->changed = TRUE;
    g_cond_broadcast(&keeper->change);
}

/* ---- leases, in any thread ---- */

static void add_lease(LeaseKeeper *keeper, LeaseOrigin origin, uint64_t sent_ns, guint length_ms)
{
    lock_guard(&keeper->lock);

    lease_holder_grant(&keeper->holder, origin, sent_ns, length_ms);
    if (keeper->state != LEASE_KEEPER_RUNS ||
        !guard_deadline_renew(keeper->deadline, lease_holder_deadline(&keeper->holder)))
        wake_thread(keeper);
}

void lease_keeper_grant(LeaseKeeper *keeper, uint64_t sent_ns, guint length_ms)
{
    add_lease(keeper, LEASE_OF_PEER, sent_ns, length_ms);
}

/* ---- the thread ---- */

static void hear(LeaseKeeper *keeper, WitnessState state)
{
    gboolean is_new;

    g_mutex_lock(&keeper->lock);
    is_new = !keeper->heard_any || keeper->heard != state;
    keeper->heard_any = TRUE;
    keeper->heard = state;
    g_mutex_unlock(&keeper->lock);
    if (is_new && keeper->options.heard)
        keeper->options.heard(state, keeper->options.user);
}

/* How long until the guest has to be paused; FALSE: there is no deadline. */
static gboolean is_ending_in(LeaseKeeper *keeper, int64_t *ret_ms)
{
    uint64_t time_ns = 0;

    if (guard_deadline_get(keeper->deadline, &time_ns) != GUARD_DEADLINE_SET)
        return FALSE;
    *ret_ms = ((int64_t)time_ns - (int64_t)clock_boot_ns()) / (int64_t)NS_PER_MS - PAUSE_AHEAD_MS;
    return TRUE;
}

/* A witness that does not answer must not keep us from pausing the guest. */
static int choose_patience_ms(LeaseKeeper *keeper)
{
    int64_t most = keeper->options.lease_ms / 2, left_ms = most;

    if (!is_ending_in(keeper, &left_ms))
        return (int)most;
    return (int)CLAMP(left_ms, SHORTEST_ASK_MS, most);
}

static void ask_witness(LeaseKeeper *keeper)
{
    g_autoptr(GError) refusal = NULL;
    WitnessReply reply;

    if (witness_ask(keeper->options.witness, WITNESS_RENEW, keeper->transaction,
                    choose_patience_ms(keeper), &reply, &refusal))
        add_lease(keeper, LEASE_OF_WITNESS, reply.sent_ns, reply.lease_ms);
    else
        log_debug("transaction %s: %s", keeper->transaction, refusal->message);
    if (reply.answered && !error_is(refusal, VMFERRY_ERROR_NOT_FOUND))
        hear(keeper, reply.state);
}

static gboolean ensure_guard(LeaseKeeper *keeper, GError **error)
{
    if (keeper->guard && guard_is_alive(keeper->guard))
        return TRUE;
    guard_free(keeper->guard);
    keeper->guard = keeper->options.start_guard(keeper->options.user, error);
    return keeper->guard != NULL;
}

/* Until the last lease that there is. */
static gboolean arm(LeaseKeeper *keeper, GError **error)
{
    uint64_t time_ns;

    g_mutex_lock(&keeper->lock);
    time_ns = lease_holder_deadline(&keeper->holder);
    g_mutex_unlock(&keeper->lock);
    return ensure_guard(keeper, error) &&
           guard_arm_deadline(keeper->guard, keeper->deadline, &keeper->options.pause, time_ns,
                              error);
}

static GuardDeadlineState await_guard(LeaseKeeper *keeper)
{
    uint64_t end = clock_boot_ns() + ACTING_MS * NS_PER_MS;
    GuardDeadlineState how;

    while ((how = guard_deadline_get(keeper->deadline, NULL)) == GUARD_DEADLINE_ACTING) {
        if (clock_boot_ns() > end)
            guard_deadline_give_up_guard(keeper->deadline);
        clock_sleep_ns(NS_PER_MS);
    }
    return how;
}

/* The guard has acted, or is about to. */
static void note_held(LeaseKeeper *keeper)
{
    GuardDeadlineState how = await_guard(keeper);

    g_mutex_lock(&keeper->lock);
    set_state(keeper, LEASE_KEEPER_HELD);
    g_mutex_unlock(&keeper->lock);
    if (keeper->options.held)
        keeper->options.held(how, keeper->options.user);
}

static gboolean is_ending(LeaseKeeper *keeper)
{
    int64_t left_ms;

    return is_ending_in(keeper, &left_ms) && left_ms <= 0;
}

static void pause_ourselves(LeaseKeeper *keeper)
{
    gboolean was_running = TRUE;
    g_autoptr(GError) error = NULL;

    guard_deadline_begin_pause(keeper->deadline);
    if (keeper->options.pause_guest(&was_running, keeper->options.user, &error))
        guard_deadline_end_pause(keeper->deadline, was_running);
    else
        log_warning("transaction %s: the lease ends, and the guest is not paused by us: %s",
                    keeper->transaction, error->message);
}

static gboolean undo_one(LeaseKeeper *keeper, GuardDeadlineUndo what, GError **error)
{
    if (!(guard_deadline_get_undo(keeper->deadline) & what))
        return TRUE;
    if (!keeper->options.undo(what, keeper->options.user, error))
        return FALSE;
    guard_deadline_undone(keeper->deadline, what);
    return TRUE;
}

static gboolean undo_all(LeaseKeeper *keeper, GError **error)
{
    return undo_one(keeper, GUARD_DEADLINE_UNDO_STOP, error) &&
           undo_one(keeper, GUARD_DEADLINE_UNDO_PAUSE, error);
}

static gboolean undo_under_deadline(LeaseKeeper *keeper, GError **error)
{
    gboolean done = FALSE;

    if (guard_deadline_begin_resume(keeper->deadline))
        done = undo_all(keeper, error);
    else
        error_set(error, VMFERRY_ERROR_TIMEOUT, "the lease has ended meanwhile");
    guard_deadline_end_resume(keeper->deadline);
    return done;
}

/* FALSE: to be tried again. */
static gboolean begin_running(LeaseKeeper *keeper)
{
    g_autoptr(GError) error = NULL;

    if (!arm(keeper, &error) || !undo_under_deadline(keeper, &error)) {
        log_warning("transaction %s: a lease is there, and the guest is not let run: %s",
                    keeper->transaction, error->message);
        return FALSE;
    }
    g_mutex_lock(&keeper->lock);
    set_state(keeper, LEASE_KEEPER_RUNS);
    /* What was granted while it was armed; from now on each grant does this. */
    (void)guard_deadline_renew(keeper->deadline, lease_holder_deadline(&keeper->holder));
    g_mutex_unlock(&keeper->lock);
    return TRUE;
}

static gboolean be_released(LeaseKeeper *keeper)
{
    g_autoptr(GError) error = NULL;

    if (!guard_deadline_clear(keeper->deadline) || !undo_all(keeper, &error)) {
        log_warning("transaction %s: the guest needs no lease, and is not resumed: %s",
                    keeper->transaction, error ? error->message : "its guard is pausing it");
        return FALSE;
    }
    g_mutex_lock(&keeper->lock);
    set_state(keeper, LEASE_KEEPER_FREE);
    g_mutex_unlock(&keeper->lock);
    return TRUE;
}

/* The guard may have been killed. */
static gboolean keep_watched(LeaseKeeper *keeper)
{
    g_autoptr(GError) error = NULL;

    if (guard_is_alive(keeper->guard) || arm(keeper, &error))
        return TRUE;
    log_warning("transaction %s: no guard watches the lease: %s", keeper->transaction,
                error->message);
    return FALSE;
}

static gboolean was_acted_upon(LeaseKeeper *keeper)
{
    return guard_deadline_get(keeper->deadline, NULL) != GUARD_DEADLINE_SET ||
           guard_deadline_get_undo(keeper->deadline) != 0;
}

/* What is to be done for the state that there is; FALSE: soon again. */
static gboolean look(LeaseKeeper *keeper)
{
    LeaseKeeperState state;
    gboolean released, worth;

    g_mutex_lock(&keeper->lock);
    state = keeper->state;
    released = keeper->released;
    worth = has_lease_worth(keeper);
    g_mutex_unlock(&keeper->lock);
    if (state == LEASE_KEEPER_RUNS && keeper->options.pause_guest && is_ending(keeper))
        pause_ourselves(keeper);
    if (state == LEASE_KEEPER_RUNS && was_acted_upon(keeper)) {
        note_held(keeper);
        return FALSE;
    }
    if (state == LEASE_KEEPER_FREE ||
        guard_deadline_get(keeper->deadline, NULL) == GUARD_DEADLINE_GONE)
        return TRUE;
    if (released)
        return be_released(keeper);
    if (state == LEASE_KEEPER_RUNS)
        return keep_watched(keeper);
    return !worth || begin_running(keeper);
}

static gboolean asks(LeaseKeeper *keeper)
{
    return keeper->options.witness && lease_keeper_get_state(keeper) != LEASE_KEEPER_FREE;
}

/* When the thread looks again, though nothing has happened: the last lease ends, or the next renewal. */
static int64_t choose_wait_ms(LeaseKeeper *keeper, gboolean settled, uint64_t next_ask_ns)
{
    uint64_t now = clock_boot_ns();
    int64_t wait_ms = lease_renewal_interval_ms(keeper->options.lease_ms), left_ms;

    if (!settled)
        return TRY_AGAIN_MS;
    if (asks(keeper))
        wait_ms = next_ask_ns > now ? (int64_t)((next_ask_ns - now) / NS_PER_MS + 1) : 0;
    if (is_ending_in(keeper, &left_ms))
        wait_ms = MIN(wait_ms, left_ms > 0 ? left_ms + 1 : TRY_AGAIN_MS);
    return wait_ms;
}

/* FALSE: it is to end. */
static gboolean wait_for_change(LeaseKeeper *keeper, int64_t wait_ms)
{
    gint64 end = g_get_monotonic_time() + wait_ms * 1000;
    lock_guard(&keeper->lock);

    while (!keeper->stopping && !keeper->changed &&
           g_cond_wait_until(&keeper->change, &keeper->lock, end))
        ;
    keeper->changed = FALSE;
    return !keeper->stopping;
}

static gpointer keeper_thread(gpointer data)
{
    LeaseKeeper *keeper = data;
    uint64_t next_ask_ns = 0;
    /* What another guard watched, if any still does. */
    gboolean settled = lease_keeper_get_state(keeper) != LEASE_KEEPER_RUNS || arm(keeper, NULL);

    while (wait_for_change(keeper, choose_wait_ms(keeper, settled, next_ask_ns))) {
        if (asks(keeper) && clock_boot_ns() >= next_ask_ns) {
            next_ask_ns =
                clock_boot_ns() + lease_renewal_interval_ms(keeper->options.lease_ms) * NS_PER_MS;
            ask_witness(keeper);
        }
        settled = look(keeper);
    }
    return NULL;
}

/* ---- the rest ---- */

static void keeper_free(LeaseKeeper *keeper)
{
    guard_deadline_close(keeper->deadline);
    g_cond_clear(&keeper->change);
    g_mutex_clear(&keeper->lock);
    g_free(keeper->transaction);
    g_free(keeper->file);
    g_free(keeper);
}

/* What an agent before this one has left: it may have been killed over anything. */
static void take_over_deadline(LeaseKeeper *keeper)
{
    uint64_t time_ns = 0;
    GuardDeadlineState found = await_guard(keeper);

    guard_deadline_end_resume(keeper->deadline);
    if (guard_deadline_get(keeper->deadline, &time_ns) == GUARD_DEADLINE_SET)
        keeper->holder.until_ns[LEASE_OF_PEER] = time_ns; /* of whom it was does not matter */
    if (found == GUARD_DEADLINE_NONE && guard_deadline_get_undo(keeper->deadline) == 0)
        keeper->state = LEASE_KEEPER_WAITING;
    else
        keeper->state = was_acted_upon(keeper) ? LEASE_KEEPER_HELD : LEASE_KEEPER_RUNS;
    keeper->changed = TRUE;
}

LeaseKeeper *lease_keeper_start(const LeaseKeeperOptions *options, GError **error)
{
    LeaseKeeper *keeper = g_new0(LeaseKeeper, 1);

    keeper->options = *options;
    keeper->transaction = g_strdup(options->transaction);
    keeper->file = g_strdup(options->file);
    g_mutex_init(&keeper->lock);
    g_cond_init(&keeper->change);
    keeper->deadline = guard_deadline_open(keeper->file, error);
    if (keeper->deadline) {
        take_over_deadline(keeper);
        if (ensure_guard(keeper, error) &&
            (keeper->thread = thread_start("leases", keeper_thread, keeper, error)))
            return keeper;
    }
    guard_leave(keeper->guard);
    keeper_free(keeper);
    return NULL;
}

static gboolean await_lease(LeaseKeeper *keeper, int timeout_ms, GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    lock_guard(&keeper->lock);

    while (keeper->state != LEASE_KEEPER_RUNS && keeper->state != LEASE_KEEPER_FREE) {
        if (!g_cond_wait_until(&keeper->change, &keeper->lock, end)) {
            error_set(error, VMFERRY_ERROR_TIMEOUT,
                      "neither the other host nor the witness has let the guest run");
            return FALSE;
        }
    }
    return TRUE;
}

gboolean lease_keeper_run(LeaseKeeper *keeper, int timeout_ms,
                          gboolean (*run)(gpointer user, GError **error), gpointer user,
                          GError **error)
{
    gboolean done = FALSE;

    if (!await_lease(keeper, timeout_ms, error))
        return FALSE;
    if (guard_deadline_begin_resume(keeper->deadline) ||
        lease_keeper_get_state(keeper) == LEASE_KEEPER_FREE)
        done = run(user, error);
    else
        error_set(error, VMFERRY_ERROR_TIMEOUT, "the lease ended before the guest ran");
    guard_deadline_end_resume(keeper->deadline);
    return done;
}

void lease_keeper_release(LeaseKeeper *keeper)
{
    lock_guard(&keeper->lock);

    keeper->released = TRUE;
    wake_thread(keeper);
}

LeaseKeeperState lease_keeper_get_state(LeaseKeeper *keeper)
{
    lock_guard(&keeper->lock);

    return keeper->state;
}

void lease_keeper_stop(LeaseKeeper *keeper, gboolean ended)
{
    if (!keeper)
        return;
    g_mutex_lock(&keeper->lock);
    keeper->stopping = TRUE;
    wake_thread(keeper);
    g_mutex_unlock(&keeper->lock);
    g_thread_join(keeper->thread);
    if (ended || keeper->state == LEASE_KEEPER_FREE)
        guard_free(keeper->guard);
    else
        guard_leave(keeper->guard);
    keeper_free(keeper);
}

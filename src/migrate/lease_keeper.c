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
/* A guard that takes longer to act has been killed over it. */
#define ACTING_MS (2 * GUARD_DEADLINE_LEAD_MS)
/* The guest is paused by us before the guard begins … */
#define SHORTEST_AHEAD_MS 30
/* … which has a fifth of the shortest lease. */
#define LEAD_SHARE 5
/* A lease is worth resuming a guest for that ends so long after we would pause it again. */
#define WORTH_MS 15
/* The process was stopped while we were pausing the guest: how long that takes to end when it goes on. */
#define PAUSED_LATE_MS 1000
#define LAST_ASK_MS 300

struct LeaseKeeper {
    LeaseKeeperOptions options;
    char *transaction, *file;
    GuardDeadline *deadline;
    guint lead_ms, ahead_ms; /* before the deadline: the guard begins; we pause the guest */
    GThread *thread;
    Guard *guard;    /* these are of the thread */
    GThread *pauser; /* or NULL */

    GMutex lock;  /* protects all below */
    GCond change; /* *changed*, or a new state */
    LeaseHolder holder;
    LeaseLength length;
    LeaseKeeperState state;
    gboolean pausing, overtaken; /* the pauser is at it; the guard was faster */
    gboolean in_moment;
    gboolean changed; /* for the thread to look at */
    gboolean heard_any, released, stopping;
    WitnessState heard;
};

static gboolean has_lease_worth(LeaseKeeper *keeper)
{
    return lease_holder_deadline(&keeper->holder) >
           clock_boot_ns() + (keeper->ahead_ms + WORTH_MS) * NS_PER_MS;
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

    lease_length_note(&keeper->length, sent_ns, clock_boot_ns());
    lease_holder_grant(&keeper->holder, origin, sent_ns, length_ms);
    if (keeper->state != LEASE_KEEPER_RUNS ||
        !guard_deadline_renew(keeper->deadline, lease_holder_deadline(&keeper->holder)))
        wake_thread(keeper);
}

void lease_keeper_grant(LeaseKeeper *keeper, uint64_t sent_ns, guint length_ms)
{
    add_lease(keeper, LEASE_OF_PEER, sent_ns, length_ms);
}

guint lease_keeper_get_wanted_ms(LeaseKeeper *keeper)
{
    lock_guard(&keeper->lock);

    return lease_length_choose(&keeper->length);
}

guint lease_keeper_get_interval_ms(LeaseKeeper *keeper)
{
    return lease_renewal_interval_ms(lease_keeper_get_wanted_ms(keeper));
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
    *ret_ms = ((int64_t)time_ns - (int64_t)clock_boot_ns()) / (int64_t)NS_PER_MS -
              (int64_t)keeper->ahead_ms;
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

static void ask_witness(LeaseKeeper *keeper, guint lease_ms, int patience_ms)
{
    WitnessRequest request = {
        .kind = WITNESS_RENEW, .transaction = keeper->transaction, .lease_ms = lease_ms};
    g_autoptr(GError) refusal = NULL;
    WitnessReply reply;

    if (witness_call(keeper->options.witness, &request, patience_ms, &reply, &refusal))
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
    guard_deadline_set_lead(keeper->deadline, keeper->lead_ms);
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

/* A pause that comes to its end after the guard has acted is to be undone all the same. */
static void note_paused(LeaseKeeper *keeper, gboolean was_running)
{
    lock_guard(&keeper->lock);

    if (!keeper->overtaken)
        guard_deadline_end_pause(keeper->deadline, was_running);
    else if (!was_running)
        guard_deadline_undone(keeper->deadline, GUARD_DEADLINE_UNDO_PAUSE);
}

static gpointer pauser_thread(gpointer data)
{
    LeaseKeeper *keeper = data;
    gboolean was_running = TRUE;
    g_autoptr(GError) error = NULL;

    if (keeper->options.pause_guest(&was_running, keeper->options.user, &error))
        note_paused(keeper, was_running);
    else
        log_warning("transaction %s: the lease ends, and the guest is not paused by us: %s",
                    keeper->transaction, error->message);
    g_mutex_lock(&keeper->lock);
    keeper->pausing = FALSE;
    g_cond_broadcast(&keeper->change);
    g_mutex_unlock(&keeper->lock);
    return NULL;
}

static gboolean start_pauser(LeaseKeeper *keeper)
{
    g_autoptr(GError) error = NULL;

    guard_deadline_begin_pause(keeper->deadline);
    keeper->pauser = thread_start("pause", pauser_thread, keeper, &error);
    if (!keeper->pauser) {
        log_warning("transaction %s: the lease ends: %s", keeper->transaction, error->message);
        guard_deadline_undone(keeper->deadline, GUARD_DEADLINE_UNDO_PAUSE);
        g_mutex_lock(&keeper->lock);
        keeper->pausing = FALSE;
        g_mutex_unlock(&keeper->lock);
    }
    return keeper->pauser != NULL;
}

/* Waits for the pauser, until the guard has acted: it may have stopped the process that is asked. */
static void await_pauser(LeaseKeeper *keeper)
{
    lock_guard(&keeper->lock);

    while (keeper->pausing && guard_deadline_get(keeper->deadline, NULL) == GUARD_DEADLINE_SET)
        g_cond_wait_until(&keeper->change, &keeper->lock,
                          g_get_monotonic_time() + G_TIME_SPAN_MILLISECOND);
    keeper->overtaken = keeper->pausing;
}

/* TRUE: none is at it.  It is waited for a while. */
static gboolean end_pauser(LeaseKeeper *keeper, gint64 patience_ms)
{
    gint64 end = g_get_monotonic_time() + patience_ms * G_TIME_SPAN_MILLISECOND;

    if (!keeper->pauser)
        return TRUE;
    g_mutex_lock(&keeper->lock);
    while (keeper->pausing && g_cond_wait_until(&keeper->change, &keeper->lock, end))
        ;
    if (keeper->pausing) {
        g_mutex_unlock(&keeper->lock);
        return FALSE;
    }
    g_mutex_unlock(&keeper->lock);
    g_thread_join(g_steal_pointer(&keeper->pauser));
    return TRUE;
}

/* Within a moment the VMM does not answer; the guard has a way.  And no moment begins from here on. */
static gboolean begin_pausing(LeaseKeeper *keeper)
{
    lock_guard(&keeper->lock);

    keeper->pausing = keeper->options.pause_guest && !keeper->in_moment;
    keeper->overtaken = FALSE;
    return keeper->pausing;
}

static void pause_ourselves(LeaseKeeper *keeper)
{
    if (end_pauser(keeper, 0) && begin_pausing(keeper) && start_pauser(keeper))
        await_pauser(keeper);
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

/* A pause of ours that waits for a process which goes on now comes first: it would be the last otherwise. */
static gboolean undo_all(LeaseKeeper *keeper, GError **error)
{
    if (!undo_one(keeper, GUARD_DEADLINE_UNDO_STOP, error))
        return FALSE;
    if (end_pauser(keeper, PAUSED_LATE_MS))
        return undo_one(keeper, GUARD_DEADLINE_UNDO_PAUSE, error);
    error_set(error, VMFERRY_ERROR_BUSY, "the VMM has not answered yet that the guest is paused");
    return FALSE;
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
    if (state == LEASE_KEEPER_RUNS && is_ending(keeper))
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
    int64_t wait_ms = lease_keeper_get_interval_ms(keeper), left_ms;

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
            guint wanted_ms = lease_keeper_get_wanted_ms(keeper);

            next_ask_ns = clock_boot_ns() + lease_renewal_interval_ms(wanted_ms) * NS_PER_MS;
            ask_witness(keeper, wanted_ms, choose_patience_ms(keeper));
        }
        settled = look(keeper);
    }
    end_pauser(keeper, G_MAXINT32);
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

static void set_times(LeaseKeeper *keeper)
{
    guint longest_ms = keeper->options.lease_ms;
    guint shortest_ms =
        keeper->options.shortest_ms > 0 ? MIN(keeper->options.shortest_ms, longest_ms) : longest_ms;

    keeper->length = lease_length_new(shortest_ms, longest_ms, clock_boot_ns());
    keeper->lead_ms = CLAMP(shortest_ms / LEAD_SHARE, 1, GUARD_DEADLINE_LEAD_MS);
    keeper->ahead_ms = keeper->lead_ms + MAX(keeper->lead_ms / 2, SHORTEST_AHEAD_MS);
}

LeaseKeeper *lease_keeper_start(const LeaseKeeperOptions *options, GError **error)
{
    LeaseKeeper *keeper = g_new0(LeaseKeeper, 1);

    keeper->options = *options;
    set_times(keeper);
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

gboolean lease_keeper_begin_moment(LeaseKeeper *keeper)
{
    uint64_t soon_ns = clock_boot_ns() + (keeper->ahead_ms + WORTH_MS) * NS_PER_MS;
    uint64_t time_ns = 0;
    lock_guard(&keeper->lock);

    if (keeper->state == LEASE_KEEPER_FREE)
        return TRUE;
    if (keeper->state != LEASE_KEEPER_RUNS || keeper->pausing)
        return FALSE;
    keeper->in_moment = guard_deadline_begin_resume(keeper->deadline) &&
                        guard_deadline_get(keeper->deadline, &time_ns) == GUARD_DEADLINE_SET &&
                        time_ns > soon_ns;
    if (!keeper->in_moment)
        guard_deadline_end_resume(keeper->deadline);
    return keeper->in_moment;
}

void lease_keeper_end_moment(LeaseKeeper *keeper)
{
    lock_guard(&keeper->lock);

    if (keeper->in_moment)
        guard_deadline_end_resume(keeper->deadline);
    keeper->in_moment = FALSE;
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
    if (!ended && keeper->state == LEASE_KEEPER_RUNS && keeper->options.witness)
        ask_witness(keeper, keeper->options.lease_ms, LAST_ASK_MS);
    if (ended || keeper->state == LEASE_KEEPER_FREE)
        guard_free(keeper->guard);
    else
        guard_leave(keeper->guard);
    keeper_free(keeper);
}

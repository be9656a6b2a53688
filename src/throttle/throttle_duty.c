#include "throttle/throttle_duty.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"

#define SHORTEST_RUN_MS 1.0
/* What is made up for at most: more would be a long wait for the guest (or a
 * long free run) because this host was busy for a moment. */
#define MOST_OWED_MS 600.0
#define RESUME_ATTEMPTS 50
#define RESUME_PAUSE_NS 200000000ULL

struct DutyCycle {
    Vmm *vmm;
    Guard *guard;
    GuardAction resume_action; /* of the guard, while the guest may be paused */
    DutyJournal journal;
    gpointer user;        /* of journal */
    GThread *thread;      /* of the owner; NULL: none */
    DutyAccount account;  /* of the thread */
    gboolean user_paused; /* of the thread: seen so in the last turn */

    GMutex lock; /* guards all below */
    GCond wake;
    double run_share;
    gboolean end;             /* wanted */
    gboolean leave_paused;    /* wanted, with it */
    gboolean ended;           /* by itself or because it was wanted */
    uint64_t paused_since_ns; /* 0: runs */
    GError *problem;          /* why it ended by itself, or NULL */
};

/* ---- numbers ---- */

DutyPlan duty_plan(double run_share)
{
    double period = MAX(DUTY_PERIOD_MS, DUTY_LEAST_RUN_MS / run_share);

    period = MIN(period, DUTY_USUAL_STOP_MS / (1 - run_share));
    period = MAX(period, SHORTEST_RUN_MS / run_share);
    period = MIN(period, DUTY_LONGEST_STOP_MS / (1 - run_share));
    return (DutyPlan){period * run_share, period * (1 - run_share)};
}

double duty_account_get_run_ms(const DutyAccount *account, double run_share)
{
    double made_up = account->owed_ms * run_share / (1 - run_share);

    return CLAMP(duty_plan(run_share).run_ms - made_up, SHORTEST_RUN_MS, MOST_OWED_MS);
}

double duty_account_note_run(DutyAccount *account, double run_share, double ran_ms)
{
    account->owed_ms = MIN(account->owed_ms + ran_ms * (1 - run_share) / run_share, MOST_OWED_MS);
    return CLAMP(account->owed_ms, 0, DUTY_LONGEST_STOP_MS);
}

void duty_account_note_stop(DutyAccount *account, double stopped_ms)
{
    account->owed_ms = MAX(account->owed_ms - stopped_ms, -MOST_OWED_MS);
}

/* ---- in the thread ---- */

/* Sleeps; FALSE as soon as the end is wanted. */
static gboolean stay(DutyCycle *cycle, double ms)
{
    gint64 until = g_get_monotonic_time() + (gint64)(ms * 1000);
    lock_guard(&cycle->lock);

    while (!cycle->end)
        if (!g_cond_wait_until(&cycle->wake, &cycle->lock, until))
            break;
    return !cycle->end;
}

static double get_run_share(DutyCycle *cycle)
{
    lock_guard(&cycle->lock);

    return cycle->run_share;
}

static void note_paused(DutyCycle *cycle, uint64_t since_ns)
{
    lock_guard(&cycle->lock);

    cycle->paused_since_ns = since_ns;
}

static gboolean write_down(DutyCycle *cycle, gboolean pausing, GError **error)
{
    return !cycle->journal || cycle->journal(pausing, cycle->user, error);
}

/* Before a pause: at no instant is the guest paused with nobody to resume it. */
static gboolean arm(DutyCycle *cycle, GError **error)
{
    return write_down(cycle, TRUE, error) &&
           guard_arm(cycle->guard, GUARD_SLOT_GUEST, &cycle->resume_action, error);
}

static gboolean disarm(DutyCycle *cycle, GError **error)
{
    return guard_disarm(cycle->guard, GUARD_SLOT_GUEST, error) && write_down(cycle, FALSE, error);
}

/* The guest must run again, whatever it takes. */
static gboolean resume(DutyCycle *cycle, GError **error)
{
    g_autoptr(GError) problem = NULL;

    for (int i = 0; i < RESUME_ATTEMPTS; i++) {
        VmmRunState state;

        g_clear_error(&problem);
        if (vmm_get_run_state(cycle->vmm, &state, &problem) && state != VMM_RUN_STATE_PAUSED)
            return TRUE; /* it runs, or has come to an end of its own */
        if (!problem && vmm_resume(cycle->vmm, &problem))
            return TRUE;
        clock_sleep_ns(RESUME_PAUSE_NS);
    }
    g_propagate_prefixed_error(error, g_steal_pointer(&problem),
                               "the guest was paused to slow it and cannot be resumed: ");
    return FALSE;
}

static gboolean wants_paused(DutyCycle *cycle)
{
    lock_guard(&cycle->lock);

    return cycle->end && cycle->leave_paused;
}

/* Paused by its user: not ours to resume, nor the guard's or a restarted
 * agent's if we die now. */
static gboolean yield_to_user(DutyCycle *cycle, GError **error)
{
    if (cycle->user_paused)
        return TRUE;
    cycle->user_paused = TRUE;
    return disarm(cycle, error);
}

/* Stops, waits, resumes.  FALSE with *error*: no further turn. */
static gboolean take_pause(DutyCycle *cycle, double run_share, uint64_t ran_since_ns,
                           GError **error)
{
    gboolean was_running;
    uint64_t now;
    double stop_ms;

    if (cycle->user_paused && !arm(cycle, error))
        return FALSE;
    cycle->user_paused = FALSE;
    if (!vmm_pause(cycle->vmm, &was_running, error)) {
        if (!resume(cycle, NULL)) /* it may have been paused all the same */
            note_paused(cycle, clock_now_ns());
        return FALSE;
    }
    if (!was_running)
        return yield_to_user(cycle, error);
    now = clock_now_ns();
    note_paused(cycle, now);
    stop_ms = duty_account_note_run(&cycle->account, run_share, clock_ns_to_ms(now - ran_since_ns));
    stay(cycle, stop_ms);
    if (wants_paused(cycle))
        return TRUE;
    if (!resume(cycle, error))
        return FALSE;
    note_paused(cycle, 0);
    duty_account_note_stop(&cycle->account, clock_ns_to_ms(clock_now_ns() - now));
    return TRUE;
}

/* FALSE with *error*: no further turn. */
static gboolean check_state(DutyCycle *cycle, VmmRunState *ret, GError **error)
{
    if (!vmm_get_run_state(cycle->vmm, ret, error))
        return FALSE;
    if (*ret == VMM_RUN_STATE_RUNNING || *ret == VMM_RUN_STATE_PAUSED)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "the guest does not run any more (it is %s)",
              vmm_run_state_name(*ret));
    return FALSE;
}

static void take_turns(DutyCycle *cycle, GError **error)
{
    for (;;) {
        double run_share = get_run_share(cycle);
        uint64_t runs_since_ns = clock_now_ns();
        VmmRunState state;

        if (!stay(cycle, duty_account_get_run_ms(&cycle->account, run_share)) ||
            !check_state(cycle, &state, error))
            return;
        if (state == VMM_RUN_STATE_RUNNING ? !take_pause(cycle, run_share, runs_since_ns, error)
                                           : !yield_to_user(cycle, error))
            return;
    }
}

static gpointer cycle_main(gpointer data)
{
    DutyCycle *cycle = data;
    GError *problem = NULL;

    take_turns(cycle, &problem);
    g_mutex_lock(&cycle->lock);
    cycle->problem = problem;
    cycle->ended = TRUE;
    g_mutex_unlock(&cycle->lock);
    return NULL;
}

/* ---- its owner ---- */

DutyCycle *duty_cycle_new(Vmm *vmm, Guard *guard, DutyJournal journal, gpointer user)
{
    DutyCycle *cycle = g_new0(DutyCycle, 1);

    cycle->journal = journal;
    cycle->user = user;
    cycle->vmm = vmm;
    cycle->guard = guard;
    g_mutex_init(&cycle->lock);
    g_cond_init(&cycle->wake);
    return cycle;
}

static gboolean begin(DutyCycle *cycle, double run_share, GError **error)
{
    if (!vmm_get_resume_action(cycle->vmm, &cycle->resume_action, error) || !arm(cycle, error))
        return FALSE;
    cycle->account = (DutyAccount){0};
    cycle->user_paused = FALSE;
    cycle->run_share = run_share;
    cycle->end = cycle->leave_paused = cycle->ended = FALSE;
    cycle->paused_since_ns = 0;
    cycle->thread = g_thread_try_new("duty", cycle_main, cycle, error);
    return cycle->thread != NULL;
}

gboolean duty_cycle_is_running(DutyCycle *cycle)
{
    lock_guard(&cycle->lock);

    return cycle->thread && !cycle->ended;
}

gboolean duty_cycle_set(DutyCycle *cycle, double run_share, GError **error)
{
    if (!cycle->thread)
        return begin(cycle, run_share, error);
    if (!duty_cycle_is_running(cycle))
        return duty_cycle_end(cycle, error) && begin(cycle, run_share, error);
    g_mutex_lock(&cycle->lock);
    cycle->run_share = run_share;
    g_mutex_unlock(&cycle->lock);
    return TRUE;
}

static void join(DutyCycle *cycle, gboolean leave_paused)
{
    g_mutex_lock(&cycle->lock);
    cycle->end = TRUE;
    cycle->leave_paused = leave_paused;
    g_cond_signal(&cycle->wake);
    g_mutex_unlock(&cycle->lock);
    g_thread_join(g_steal_pointer(&cycle->thread));
}

gboolean duty_cycle_end(DutyCycle *cycle, GError **error)
{
    g_autoptr(GError) problem = NULL;

    if (!cycle->thread)
        return TRUE;
    join(cycle, FALSE);
    problem = g_steal_pointer(&cycle->problem);
    /* A guest that is still paused is to be resumed if we die. */
    if (cycle->paused_since_ns == 0 && !disarm(cycle, error))
        return FALSE;
    if (!problem)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

void duty_cycle_end_for_pause(DutyCycle *cycle, uint64_t *ret_since_ns)
{
    *ret_since_ns = 0;
    if (!cycle->thread)
        return;
    join(cycle, TRUE);
    /* Whatever went wrong, the pause itself will fail by it. */
    g_clear_error(&cycle->problem);
    *ret_since_ns = cycle->paused_since_ns;
}

void duty_cycle_free(DutyCycle *cycle)
{
    if (!cycle)
        return;
    duty_cycle_end(cycle, NULL);
    g_cond_clear(&cycle->wake);
    g_mutex_clear(&cycle->lock);
    g_free(cycle);
}

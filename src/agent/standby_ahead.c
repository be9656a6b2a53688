#include "agent/standby_ahead.h"

#include <signal.h>

#include "agent/incoming_private.h"
#include "agent/launch.h"
#include "agent/recovery_private.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/process.h"
#include "base/thread.h"

#define LOOK_MS 1000
#define LONGEST_PAUSE_MS 300000
/* One that has waited that long has not failed because of what it is. */
#define GOOD_US (60 * G_TIME_SPAN_SECOND)
/* A busy host is no reason to end one that nobody waits for; a takeover does wait. */
#define LOOK_ANSWER_MS 5000
#define TAKE_ANSWER_MS 500
#define TAKE_PATIENCE_MS 1000

struct StandbyAhead {
    AgentContext *context;
    Guest *guest;
    char *directory; /* of the takeover's own files */
    GuestMessage *machine;
    GPtrArray *rules; /* of VmmMapRule */
    GThread *thread;  /* NULL once it has ended */

    /* The thread's, then of who has ended it. */
    Vmm *fresh;
    Takeover *takeover;
    gint64 since_us;
    guint failures; /* in a row */
    gboolean told;  /* that none waits */

    GMutex lock; /* protects all below */
    GCond changed;
    gboolean wanted;
    gboolean ending;
    gboolean busy; /* the thread waits for a process, which may not answer … */
    pid_t pid;     /* … this one; 0: there is none */
    uint64_t start_time;
};

/* ---- the process ---- */

static void on_begun(pid_t pid, uint64_t start_time, gpointer user)
{
    StandbyAhead *ahead = user;
    lock_guard(&ahead->lock);

    ahead->pid = pid;
    ahead->start_time = start_time;
}

/* With the lock held. */
static void kill_process(StandbyAhead *ahead)
{
    if (ahead->pid > 0)
        process_kill(ahead->pid, ahead->start_time, SIGKILL, NULL);
}

static void end_process(StandbyAhead *ahead)
{
    g_autoptr(GError) problem = NULL;

    g_clear_pointer(&ahead->takeover, takeover_free);
    launch_undo(g_steal_pointer(&ahead->fresh));
    on_begun(0, 0, ahead);
    if (!recovery_end_fresh(ahead->guest, &problem))
        log_warning("guest %s: %s", ahead->guest->name, problem->message);
}

/* Without asking it, which it would not answer. */
static void end_at_once(StandbyAhead *ahead)
{
    g_mutex_lock(&ahead->lock);
    kill_process(ahead);
    g_mutex_unlock(&ahead->lock);
    end_process(ahead);
}

static gboolean launch(StandbyAhead *ahead, GError **error)
{
    FreshLaunch launch = {
        .context = ahead->context,
        .guest = ahead->guest,
        .machine = ahead->machine,
        .rules = ahead->rules,
        .begun = on_begun,
        .user = ahead,
    };

    /* What is on record of an earlier one. */
    if (!recovery_end_fresh(ahead->guest, error))
        return FALSE;
    ahead->fresh = recovery_launch_fresh(&launch, error);
    if (ahead->fresh)
        ahead->takeover = takeover_prepare(ahead->fresh, ahead->directory, error);
    return ahead->takeover != NULL;
}

static gboolean is_waiting(StandbyAhead *ahead, guint timeout_ms, GError **error)
{
    VmmRunState state;

    if (!vmm_ask_run_state(ahead->fresh, timeout_ms, &state, error))
        return FALSE;
    if (state != VMM_RUN_STATE_INCOMING)
        error_set(error, VMFERRY_ERROR_FAILED, "it is %s, and does not wait any more",
                  vmm_run_state_name(state));
    return state == VMM_RUN_STATE_INCOMING;
}

/* ---- the thread ---- */

static void note_launched(StandbyAhead *ahead)
{
    int pid = (int)vmm_get_pid(ahead->fresh);

    ahead->since_us = g_get_monotonic_time();
    ahead->told = FALSE;
    event_log_add(ahead->context->events, ahead->guest->name, "launched-ahead",
                  json_pack("{s:i}", "pid", pid),
                  "process %d waits here, should it have to be taken over", pid);
}

static void try_to_launch(StandbyAhead *ahead)
{
    g_autoptr(GError) problem = NULL;

    if (launch(ahead, &problem)) {
        note_launched(ahead);
        return;
    }
    end_process(ahead);
    ahead->failures++;
    if (!ahead->told)
        event_log_add(ahead->context->events, ahead->guest->name, "not-launched-ahead", NULL,
                      "no process waits here, so a takeover would take longer: %s",
                      problem->message);
    ahead->told = TRUE;
}

static void look(StandbyAhead *ahead)
{
    g_autoptr(GError) problem = NULL;

    if (is_waiting(ahead, LOOK_ANSWER_MS, &problem))
        return;
    log_warning("guest %s: the process that waited here: %s", ahead->guest->name, problem->message);
    if (g_get_monotonic_time() - ahead->since_us > GOOD_US)
        ahead->failures = 0;
    ahead->failures++;
    end_at_once(ahead);
}

static gint64 get_pause_us(const StandbyAhead *ahead)
{
    guint ms = ahead->takeover ? LOOK_MS : LOOK_MS << MIN(ahead->failures, 10);

    return MIN(ms, LONGEST_PAUSE_MS) * G_TIME_SPAN_MILLISECOND;
}

/* FALSE: the end. */
static gboolean await_turn(StandbyAhead *ahead, gint64 until)
{
    lock_guard(&ahead->lock);

    ahead->busy = FALSE;
    g_cond_broadcast(&ahead->changed);
    while (!ahead->ending && !ahead->wanted)
        g_cond_wait(&ahead->changed, &ahead->lock);
    while (!ahead->ending && g_cond_wait_until(&ahead->changed, &ahead->lock, until))
        ;
    ahead->busy = !ahead->ending;
    return ahead->busy;
}

static gpointer ahead_main(gpointer data)
{
    StandbyAhead *ahead = data;
    gint64 until = 0;

    while (await_turn(ahead, until)) {
        if (ahead->takeover)
            look(ahead);
        else
            try_to_launch(ahead);
        until = g_get_monotonic_time() + get_pause_us(ahead);
    }
    return NULL;
}

/* Whatever the thread waits for then ends. */
static void end_thread(StandbyAhead *ahead, guint patience_ms)
{
    gint64 until = g_get_monotonic_time() + patience_ms * G_TIME_SPAN_MILLISECOND;

    if (!ahead->thread)
        return;
    g_mutex_lock(&ahead->lock);
    ahead->ending = TRUE;
    g_cond_broadcast(&ahead->changed);
    while (ahead->busy && g_cond_wait_until(&ahead->changed, &ahead->lock, until))
        ;
    if (ahead->busy)
        kill_process(ahead);
    g_mutex_unlock(&ahead->lock);
    g_thread_join(g_steal_pointer(&ahead->thread));
}

/* ---- a part of epochs ---- */

static gboolean takes(FrameType type)
{
    return FALSE;
}

static gboolean take(const Frame *frame, uint64_t epoch, gpointer user, GError **error)
{
    return TRUE;
}

static gboolean seal(uint64_t epoch, gpointer user, GError **error)
{
    return TRUE;
}

static void committed(uint64_t epoch, gpointer user)
{
    standby_ahead_want(user);
}

static void forget(gpointer user)
{
}

CheckpointPart standby_ahead_get(StandbyAhead *ahead)
{
    return (CheckpointPart){takes, take, seal, committed, forget, ahead};
}

/* ---- begin and end ---- */

void standby_ahead_want(StandbyAhead *ahead)
{
    lock_guard(&ahead->lock);

    if (ahead->wanted)
        return;
    ahead->wanted = TRUE;
    g_cond_broadcast(&ahead->changed);
}

StandbyAhead *standby_ahead_start(AgentContext *context, Guest *guest, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autoptr(StandbyAhead) ahead = g_new0(StandbyAhead, 1);

    g_mutex_init(&ahead->lock);
    g_cond_init(&ahead->changed);
    ahead->context = context;
    ahead->guest = guest_ref(guest);
    ahead->directory = g_strdup(record->deltas);
    ahead->rules = incoming_make_rules(context->settings);
    ahead->machine = recovery_read_machine(record->deltas, error);
    if (ahead->machine)
        ahead->thread = thread_start("ahead", ahead_main, ahead, error);
    return ahead->thread ? g_steal_pointer(&ahead) : NULL;
}

Takeover *standby_ahead_take(StandbyAhead *ahead, Vmm **ret_fresh)
{
    g_autoptr(StandbyAhead) held = ahead;
    g_autoptr(GError) problem = NULL;

    if (!ahead)
        return NULL;
    end_thread(ahead, TAKE_PATIENCE_MS);
    if (!ahead->takeover)
        return NULL;
    if (is_waiting(ahead, TAKE_ANSWER_MS, &problem)) {
        *ret_fresh = g_steal_pointer(&ahead->fresh);
        return g_steal_pointer(&ahead->takeover);
    }
    log_warning("guest %s: the process that waited here is not taken: %s", ahead->guest->name,
                problem->message);
    end_at_once(ahead);
    return NULL;
}

static void free_rest(StandbyAhead *ahead)
{
    g_mutex_clear(&ahead->lock);
    g_cond_clear(&ahead->changed);
    guest_message_free(ahead->machine);
    g_ptr_array_unref(ahead->rules);
    guest_unref(ahead->guest);
    g_free(ahead->directory);
    g_free(ahead);
}

void standby_ahead_free(StandbyAhead *ahead)
{
    if (!ahead)
        return;
    end_thread(ahead, 0);
    if (ahead->fresh)
        end_process(ahead);
    free_rest(ahead);
}

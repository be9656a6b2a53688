#include "engine/executor.h"

#include <string.h>

#include "base/error.h"
#include "base/fault.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/thread.h"
#include "engine/agent_link.h"
#include "engine/model.h"

#define FOLLOW_MS 500
#define SETTLE_STEP_MS 1000
#define WRITE_AGAIN_MS 1000
/* How long the agents' word is waited for, once a move is not under way any more. */
#define OUTCOME_MS 30000
#define GUESTS_LIMIT 4096u
/* A change below that is not worth a request. */
#define RATE_STEP 0.05
#define NOT_ORDERED "it was not ordered before the engine ended"

struct Executor {
    EngineStore *store;
    char *pki_dir;
    GCancellable *stop;
    ExecutorHooks hooks;
    GMutex entering; /* held while one is entered: a guest has one open move */
    GMutex lock;     /* of what follows, and of each Run's record and progress */
    GCond wake;
    GPtrArray *runs; /* of Run */
    gboolean stopping;
    gint64 lead_term; /* in which moves are begun; 0: none */
};

/* One move and its thread. */
typedef struct {
    Executor *owner;
    MoveRecord *record;
    json_t *progress; /* the newest, or NULL */
    double bandwidth, rate;
    gboolean settles; /* it is not known whether it was ordered */
    gboolean foreign; /* somebody else's: nothing is said to it */
    gboolean ended;   /* the thread ends, and can be joined */
    gboolean cannot_govern;
    gboolean cancels; /* a user wants it to end */
    gboolean dropped; /* another engine leads: the thread ends, and says and writes nothing more */
    const char *called_off; /* why its agent was asked to end it, or NULL; static */
    gint64 since;           /* monotonic us, of what is waited for */
    GThread *thread;
    /* The thread's own: */
    Client *source, *destination;
    char *moves_to;
    json_t *expires; /* of the order, as its agent wants it; NULL: it has not told its clock */
} Run;

static void run_free(gpointer data)
{
    Run *run = data;

    if (run->thread)
        g_thread_join(run->thread);
    client_free(run->source);
    client_free(run->destination);
    json_decref(run->progress);
    json_decref(run->expires);
    move_record_free(run->record);
    g_free(run->moves_to);
    g_free(run);
}

/* ---- what changes the record ---- */

/* FALSE once its thread is to end. */
static gboolean wait_ms(Run *run, guint ms)
{
    Executor *executor = run->owner;
    gint64 until = g_get_monotonic_time() + ms * (gint64)G_TIME_SPAN_MILLISECOND;

    lock_guard(&executor->lock);
    while (!executor->stopping && !run->dropped)
        if (!g_cond_wait_until(&executor->wake, &executor->lock, until))
            break;
    return !executor->stopping && !run->dropped;
}

static gboolean is_dropped(Run *run)
{
    lock_guard(&run->owner->lock);

    return run->dropped;
}

static MoveRecord *copy_record(Run *run)
{
    lock_guard(&run->owner->lock);

    return move_record_copy(run->record);
}

static void tell(Run *run)
{
    const ExecutorHooks *hooks = &run->owner->hooks;
    g_autoptr(MoveRecord) copy = copy_record(run);

    if (!is_dropped(run))
        hooks->on_change(copy, hooks->user);
}

/* Waits until the journal has it, or it is to end; then it is open there, and settled again by whoever takes it up. */
static void write_record(Run *run)
{
    g_autoptr(MoveRecord) copy = copy_record(run);
    g_autoptr(GError) error = NULL;

    while (!is_dropped(run) && !engine_store_write_move(run->owner->store, copy, &error)) {
        log_warning("move %lld: %s", (long long)copy->id, error->message);
        g_clear_error(&error);
        if (!wait_ms(run, WRITE_AGAIN_MS))
            return;
    }
}

static void set_state(Run *run, MoveState state, const char *problem)
{
    g_mutex_lock(&run->owner->lock);
    run->record->state = state;
    if (state == MOVE_ORDERED)
        run->record->ordered_ms = g_get_real_time() / 1000;
    if (!move_state_is_open(state))
        run->record->ended_ms = g_get_real_time() / 1000;
    if (problem) {
        g_free(run->record->problem);
        run->record->problem = g_utf8_make_valid(problem, -1);
    }
    g_mutex_unlock(&run->owner->lock);
    write_record(run);
    tell(run);
}

static void set_activity(Run *run, const char *activity)
{
    g_mutex_lock(&run->owner->lock);
    g_free(run->record->activity);
    run->record->activity = g_strdup(activity);
    g_mutex_unlock(&run->owner->lock);
}

static void set_outcome(Run *run, json_t *outcome)
{
    g_mutex_lock(&run->owner->lock);
    json_decref(run->record->outcome);
    run->record->outcome = json_incref(outcome);
    g_mutex_unlock(&run->owner->lock);
}

static void set_progress(Run *run, json_t *progress)
{
    g_mutex_lock(&run->owner->lock);
    json_decref(run->progress);
    run->progress = json_is_object(progress) ? json_incref(progress) : NULL;
    g_mutex_unlock(&run->owner->lock);
}

/* ---- asking agents ---- */

static Client *reach(Run *run, Client **client, const char *host, gboolean is_destination,
                     GError **error)
{
    const ExecutorHooks *hooks = &run->owner->hooks;
    g_autofree char *address = NULL;
    g_autofree char *moves_to = NULL;
    Client *known = *client;

    if (known)
        return known;
    if (!hooks->find_host(host, &address, &moves_to, hooks->user, error))
        return NULL;
    if (is_destination) {
        g_free(run->moves_to);
        run->moves_to = g_steal_pointer(&moves_to);
    }
    *client = agent_link_open(address, run->owner->pki_dir, run->owner->stop, error);
    return *client;
}

/* After a failure that the connection may be to blame for. */
static json_t *ask(Run *run, gboolean destination, const char *method, const char *path,
                   json_t *body, GError **error)
{
    Client **client = destination ? &run->destination : &run->source;
    const char *host = destination ? run->record->to : run->record->from;
    g_autoptr(json_t) owned = body;
    g_autoptr(GError) failure = NULL;
    json_t *answer;

    if (!reach(run, client, host, destination, error))
        return NULL;
    answer = client_call(*client, method, path, g_steal_pointer(&owned), &failure);
    if (answer)
        return answer;
    if (error_is(failure, VMFERRY_ERROR_DISCONNECTED) || error_is(failure, VMFERRY_ERROR_TIMEOUT))
        g_clear_pointer(client, client_free);
    g_propagate_error(error, g_steal_pointer(&failure));
    return NULL;
}

/* The guest's entry at a host, a new reference; NULL without *error*: it is not there. */
static json_t *find_entry(Run *run, gboolean destination, GError **error)
{
    g_autoptr(json_t) answer = ask(run, destination, "GET", "/v1/guests", NULL, error);
    json_t *list, *entry;
    size_t i;

    if (!answer || !json_get_array(answer, "guests", GUESTS_LIMIT, &list, error))
        return NULL;
    json_array_foreach(list, i, entry)
    {
        if (g_strcmp0(json_text_or(entry, "id", NULL), run->record->guest_id) == 0)
            return json_incref(entry);
    }
    return NULL;
}

static gboolean is_term(json_t *entry, gint64 term)
{
    return json_count_or(entry, "term", 0) == (uint64_t)term;
}

/* The activity by which it moves from here, or NULL. */
static json_t *move_of(json_t *entry)
{
    json_t *activity = json_object_get(entry, "activity");

    return g_strcmp0(json_text_or(activity, "kind", NULL), "migrate") == 0 ? activity : NULL;
}

/* "here": its owner is this host, for good. */
static gboolean is_owned(json_t *entry)
{
    const char *role = json_text_or(entry, "role", "");

    return strcmp(role, "ours") == 0 || strcmp(role, "postcopy") == 0;
}

/* ---- what the source has said since the order ---- */

typedef struct {
    const MoveRecord *record;
    const char *moves_to;
    json_t *found; /* the report's event */
} EventSearch;

static gboolean is_report(json_t *event, const EventSearch *search)
{
    static const char *const types[] = {"moved", "move-failed", "cancelled",
                                        "split", "ended",       NULL};
    json_t *data = json_object_get(event, "data");
    const char *activity = json_text_or(data, "activity", NULL);

    if (g_strcmp0(json_text_or(event, "guest", NULL), search->record->guest) != 0 ||
        !g_strv_contains(types, json_text_or(event, "type", "")))
        return FALSE;
    if (search->record->activity && activity)
        return strcmp(activity, search->record->activity) == 0;
    return !search->moves_to || !json_text_or(data, "destination", NULL) ||
           model_is_destination(search->moves_to, json_text_or(data, "destination", NULL));
}

static gboolean on_event(json_t *event, gpointer user)
{
    EventSearch *search = user;

    if (!is_report(event, search))
        return TRUE;
    json_decref(search->found);
    search->found = json_incref(event);
    return TRUE;
}

/* A new reference; NULL: nothing was said (or it could not be asked). */
static json_t *find_report(Run *run)
{
    EventSearch search = {.record = run->record, .moves_to = run->moves_to};
    g_autofree char *path =
        g_strdup_printf("/v1/events?since=%lld", (long long)run->record->last_event);

    if (!reach(run, &run->source, run->record->from, FALSE, NULL))
        return NULL;
    if (!client_stream(run->source, "GET", path, NULL, on_event, &search, NULL))
        g_clear_pointer(&run->source, client_free);
    return search.found;
}

static MoveState state_from_event(json_t *event)
{
    static const struct {
        const char *type;
        MoveState state;
    } states[] = {
        {"moved", MOVE_COMPLETED},
        {"cancelled", MOVE_CANCELLED},
        {"split", MOVE_SPLIT},
    };

    for (guint i = 0; i < G_N_ELEMENTS(states); i++)
        if (strcmp(json_text_or(event, "type", ""), states[i].type) == 0)
            return states[i].state;
    return MOVE_FAILED;
}

static gboolean end_by_report(Run *run)
{
    g_autoptr(json_t) event = find_report(run);
    json_t *report = json_object_get(event, "data");
    const char *problem = NULL;
    MoveState state;

    if (!event)
        return FALSE;
    state = state_from_event(event);
    if (json_is_object(report))
        set_outcome(run, report);
    if (state == MOVE_FAILED)
        problem =
            json_text_or(report, "error", json_text_or(event, "text", "the agent says no more"));
    else if (state == MOVE_CANCELLED)
        problem = run->called_off;
    set_state(run, state, problem);
    return TRUE;
}

/* ---- waiting ---- */

static gboolean has_waited(const Run *run, guint ms)
{
    return g_get_monotonic_time() - run->since > ms * (gint64)G_TIME_SPAN_MILLISECOND;
}

/* ---- following ---- */

static void say_rate(Run *run, double rate)
{
    g_autofree char *path = g_strdup_printf("/v1/guests/%s/migrate", run->record->guest);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = NULL;
    double change = run->rate > 0 ? rate / run->rate - 1 : 1;

    if (run->cannot_govern || rate <= 0 || (change < RATE_STEP && change > -RATE_STEP))
        return;
    answer = ask(run, FALSE, "PATCH", path,
                 json_pack("{s:I}", "bandwidth", (json_int_t)MAX(rate, 1)), &error);
    if (answer)
        run->rate = rate;
    else if (error_is(error, VMFERRY_ERROR_UNSUPPORTED))
        run->cannot_govern = TRUE;
    else
        log_debug("move %lld: %s", (long long)run->record->id, error->message);
}

static gboolean call_off(Run *run, GError **error)
{
    g_autofree char *path = g_strdup_printf("/v1/guests/%s/cancel", run->record->guest);
    g_autoptr(json_t) answer = ask(run, FALSE, "POST", path, NULL, error);

    return answer != NULL;
}

/* TRUE once for each time that a user has asked for it. */
static gboolean takes_cancel(Run *run)
{
    lock_guard(&run->owner->lock);
    gboolean cancels = run->cancels;

    run->cancels = FALSE;
    return cancels;
}

static void ask_again(Run *run)
{
    lock_guard(&run->owner->lock);
    run->cancels = TRUE;
}

/* Once the agent has taken it, the outcome is waited for; it may have come too late. */
static void try_call_off(Run *run, const char *why, gboolean by_user)
{
    g_autoptr(GError) error = NULL;

    if (call_off(run, &error)) {
        log_info("move %lld of %s is called off: %s", (long long)run->record->id,
                 run->record->guest, why);
        run->called_off = why;
        return;
    }
    log_debug("move %lld: %s", (long long)run->record->id, error->message);
    if (by_user &&
        (error_is(error, VMFERRY_ERROR_DISCONNECTED) || error_is(error, VMFERRY_ERROR_TIMEOUT)))
        ask_again(run);
}

static void govern(Run *run)
{
    const ExecutorHooks *hooks = &run->owner->hooks;
    gboolean by_user = takes_cancel(run);
    ExecutorWord word = {.cancel = by_user, .why = "a user has asked for that"};

    if ((run->foreign && !word.cancel) || run->called_off)
        return;
    if (!word.cancel)
        hooks->govern(run->record, run->progress, &word, hooks->user);
    if (word.cancel)
        try_call_off(run, word.why, by_user);
    else
        say_rate(run, word.rate);
}

/* The move is not under way any more, and its source has no report of it. */
static gboolean end_by_place(Run *run)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) there = find_entry(run, TRUE, &error);
    g_autoptr(json_t) here = error ? NULL : find_entry(run, FALSE, &error);

    if (there && is_owned(there) && json_count_or(there, "term", 0) > (uint64_t)run->record->term) {
        set_state(run, MOVE_COMPLETED, NULL);
        return TRUE;
    }
    if (error)
        return FALSE;
    if (here && is_owned(here) && !move_of(here) && is_term(here, run->record->term)) {
        set_state(run, MOVE_FAILED, "it is where it was, and its agent does not say why");
        return TRUE;
    }
    if (here || there)
        return FALSE; /* in doubt, being recovered, … */
    set_state(run, MOVE_LOST, "neither host has the guest, and its source says nothing of it");
    return TRUE;
}

/* One look at a move that was ordered; TRUE once it has ended. */
static gboolean follow_step(Run *run)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) entry = find_entry(run, FALSE, &error);
    json_t *activity = entry ? move_of(entry) : NULL;

    if (activity && g_strcmp0(json_text_or(activity, "id", NULL), run->record->activity) == 0) {
        set_progress(run, json_object_get(activity, "progress"));
        run->since = g_get_monotonic_time();
        govern(run);
        return FALSE;
    }
    /* An agent that cannot be reached may have ended in the middle: the other host tells, then. */
    if (!error && end_by_report(run))
        return TRUE;
    return has_waited(run, OUTCOME_MS) && end_by_place(run);
}

static void follow(Run *run)
{
    run->since = g_get_monotonic_time();
    do {
        if (follow_step(run))
            return;
    } while (wait_ms(run, FOLLOW_MS));
}

/* ---- was it ordered? ---- */

static gboolean is_ours(const Run *run, json_t *activity)
{
    const char *destination = json_text_or(activity, "destination", NULL);

    return !run->moves_to || !destination || model_is_destination(run->moves_to, destination);
}

typedef enum { SETTLE_UNKNOWN, SETTLE_ORDERED, SETTLE_ENDED, SETTLE_NOT_YET } Settled;

static Settled settle_step(Run *run)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) here = NULL;
    g_autoptr(json_t) there = NULL;

    /* Where other agents reach the destination is told by its own. */
    reach(run, &run->destination, run->record->to, TRUE, NULL);
    here = find_entry(run, FALSE, &error);
    if (here && is_term(here, run->record->term) && move_of(here) && is_ours(run, move_of(here))) {
        set_activity(run, json_text_or(move_of(here), "id", NULL));
        return SETTLE_ORDERED;
    }
    if (!error && end_by_report(run))
        return SETTLE_ENDED;
    there = find_entry(run, TRUE, NULL);
    if (there && is_owned(there) && json_count_or(there, "term", 0) > (uint64_t)run->record->term) {
        set_state(run, MOVE_COMPLETED, NULL);
        return SETTLE_ENDED;
    }
    if (error)
        return SETTLE_UNKNOWN;
    return here && is_owned(here) && !move_of(here) ? SETTLE_NOT_YET : SETTLE_UNKNOWN;
}

/* FALSE: it has come to nothing (or we end). */
static gboolean settle(Run *run)
{
    run->since = g_get_monotonic_time();
    do {
        switch (settle_step(run)) {
        case SETTLE_ORDERED:
            set_state(run, MOVE_ORDERED, NULL);
            return TRUE;
        case SETTLE_ENDED:
            return FALSE;
        case SETTLE_UNKNOWN: /* from now on the agent must be heard for that long */
            run->since = g_get_monotonic_time();
            break;
        case SETTLE_NOT_YET:
            if (!has_waited(run, EXECUTOR_SETTLE_MS))
                break;
            set_state(run, MOVE_ABANDONED, NOT_ORDERED);
            return FALSE;
        }
    } while (wait_ms(run, SETTLE_STEP_MS));
    return FALSE;
}

/* ---- ordering ---- */

static gboolean check_entry(const MoveRecord *record, json_t *entry, GError **error)
{
    const char *obstacle = json_text_or(entry, "not_movable", NULL);

    if (g_strcmp0(json_text_or(entry, "id", NULL), record->guest_id) != 0 ||
        !is_term(entry, record->term))
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "it is not the guest that was planned for any more");
    else if (json_is_object(json_object_get(entry, "activity")))
        error_set(error, VMFERRY_ERROR_BUSY, "something else goes on with it");
    else if (g_strcmp0(json_text_or(entry, "role", NULL), "ours") != 0)
        error_set(error, VMFERRY_ERROR_REFUSED, "it does not belong to %s any more", record->from);
    else if (obstacle)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s", obstacle);
    else
        return TRUE;
    return FALSE;
}

/* What both agents say, and then all that binds, by the figures of now. */
static gboolean check_again(Run *run, GError **error)
{
    const ExecutorHooks *hooks = &run->owner->hooks;
    g_autofree char *path = g_strdup_printf("/v1/guests/%s", run->record->guest);
    g_autoptr(json_t) entry = ask(run, FALSE, "GET", path, NULL, error);
    g_autoptr(json_t) status = NULL;

    if (!entry || !check_entry(run->record, entry, error))
        return FALSE;
    status = ask(run, TRUE, "GET", "/v1/status", NULL, error);
    if (!status)
        return FALSE;
    if (!run->moves_to) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "it is not known where other agents reach %s; set `moves` for it",
                  run->record->to);
        return FALSE;
    }
    return hooks->check(run->record, hooks->user, error);
}

/* Until when the order is to count, by its agent's clock. */
static json_t *make_expiry(json_t *status)
{
    const char *boot_id = json_text_or(status, "boot_id", NULL);
    uint64_t time_ms = json_count_or(status, "time_ms", 0);

    if (!boot_id || time_ms == 0 || time_ms > G_MAXINT64 - EXECUTOR_ORDER_MS)
        return NULL;
    return json_pack("{s:s, s:I}", "boot_id", boot_id, "time_ms",
                     (json_int_t)time_ms + EXECUTOR_ORDER_MS);
}

/* The source's newest event before the order: what comes after it may be of this move.  And its clock, of before the
 * record is written: whoever reads that record does so later. */
static gboolean note_before(Run *run, GError **error)
{
    g_autoptr(json_t) status = ask(run, FALSE, "GET", "/v1/status", NULL, error);

    if (!status)
        return FALSE;
    run->record->last_event = (gint64)json_count_or(status, "last_event", 0);
    run->expires = make_expiry(status);
    return TRUE;
}

static json_t *make_order(const Run *run)
{
    json_t *body = json_pack("{s:s, s:b}", "destination", run->moves_to, "detach", TRUE);

    if (run->bandwidth > 0)
        json_object_set_new(body, "bandwidth", json_integer((json_int_t)run->bandwidth));
    if (run->expires)
        json_object_set(body, "expires", run->expires);
    return body;
}

/* FALSE with *error*; *ret_open*: the agent may have taken it nevertheless. */
static gboolean order(Run *run, gboolean *ret_open, GError **error)
{
    g_autofree char *path = g_strdup_printf("/v1/guests/%s/migrate", run->record->guest);
    g_autoptr(GError) failure = NULL;
    g_autoptr(json_t) answer = ask(run, FALSE, "POST", path, make_order(run), &failure);

    if (answer && json_text_or(answer, "activity", NULL)) {
        set_activity(run, json_text_or(answer, "activity", NULL));
        run->rate = run->bandwidth;
        return TRUE;
    }
    *ret_open = !failure || error_is(failure, VMFERRY_ERROR_DISCONNECTED) ||
                error_is(failure, VMFERRY_ERROR_TIMEOUT) ||
                error_is(failure, VMFERRY_ERROR_CANCELLED);
    if (failure)
        g_propagate_error(error, g_steal_pointer(&failure));
    else
        error_set(error, VMFERRY_ERROR_INVALID, "the agent's answer names no activity");
    return FALSE;
}

/* FALSE: it has come to nothing. */
static gboolean start(Run *run)
{
    g_autoptr(GError) error = NULL;
    gboolean open = FALSE;

    if (!note_before(run, &error) || !check_again(run, &error)) {
        if (error_is(error, VMFERRY_ERROR_CANCELLED))
            set_state(run, MOVE_ABANDONED, NOT_ORDERED);
        else
            set_state(run, MOVE_REFUSED, error->message);
        return FALSE;
    }
    if (takes_cancel(run)) {
        set_state(run, MOVE_CANCELLED, NULL);
        return FALSE;
    }
    /* The last event is part of what is needed to settle it. */
    if (!engine_store_write_move(run->owner->store, run->record, &error)) {
        set_state(run, MOVE_REFUSED, error->message);
        return FALSE;
    }
    fault_point("engine.before-order", NULL);
    /* Whoever leads by now has the record.  That nothing is ordered twice does not depend on it; it spares a surprise. */
    if (!engine_store_check_term(run->owner->store, run->record->lead_term, &error)) {
        set_state(run, MOVE_REFUSED, error->message);
        return FALSE;
    }
    if (order(run, &open, &error)) {
        fault_point("engine.ordered", NULL);
        set_state(run, MOVE_ORDERED, NULL);
        return TRUE;
    }
    if (open)
        return settle(run);
    set_state(run, MOVE_REFUSED, error->message);
    return FALSE;
}

static gpointer work(gpointer user)
{
    Run *run = user;
    gboolean ordered =
        run->record->state == MOVE_ORDERED || (run->settles ? settle(run) : start(run));

    if (ordered)
        follow(run);
    g_mutex_lock(&run->owner->lock);
    run->ended = TRUE;
    g_mutex_unlock(&run->owner->lock);
    return NULL;
}

/* ---- all of them ---- */

Executor *executor_new(EngineStore *store, const char *pki_dir, GCancellable *stop,
                       const ExecutorHooks *hooks)
{
    Executor *executor = g_new0(Executor, 1);

    executor->store = store;
    executor->pki_dir = g_strdup(pki_dir);
    executor->stop = g_object_ref(stop);
    executor->hooks = *hooks;
    g_mutex_init(&executor->entering);
    g_mutex_init(&executor->lock);
    g_cond_init(&executor->wake);
    executor->runs = g_ptr_array_new_with_free_func(run_free);
    return executor;
}

/* Their threads may ask for the list meanwhile, by a hook: what they find is whole. */
static void join_all(Executor *executor)
{
    GPtrArray *runs;

    g_mutex_lock(&executor->lock);
    executor->stopping = TRUE;
    g_cond_broadcast(&executor->wake);
    runs = executor->runs;
    executor->runs = g_ptr_array_new_with_free_func(run_free);
    g_mutex_unlock(&executor->lock);
    g_ptr_array_unref(runs);
}

void executor_free(Executor *executor)
{
    if (!executor)
        return;
    join_all(executor);
    g_ptr_array_unref(executor->runs);
    g_mutex_clear(&executor->entering);
    g_mutex_clear(&executor->lock);
    g_cond_clear(&executor->wake);
    g_object_unref(executor->stop);
    g_free(executor->pki_dir);
    g_free(executor);
}

/* Those whose threads have ended go; not with the lock held, since they are joined. */
static void reap(Executor *executor)
{
    g_autoptr(GPtrArray) ended = g_ptr_array_new_with_free_func(run_free);

    g_mutex_lock(&executor->lock);
    for (guint i = executor->runs->len; i-- > 0;)
        if (((Run *)executor->runs->pdata[i])->ended)
            g_ptr_array_add(ended, g_ptr_array_steal_index_fast(executor->runs, i));
    g_mutex_unlock(&executor->lock);
}

/* With the lock held. */
static Run *find_run(Executor *executor, const char *guest_id)
{
    for (guint i = 0; i < executor->runs->len; i++) {
        Run *run = executor->runs->pdata[i];

        if (!run->ended && !run->dropped && g_strcmp0(run->record->guest_id, guest_id) == 0)
            return run;
    }
    return NULL;
}

/* Takes *run*. */
static gboolean launch(Run *run, GError **error)
{
    Executor *executor = run->owner;

    g_mutex_lock(&executor->lock);
    g_ptr_array_add(executor->runs, run);
    run->thread = thread_start("move", work, run, error);
    if (!run->thread) {
        run->ended = TRUE;
        g_mutex_unlock(&executor->lock);
        return FALSE;
    }
    g_mutex_unlock(&executor->lock);
    return TRUE;
}

static Run *run_new(Executor *executor, MoveRecord *record)
{
    Run *run = g_new0(Run, 1);

    run->owner = executor;
    run->record = record;
    run->foreign = record->by == MOVE_BY_OTHER;
    return run;
}

static gboolean is_followed(Executor *executor, gint64 id)
{
    lock_guard(&executor->lock);

    for (guint i = 0; i < executor->runs->len; i++) {
        const Run *run = executor->runs->pdata[i];

        /* One that has just ended may still be open in an older reading of the journal. */
        if (!run->dropped && run->record->id == id)
            return TRUE;
    }
    return FALSE;
}

/* Takes *record*. */
static gboolean take_up(Executor *executor, MoveRecord *record, GError **error)
{
    Run *run = run_new(executor, record);

    record->lead_term = executor->lead_term;
    run->settles = record->state == MOVE_INTENDED;
    return launch(run, error);
}

gboolean executor_lead(Executor *executor, gint64 term, GError **error)
{
    lock_guard(&executor->entering);
    g_autoptr(GPtrArray) open = engine_store_list_moves(executor->store, TRUE, G_MAXINT32, error);

    executor->lead_term = term;
    while (open && open->len > 0) {
        MoveRecord *record = g_ptr_array_steal_index(open, open->len - 1);

        if (is_followed(executor, record->id))
            move_record_free(record);
        else if (!take_up(executor, record, error))
            return FALSE;
    }
    return open != NULL;
}

void executor_stand_down(Executor *executor)
{
    lock_guard(&executor->entering);

    executor->lead_term = 0;
    g_mutex_lock(&executor->lock);
    for (guint i = 0; i < executor->runs->len; i++)
        ((Run *)executor->runs->pdata[i])->dropped = TRUE;
    g_cond_broadcast(&executor->wake);
    g_mutex_unlock(&executor->lock);
}

/* Writes *record* down, unless its guest has an open move; takes it. */
static Run *enter(Executor *executor, MoveRecord *record, GError **error)
{
    g_autoptr(MoveRecord) owned = record;
    gboolean busy;

    record->lead_term = executor->lead_term;
    reap(executor);
    g_mutex_lock(&executor->lock);
    busy = find_run(executor, record->guest_id) != NULL;
    g_mutex_unlock(&executor->lock);
    if (busy)
        error_set(error, VMFERRY_ERROR_BUSY, "guest %s has a move that has not ended yet",
                  record->guest);
    else if (engine_store_write_move(executor->store, record, error))
        return run_new(executor, g_steal_pointer(&owned));
    return NULL;
}

gboolean executor_begin(Executor *executor, MoveRecord *record, double bandwidth, gint64 *ret_id,
                        GError **error)
{
    lock_guard(&executor->entering);
    Run *run;

    record->state = MOVE_INTENDED;
    run = enter(executor, record, error);
    if (!run)
        return FALSE;
    *ret_id = run->record->id;
    run->bandwidth = bandwidth;
    fault_point("engine.intended", NULL);
    return launch(run, error);
}

gboolean executor_follow(Executor *executor, MoveRecord *record, GError **error)
{
    lock_guard(&executor->entering);
    Run *run;

    record->state = MOVE_ORDERED;
    record->ordered_ms = record->made_ms;
    run = enter(executor, record, error);
    return run && launch(run, error);
}

gboolean executor_cancel(Executor *executor, gint64 id, GError **error)
{
    lock_guard(&executor->lock);

    for (guint i = 0; i < executor->runs->len; i++) {
        Run *run = executor->runs->pdata[i];

        if (run->record->id != id || run->ended || run->dropped)
            continue;
        run->cancels = TRUE;
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "no move %lld is under way", (long long)id);
    return FALSE;
}

GPtrArray *executor_list(Executor *executor)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)move_record_free);

    reap(executor);
    lock_guard(&executor->lock);
    for (guint i = 0; i < executor->runs->len; i++) {
        const Run *run = executor->runs->pdata[i];

        if (!run->ended && !run->dropped)
            g_ptr_array_add(list, move_record_copy(run->record));
    }
    return list;
}

json_t *executor_get_progress(Executor *executor, gint64 id)
{
    lock_guard(&executor->lock);
    for (guint i = 0; i < executor->runs->len; i++) {
        const Run *run = executor->runs->pdata[i];

        if (run->record->id == id && !run->dropped)
            return json_incref(run->progress);
    }
    return NULL;
}

#include "agent/move.h"

#include <string.h>

#include "agent/recovery.h"
#include "agent/registry.h"
#include "agent/trace_queue.h"
#include "agent/watch.h"
#include "base/error.h"
#include "base/log.h"
#include "base/process.h"
#include "migrate/source.h"
#include "base/lock_guard.h"

#define TRACE_LIMIT_BYTES ((gsize)64 << 20)

struct Move {
    gatomicrefcount references;
    AgentContext *context;
    Guest *guest;
    char *destination;
    MigrateOptions options;
    ChannelOptions channel;
    GCancellable *cancellable;
    TraceQueue *trace; /* NULL: nobody asked for one */
    GMutex lock;       /* protects all below */
    GCond ended_condition;
    MigrateProgress progress;
    uint64_t version; /* of progress; 0: none yet */
    json_t *report;   /* NULL: under way */
};

Move *move_ref(Move *move)
{
    g_atomic_ref_count_inc(&move->references);
    return move;
}

void move_unref(Move *move)
{
    if (!move || !g_atomic_ref_count_dec(&move->references))
        return;
    guest_unref(move->guest);
    g_free(move->destination);
    g_object_unref(move->cancellable);
    json_decref(move->report);
    trace_queue_free(move->trace);
    g_cond_clear(&move->ended_condition);
    g_mutex_clear(&move->lock);
    g_free(move);
}

static void on_progress(const MigrateProgress *progress, gpointer user)
{
    Move *move = user;

    g_mutex_lock(&move->lock);
    move->progress = *progress;
    move->version++;
    g_mutex_unlock(&move->lock);
    agent_context_wake(move->context);
}

static void on_trace(const char *line, gpointer user)
{
    Move *move = user;

    trace_queue_add(move->trace, line);
    agent_context_wake(move->context);
}

static gboolean on_journal(SourceJournalState state, const char *transaction, const char *agent,
                           gpointer user, GError **error)
{
    Move *move = user;
    g_autoptr(GError) problem = NULL;

    switch (state) {
    case SOURCE_JOURNAL_MOVING:
        return registry_journal(move->guest, GUEST_MOVING, transaction, move->destination, agent,
                                RESUME_NEVER, error);
    case SOURCE_JOURNAL_PAUSING:
        return registry_journal(move->guest, GUEST_MOVING, transaction, move->destination, agent,
                                RESUME_AFTER, error);
    case SOURCE_JOURNAL_SWITCHING_OVER:
        return registry_journal(move->guest, GUEST_SWITCHING_OVER, transaction, move->destination,
                                agent, RESUME_AS_BEFORE, error);
    case SOURCE_JOURNAL_RETURNED:
        registry_journal_anyway(move->guest, GUEST_HERE, RESUME_NEVER, &problem);
        break;
    case SOURCE_JOURNAL_GONE:
        registry_journal_anyway(move->guest, GUEST_LEAVING, RESUME_AS_BEFORE, &problem);
        break;
    }
    if (problem)
        log_warning("guest %s: %s", move->guest->name, problem->message);
    return TRUE;
}

static gboolean on_note_balloon(uint64_t bytes, gpointer user, GError **error)
{
    return balloon_note(((Move *)user)->guest, bytes, error);
}

static void detach_from_guest(Move *move)
{
    registry_set_move(move->guest, NULL);
}

static void finish_completed(Move *move, const MigrateReport *report)
{
    g_autoptr(GuestRecord) record = registry_get_record(move->guest);
    gboolean left = process_is_same(record->pid, record->start_time);

    if (!left) {
        departure_log_add(move->context->departures, record);
        registry_remove(move->guest);
    }
    event_log_add(move->context->events, move->guest->name, "moved", migrate_report_to_json(report),
                  "moved to %s: %.0f ms in all, %.1f ms of downtime", move->destination,
                  report->total_ms, report->downtime_ms);
    detach_from_guest(move);
    if (left) {
        on_journal(SOURCE_JOURNAL_GONE, NULL, NULL, move, NULL);
        recovery_start(move->context, move->guest);
    }
}

static void finish_returned(Move *move, const MigrateReport *report)
{
    g_autoptr(GuestRecord) record = registry_get_record(move->guest);
    gboolean cancelled = report->status == MIGRATE_CANCELLED;

    if (report->unresumed)
        registry_journal_anyway(move->guest, GUEST_MOVING, RESUME_AFTER, NULL);
    else if (record->state != GUEST_HERE)
        on_journal(SOURCE_JOURNAL_RETURNED, NULL, NULL, move, NULL);
    event_log_add(move->context->events, move->guest->name, cancelled ? "cancelled" : "move-failed",
                  migrate_report_to_json(report), "the move to %s %s%s%s", move->destination,
                  cancelled ? "was cancelled" : "failed", report->error ? ": " : "",
                  report->error ? report->error : "");
    detach_from_guest(move);
    if (report->unresumed)
        recovery_start(move->context, move->guest);
    else
        watch_release(move->context, move->guest);
}

static void finish_in_doubt(Move *move, const MigrateReport *report)
{
    g_autoptr(GError) problem = NULL;

    registry_journal_anyway(move->guest, GUEST_IN_DOUBT, RESUME_AS_BEFORE, &problem);
    if (problem)
        log_warning("guest %s: %s", move->guest->name, problem->message);
    registry_set_problem(move->guest, report->error);
    event_log_add(move->context->events, move->guest->name, "in-doubt",
                  migrate_report_to_json(report),
                  "paused: %s may have it and does not answer; I keep asking", move->destination);
    detach_from_guest(move);
    recovery_start(move->context, move->guest);
}

/* The contract's object, and whose report it is. */
static void publish(Move *move, const MigrateReport *report)
{
    json_t *object = migrate_report_to_json(report);

    json_object_set_new(object, "guest", json_string(move->guest->name));
    g_mutex_lock(&move->lock);
    move->report = object;
    g_cond_broadcast(&move->ended_condition);
    g_mutex_unlock(&move->lock);
    agent_context_wake(move->context);
}

static MigrateReport *run(Move *move)
{
    g_autoptr(GuestRecord) record = registry_get_record(move->guest);
    MigrateSourceJob job = {
        .vmm = registry_get_vmm(move->guest, NULL),
        .guest = move->guest->name,
        .command_line = record->command_line,
        .working_directory = record->working_directory,
        .destination = move->destination,
        .source_name = move->context->host_name,
        .channel = move->channel,
        .options = move->options,
        .host = {.progress = on_progress,
                 .journal = on_journal,
                 .note_balloon = on_note_balloon,
                 .trace = move->trace ? on_trace : NULL,
                 .user = move},
    };

    return migrate_source_run(&job, move->cancellable);
}

static gpointer move_thread(gpointer data)
{
    g_autoptr(Move) move = data;
    g_autoptr(MigrateReport) report = run(move);

    switch (report->status) {
    case MIGRATE_COMPLETED:
        finish_completed(move, report);
        break;
    case MIGRATE_FAILED:
    case MIGRATE_CANCELLED:
    case MIGRATE_ENDED:
        finish_returned(move, report);
        break;
    case MIGRATE_IN_DOUBT:
        finish_in_doubt(move, report);
        break;
    }
    publish(move, report);
    return NULL;
}

static Move *move_new(AgentContext *context, Guest *guest, const char *destination,
                      const MigrateOptions *options, const ChannelOptions *channel)
{
    Move *move = g_new0(Move, 1);

    g_atomic_ref_count_init(&move->references);
    g_mutex_init(&move->lock);
    g_cond_init(&move->ended_condition);
    move->context = context;
    move->guest = guest_ref(guest);
    move->destination = g_strdup(destination);
    move->options = *options;
    move->channel = *channel;
    move->cancellable = g_cancellable_new();
    if (options->record)
        move->trace = trace_queue_new(TRACE_LIMIT_BYTES);
    return move;
}

Move *move_start(AgentContext *context, const char *name, const char *destination,
                 const MigrateOptions *options, GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    ChannelOptions channel;
    Move *move;

    if (!guest || !agent_context_get_channel_options(context, &channel, error) ||
        !registry_claim(guest, "move", error))
        return NULL;
    move = move_new(context, guest, destination, options, &channel);
    registry_set_move(guest, move);
    /* The agent cancels the moves it finds when it stops; this one may have
     * come just too late to be found. */
    if (agent_context_is_stopping(context))
        move_cancel(move);
    event_log_add(context->events, name, "moving", NULL, "begins to move to %s", destination);
    if (agent_context_spawn(context, "move", move_thread, move_ref(move), error))
        return move;
    event_log_add(context->events, name, "move-failed", NULL,
                  "the move to %s failed: the system gives no thread", destination);
    detach_from_guest(move);
    watch_release(context, guest);
    move_unref(move);
    move_unref(move);
    return NULL;
}

Move *move_find(AgentContext *context, const char *name, GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    Move *move;

    if (!guest)
        return NULL;
    move = registry_get_move(guest);
    if (!move)
        error_set(error, VMFERRY_ERROR_REFUSED, "guest %s is not moving", name);
    return move;
}

void move_cancel(Move *move)
{
    g_cancellable_cancel(move->cancellable);
}

gboolean move_wait(Move *move, guint timeout_ms)
{
    gint64 until = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    lock_guard(&move->lock);

    while (!move->report)
        if (!g_cond_wait_until(&move->ended_condition, &move->lock, until))
            return move->report != NULL;
    return TRUE;
}

json_t *move_get_progress(Move *move, uint64_t seen, uint64_t *ret_version)
{
    MigrateProgress progress;

    g_mutex_lock(&move->lock);
    progress = move->progress;
    *ret_version = move->version;
    g_mutex_unlock(&move->lock);
    return *ret_version > seen ? migrate_progress_to_json(&progress) : NULL;
}

char *move_take_trace(Move *move)
{
    return move->trace ? trace_queue_take(move->trace) : NULL;
}

void move_end_trace(Move *move)
{
    if (move->trace)
        trace_queue_close(move->trace);
}

json_t *move_get_report(Move *move)
{
    lock_guard(&move->lock);

    /* A copy: reference counts of one object are not shared between threads. */
    return move->report ? json_deep_copy(move->report) : NULL;
}

const char *move_get_destination(Move *move)
{
    return move->destination;
}

gboolean balloon_note(Guest *guest, uint64_t bytes, GError **error)
{
    GuestRecord *record = registry_get_record(guest);

    record->balloon_bytes = bytes;
    return registry_journal_record(guest, record, error);
}

void balloon_release(AgentContext *context, Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autoptr(GError) problem = NULL;
    Vmm *vmm = registry_get_vmm(guest, NULL);

    if (record->balloon_bytes == 0 || !vmm)
        return;
    if (vmm_set_balloon(vmm, record->balloon_bytes, &problem) && balloon_note(guest, 0, &problem))
        return;
    log_warning("guest %s: its balloon: %s", guest->name, problem->message);
    event_log_add(context->events, guest->name, "balloon-not-released", NULL,
                  "does not get the memory back that a move took by its balloon: %s",
                  problem->message);
}

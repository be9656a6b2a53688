#include "agent/move.h"

#include <string.h>

#include "agent/directory.h"
#include "agent/moved_images.h"
#include "agent/recovery.h"
#include "agent/registry.h"
#include "agent/watch.h"
#include "agent/withdrawal.h"
#include "base/error.h"
#include "base/log.h"
#include "base/process.h"
#include "base/rate.h"
#include "migrate/source.h"
#include "base/lock_guard.h"

#define TRACE_LIMIT_BYTES ((gsize)64 << 20)

typedef struct {
    AgentContext *context;
    Activity *activity; /* owns this */
    Guest *guest;
    char *destination;
    MigrateOptions options;
    MoveRate *rate;     /* in place of the one in *options* */
    json_t *disk_modes; /* NULL: none */
    char *witness;      /* from its registration on, or NULL … */
    char *witness_agent;
    guint lease_ms;
    ChannelOptions channel;
    GCancellable *cancellable;
    GMutex lock;        /* protects all below */
    gboolean has_begun; /* there is progress */
    MigrateProgress progress;
} Move;

/* ---- the kind of activity ---- */

static void describe_move(gpointer user, json_t *view)
{
    const Move *move = user;

    json_object_set_new(view, "destination", json_string(move->destination));
    if (*move->options.store)
        json_object_set_new(view, "store", json_string(move->options.store));
}

static json_t *get_move_progress(gpointer user)
{
    Move *move = user;
    lock_guard(&move->lock);

    move->progress.bandwidth = move_rate_get(move->rate);
    return move->has_begun ? migrate_progress_to_json(&move->progress) : NULL;
}

static void cancel_move(gpointer user)
{
    g_cancellable_cancel(((Move *)user)->cancellable);
}

static void move_free(gpointer user)
{
    Move *move = user;

    guest_unref(move->guest);
    g_free(move->destination);
    move_rate_free(move->rate);
    json_decref(move->disk_modes);
    g_free(move->witness);
    g_free(move->witness_agent);
    g_object_unref(move->cancellable);
    g_mutex_clear(&move->lock);
    g_free(move);
}

static const ActivityKind migrate_kind = {
    .kind = "migrate",
    .state = "migrating",
    .drives_run_state = TRUE,
    .describe = describe_move,
    .get_progress = get_move_progress,
    .cancel = cancel_move,
    .free = move_free,
};

/* ---- what the move says and asks ---- */

static void on_progress(const MigrateProgress *progress, gpointer user)
{
    Move *move = user;
    gboolean shrunk;

    g_mutex_lock(&move->lock);
    shrunk = progress->segment_bytes != move->progress.segment_bytes;
    move->progress = *progress;
    move->has_begun = TRUE;
    g_mutex_unlock(&move->lock);
    if (shrunk && progress->segment_bytes > 0)
        event_log_add(
            move->context->events, move->guest->name, "small-packets", NULL,
            "large packets seem to be lost on the way to %s (path MTU): its connection is "
            "made anew with segments of %u bytes",
            move->destination, progress->segment_bytes);
    activity_note_progress(move->activity);
}

static void on_trace(const char *line, gpointer user)
{
    activity_add_trace(((Move *)user)->activity, line);
}

/* The rest of the record is as it was journaled for the pause. */
static gboolean journal_split(Move *move, GError **error)
{
    GuestRecord *record = registry_get_record(move->guest);

    record->role = GUEST_SWITCHING_OVER;
    record->split = TRUE;
    if (move->witness) {
        record->store = g_strdup(move->witness);
        record->store_agent = g_strdup(move->witness_agent);
        record->lease_ms = move->lease_ms;
    }
    return registry_journal_record(move->guest, record, error);
}

static gboolean journal_given_up(Move *move, GError **error)
{
    GuestRecord *record = registry_get_record(move->guest);

    record->role = GUEST_LEAVING;
    record->untold = TRUE;
    return registry_journal_record(move->guest, record, error);
}

/* Nobody else runs it: from here on it goes forward only. */
static gboolean journal_taking_over(Move *move, GError **error)
{
    GuestRecord *record = registry_get_record(move->guest);

    record->taking_over = TRUE;
    return registry_journal_record(move->guest, record, error);
}

static void on_note_witness(const char *witness, const char *agent, guint lease_ms, gpointer user)
{
    Move *move = user;

    g_free(move->witness);
    g_free(move->witness_agent);
    move->witness = g_strdup(witness);
    move->witness_agent = g_strdup(agent);
    move->lease_ms = lease_ms;
    event_log_add(
        move->context->events, move->guest->name, "witnessed", NULL,
        "%s is its witness while it is split: the end of its destination's host is survived "
        "here, that of this host there as far as its pages are stored",
        witness);
}

/* On record from its begin, so that it is removed with the guest. */
static char *on_make_deltas(gpointer user, GError **error)
{
    Move *move = user;
    GuestRecord *record = registry_get_record(move->guest);
    g_autofree char *directory =
        guest_directory_create(move->context->settings->runtime_dir, error);

    g_free(record->deltas);
    record->deltas = g_strdup(directory);
    if (!directory) {
        guest_record_free(record);
        return NULL;
    }
    if (registry_journal_record(move->guest, record, error))
        return g_steal_pointer(&directory);
    guest_directory_remove(directory);
    return NULL;
}

static void on_drop_deltas(gpointer user)
{
    Move *move = user;
    GuestRecord *record = registry_get_record(move->guest);

    if (record->deltas)
        guest_directory_remove(record->deltas);
    g_clear_pointer(&record->deltas, g_free);
    record->untold = FALSE;
    registry_journal_record(move->guest, record, NULL);
}

static gboolean on_is_released(gpointer user)
{
    Move *move = user;

    return agent_context_is_stopping(move->context) ||
           registry_get_decision(move->guest) != DECISION_NONE;
}

static gboolean on_journal(SourceJournalState state, const char *transaction, const char *agent,
                           gpointer user, GError **error)
{
    Move *move = user;
    g_autoptr(GError) problem = NULL;

    switch (state) {
    case SOURCE_JOURNAL_MOVING:
        return registry_journal(move->guest, GUEST_OURS, transaction, move->destination, agent,
                                RESUME_NEVER, error);
    case SOURCE_JOURNAL_PAUSING:
        return registry_journal(move->guest, GUEST_OURS, transaction, move->destination, agent,
                                RESUME_AFTER, error);
    case SOURCE_JOURNAL_SWITCHING_OVER:
        return registry_journal(move->guest, GUEST_SWITCHING_OVER, transaction, move->destination,
                                agent, RESUME_AS_BEFORE, error);
    case SOURCE_JOURNAL_SWITCHING_OVER_SPLIT:
        return journal_split(move, error);
    case SOURCE_JOURNAL_SPLIT:
        registry_journal_anyway(move->guest, GUEST_POSTCOPY_SOURCE, RESUME_AS_BEFORE, &problem);
        break;
    case SOURCE_JOURNAL_RETURNED:
        registry_journal_settled(move->guest, 0, &problem);
        break;
    case SOURCE_JOURNAL_TAKING_OVER:
        return journal_taking_over(move, error);
    case SOURCE_JOURNAL_GIVEN_UP:
        return journal_given_up(move, error);
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

/* ---- its end ---- */

static void detach_from_guest(Move *move)
{
    registry_set_activity(move->guest, NULL);
}

static void finish_completed(Move *move, const MigrateReport *report)
{
    g_autoptr(GuestRecord) record = registry_get_record(move->guest);
    gboolean left = process_is_same(record->pid, record->start_time);

    if (!left) {
        departure_log_add(move->context->departures, record);
        moved_images_retire(record);
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

static void tell_given_up(Move *move, const MigrateReport *report, const GuestRecord *record)
{
    WithdrawalNotice notice = {.destination = move->destination,
                               .agent = report->untold_agent,
                               .transaction = report->untold,
                               .guest_id = record->id,
                               .term = record->term + 1,
                               .for_ms = report->untold_for_ms};

    withdrawal_tell(move->context, &notice);
}

static void finish_returned(Move *move, const MigrateReport *report)
{
    g_autoptr(GuestRecord) record = registry_get_record(move->guest);
    gboolean cancelled = report->status == MIGRATE_CANCELLED;

    tell_given_up(move, report, record);
    if (report->unresumed)
        registry_journal_anyway(move->guest, GUEST_OURS, RESUME_AFTER, NULL);
    else if (record->role != GUEST_OURS || record->transaction || record->moved_images)
        on_journal(SOURCE_JOURNAL_RETURNED, NULL, NULL, move, NULL);
    event_log_add(move->context->events, move->guest->name, cancelled ? "cancelled" : "move-failed",
                  migrate_report_to_json(report), "the move to %s %s%s%s", move->destination,
                  cancelled ? "was cancelled" : "failed", report->error ? ": " : "",
                  report->error ? report->error : "");
    if (report->unresumed) {
        detach_from_guest(move);
        recovery_start(move->context, move->guest);
    } else {
        watch_release_from_activity(move->context, move->guest);
    }
}

static void finish_in_doubt(Move *move, const MigrateReport *report)
{
    g_autoptr(GError) problem = NULL;

    registry_journal_anyway(move->guest, GUEST_IN_DOUBT, RESUME_AS_BEFORE, &problem);
    if (problem)
        log_warning("guest %s: %s", move->guest->name, problem->message);
    registry_set_problem(move->guest, report->error);
    event_log_add(
        move->context->events, move->guest->name, "in-doubt", migrate_report_to_json(report),
        "paused: %s may have it and does not answer; it is asked again", move->destination);
    detach_from_guest(move);
    recovery_start(move->context, move->guest);
}

/* It runs at its destination, which lacks pages: recovery goes on with that. */
static void finish_split(Move *move, const MigrateReport *report)
{
    registry_set_problem(move->guest, report->error);
    event_log_add(move->context->events, move->guest->name, "split", migrate_report_to_json(report),
                  "runs at %s and lacks pages that are here: %s", move->destination,
                  report->error ? report->error : "");
    detach_from_guest(move);
    recovery_start(move->context, move->guest);
}

static void on_note_store(const char *name, const GError *why, gpointer user)
{
    Move *move = user;

    if (why)
        event_log_add(move->context->events, move->guest->name, "store-lost", NULL,
                      "goes on moving without its store %s, so its source must not fail while its "
                      "memory is split: %s",
                      name, why->message);
    else
        event_log_add(move->context->events, move->guest->name, "stored", NULL,
                      "%s keeps a copy of its pages until they have arrived", name);
}

static gboolean on_note_images(char *const *paths, gboolean removes, gpointer user, GError **error)
{
    return moved_images_note(((Move *)user)->guest, paths, removes, error);
}

static char *on_make_directory(gpointer user, GError **error)
{
    return guest_directory_create_for_move(((Move *)user)->context->settings->runtime_dir, error);
}

static void on_remove_directory(const char *directory, gpointer user)
{
    guest_directory_remove(directory);
}

static MigrateReport *run(Move *move)
{
    g_autoptr(GuestRecord) record = registry_get_record(move->guest);
    MigrateSourceJob job = {
        .vmm = registry_get_vmm(move->guest, NULL),
        .guest = move->guest->name,
        .guest_id = record->id,
        .term = record->term,
        .command_line = record->command_line,
        .working_directory = record->working_directory,
        .destination = move->destination,
        .source_name = move->context->host_name,
        .channel = move->channel,
        .options = move->options,
        .rate = move->rate,
        .disk_modes = move->disk_modes,
        .host = {.progress = on_progress,
                 .journal = on_journal,
                 .note_balloon = on_note_balloon,
                 .note_images = on_note_images,
                 .make_deltas = on_make_deltas,
                 .drop_deltas = on_drop_deltas,
                 .note_store = on_note_store,
                 .note_witness = on_note_witness,
                 .is_released = on_is_released,
                 .make_directory = on_make_directory,
                 .remove_directory = on_remove_directory,
                 .trace = move->options.record ? on_trace : NULL,
                 .user = move},
    };

    return migrate_source_run(&job, move->cancellable);
}

static gpointer move_thread(gpointer data)
{
    Move *move = data;
    g_autoptr(Activity) activity = move->activity; /* the thread's reference */
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
    case MIGRATE_SPLIT:
        finish_split(move, report);
        break;
    }
    activity_finish(activity, migrate_report_to_json(report));
    return NULL;
}

static Move *move_new(AgentContext *context, Guest *guest, const MoveRequest *request,
                      const ChannelOptions *channel)
{
    Move *move = g_new0(Move, 1);

    g_mutex_init(&move->lock);
    move->context = context;
    move->guest = guest_ref(guest);
    move->destination = g_strdup(request->destination);
    move->options = *request->options;
    move->rate = move_rate_new(request->options->bandwidth_bytes_per_second);
    move->disk_modes = json_incref(request->disk_modes);
    move->channel = *channel;
    move->cancellable = g_cancellable_new();
    move->activity = activity_new(&migrate_kind, guest->name, move);
    if (request->options->record)
        activity_keep_trace(move->activity, TRACE_LIMIT_BYTES);
    return move;
}

Activity *move_start(AgentContext *context, const char *name, const MoveRequest *request,
                     GError **error)
{
    const char *destination = request->destination;
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    g_autoptr(Activity) activity = NULL;
    ChannelOptions channel;
    Move *move;

    if (!guest || !registry_check_leaving(guest, error) ||
        !agent_context_get_channel_options(context, &channel, error) ||
        !registry_claim(guest, GUEST_OURS, "move", error))
        return NULL;
    move = move_new(context, guest, request, &channel);
    activity = move->activity;
    registry_set_activity(guest, activity);
    /* The agent cancels the activities it finds when it stops; this one may have
     * come just too late to be found. */
    if (agent_context_is_stopping(context))
        activity_cancel(activity);
    event_log_add(context->events, name, "moving", NULL, "begins to move to %s", destination);
    activity_ref(activity); /* the thread's */
    if (agent_context_spawn(context, "move", move_thread, move, error))
        return g_steal_pointer(&activity);
    activity_unref(activity);
    event_log_add(context->events, name, "move-failed", NULL,
                  "the move to %s failed: the system gives no thread", destination);
    watch_release_from_activity(context, guest);
    return NULL;
}

static char *describe_rate(uint64_t bytes_per_second)
{
    return bytes_per_second ? rate_format((double)bytes_per_second) : g_strdup("no limit");
}

static void tell_bandwidth(Move *move, uint64_t before, uint64_t now)
{
    g_autofree char *text = describe_rate(now);
    g_autofree char *was = describe_rate(before);

    activity_note_progress(move->activity);
    event_log_add(
        move->context->events, move->guest->name, "bandwidth",
        json_pack("{s:I, s:I}", "bandwidth", (json_int_t)now, "before", (json_int_t)before),
        "the limit of its move to %s is %s now (%s before)", move->destination, text, was);
}

gboolean move_set_bandwidth(AgentContext *context, const char *name, uint64_t bytes_per_second,
                            uint64_t *ret_before, GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    g_autoptr(Activity) activity = guest ? registry_get_activity(guest) : NULL;
    g_autoptr(json_t) report = activity ? activity_get_report(activity) : NULL;
    Move *move;

    if (!guest)
        return FALSE;
    if (!activity || report || activity_get_kind(activity) != &migrate_kind) {
        error_set(error, VMFERRY_ERROR_REFUSED, "guest %s is not being moved from here", name);
        return FALSE;
    }
    move = activity_get_user(activity);
    *ret_before = move_rate_set(move->rate, bytes_per_second);
    if (*ret_before != bytes_per_second)
        tell_bandwidth(move, *ret_before, bytes_per_second);
    return TRUE;
}

/* ---- the balloon ---- */

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

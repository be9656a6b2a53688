#include "agent/save.h"

#include <string.h>
#include <sys/stat.h>

#include "agent/directory.h"
#include "agent/moved_images.h"
#include "agent/peers.h"
#include "agent/recovery.h"
#include "agent/registry.h"
#include "agent/watch.h"
#include "agent/withdrawal.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/rate.h"
#include "migrate/save_source.h"

typedef struct {
    AgentContext *context;
    Activity *activity; /* owns this */
    Guest *guest;
    char *host; /* NULL: this one */
    char *path, *base, *target;
    MigrateOptions options;
    gboolean replace, ends, live_disks;
    ChannelOptions channel;
    GCancellable *cancellable;
    GMutex lock; /* protects all below */
    gboolean has_begun;
    MigrateProgress progress;
} SaveActivity;

/* ---- the kind of activity ---- */

static void describe_save(gpointer user, json_t *view)
{
    json_object_set_new(view, "destination", json_string(((SaveActivity *)user)->target));
}

static json_t *get_save_progress(gpointer user)
{
    SaveActivity *save = user;
    lock_guard(&save->lock);

    return save->has_begun ? migrate_progress_to_json(&save->progress) : NULL;
}

static void cancel_save(gpointer user)
{
    g_cancellable_cancel(((SaveActivity *)user)->cancellable);
}

static void save_free(gpointer user)
{
    SaveActivity *save = user;

    guest_unref(save->guest);
    g_free(save->host);
    g_free(save->path);
    g_free(save->base);
    g_free(save->target);
    g_object_unref(save->cancellable);
    g_mutex_clear(&save->lock);
    g_free(save);
}

static const ActivityKind save_kind = {
    .kind = "save",
    .state = "saving",
    .drives_run_state = TRUE,
    .describe = describe_save,
    .get_progress = get_save_progress,
    .cancel = cancel_save,
    .free = save_free,
};

/* ---- what the save says and asks ---- */

static void on_progress(const MigrateProgress *progress, gpointer user)
{
    SaveActivity *save = user;

    g_mutex_lock(&save->lock);
    save->progress = *progress;
    save->has_begun = TRUE;
    g_mutex_unlock(&save->lock);
    activity_note_progress(save->activity);
}

/* A save changes no owner: these are all the states that it has. */
static gboolean on_journal(SourceJournalState state, const char *transaction, const char *agent,
                           gpointer user, GError **error)
{
    SaveActivity *save = user;
    g_autoptr(GError) problem = NULL;

    if (state == SOURCE_JOURNAL_MOVING || state == SOURCE_JOURNAL_PAUSING)
        return registry_journal(save->guest, GUEST_OURS, transaction, save->target, agent,
                                state == SOURCE_JOURNAL_PAUSING ? RESUME_AFTER : RESUME_NEVER,
                                error);
    if (state == SOURCE_JOURNAL_RETURNED)
        registry_journal_settled(save->guest, 0, &problem);
    if (problem)
        log_warning("guest %s: %s", save->guest->name, problem->message);
    return TRUE;
}

static gboolean on_note_balloon(uint64_t bytes, gpointer user, GError **error)
{
    return TRUE;
}

static gboolean on_note_images(char *const *paths, gboolean removes, gpointer user, GError **error)
{
    return TRUE;
}

static char *on_make_directory(gpointer user, GError **error)
{
    return guest_directory_create_for_move(((SaveActivity *)user)->context->settings->runtime_dir,
                                           error);
}

static void on_remove_directory(const char *directory, gpointer user)
{
    guest_directory_remove(directory);
}

/* ---- its end ---- */

static char *describe_image(const MigrateReport *report)
{
    return bytes_format((double)json_count_or(report->image, "bytes", 0));
}

/* Its image is complete: it is to end, or else to go on. */
static gboolean end_guest(SaveActivity *save, MigrateReport *report)
{
    g_autoptr(GError) error = NULL;
    Vmm *vmm = registry_get_vmm(save->guest, &error);

    if (vmm && vmm_quit(vmm, &error))
        return TRUE;
    g_free(report->error);
    report->error =
        g_strdup_printf("guest %s: its image is complete, but it could not be ended: %s",
                        save->guest->name, error->message);
    report->unresumed = TRUE;
    return FALSE;
}

/* Disks that could not be above the base's copies. */
static void tell_whole(SaveActivity *save, const MigrateReport *report)
{
    json_t *copy;
    size_t i;

    json_array_foreach(report->copies, i, copy)
    {
        const char *why = json_text_or(copy, "whole", NULL);

        if (why)
            event_log_add(save->context->events, save->guest->name, "disk-saved-whole", NULL,
                          "disk %s was saved whole, not only what has changed since %s: %s",
                          json_text_or(copy, "id", "?"), save->base, why);
    }
}

/* TRUE where the guest is not here any more. */
static gboolean finish_saved(SaveActivity *save, MigrateReport *report)
{
    gboolean ended = save->ends && end_guest(save, report);
    g_autofree char *bytes = describe_image(report);

    event_log_add(save->context->events, save->guest->name, "saved", migrate_report_to_json(report),
                  "saved into %s: %s, %.0f ms in all, %.1f ms of pause%s", save->target, bytes,
                  report->total_ms, report->downtime_ms, ended ? "; ended" : "");
    tell_whole(save, report);
    if (ended)
        registry_remove(save->guest);
    return ended;
}

static void finish_failed(SaveActivity *save, const MigrateReport *report)
{
    gboolean cancelled = report->status == MIGRATE_CANCELLED;

    event_log_add(save->context->events, save->guest->name,
                  cancelled ? "save-cancelled" : "save-failed", migrate_report_to_json(report),
                  "the save into %s %s%s%s", save->target, cancelled ? "was cancelled" : "failed",
                  report->error ? ": " : "", report->error ? report->error : "");
}

/* It is as it was before; where we could not resume it recovery does. */
static void let_go(SaveActivity *save, const MigrateReport *report)
{
    g_autoptr(GuestRecord) record = registry_get_record(save->guest);
    WithdrawalNotice notice = {.destination = save->host,
                               .agent = report->untold_agent,
                               .transaction = report->untold,
                               .guest_id = record->id,
                               .term = record->term + 1,
                               .for_ms = report->untold_for_ms};

    withdrawal_tell(save->context, &notice);
    if (report->unresumed)
        registry_journal_anyway(save->guest, GUEST_OURS, RESUME_AFTER, NULL);
    else if (record->transaction)
        on_journal(SOURCE_JOURNAL_RETURNED, NULL, NULL, save, NULL);
    if (report->unresumed) {
        registry_set_activity(save->guest, NULL);
        recovery_start(save->context, save->guest);
    } else {
        watch_release_from_activity(save->context, save->guest);
    }
}

static MigrateReport *run(SaveActivity *save)
{
    g_autoptr(GuestRecord) record = registry_get_record(save->guest);
    SaveJob job = {
        .move = {.vmm = registry_get_vmm(save->guest, NULL),
                 .guest = save->guest->name,
                 .guest_id = record->id,
                 .term = record->term,
                 .command_line = record->command_line,
                 .working_directory = record->working_directory,
                 .destination = save->host ? save->host : save->context->host_name,
                 .source_name = save->context->host_name,
                 .channel = save->channel,
                 .options = save->options,
                 .host = {.progress = on_progress,
                          .journal = on_journal,
                          .note_balloon = on_note_balloon,
                          .note_images = on_note_images,
                          .make_directory = on_make_directory,
                          .remove_directory = on_remove_directory,
                          .user = save}},
        .path = save->path,
        .base = save->base,
        .replace = save->replace,
        .ends = save->ends,
        .live_disks = save->live_disks,
    };

    return save_source_run(&job, save->cancellable);
}

static gpointer save_thread(gpointer data)
{
    SaveActivity *save = data;
    g_autoptr(Activity) activity = save->activity; /* the thread's reference */
    g_autoptr(MigrateReport) report = run(save);

    if (report->status != MIGRATE_COMPLETED)
        finish_failed(save, report);
    if (report->status == MIGRATE_COMPLETED && finish_saved(save, report))
        watch_release_from_activity(save->context, save->guest);
    else
        let_go(save, report);
    activity_finish(activity, migrate_report_to_json(report));
    return NULL;
}

/* ---- its start ---- */

/* "HOST:/path", "HOST:PORT:/path", "[V6]:PORT:/path"; a path alone is of this host. */
static gboolean split_target(const char *target, char **ret_host, char **ret_path, GError **error)
{
    const char *at = *target == '/' ? target : strstr(target, ":/");

    if (!at) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is neither an absolute path nor HOST[:PORT]:PATH", target);
        return FALSE;
    }
    *ret_host = at == target ? NULL : g_strndup(target, (gsize)(at - target));
    *ret_path = g_strdup(at == target ? at : at + 1);
    return TRUE;
}

/* Who reads from a FIFO decides when the agent goes on. */
static gboolean check_pipe(const SaveActivity *save, const SaveRequest *request, GError **error)
{
    struct stat info;

    if (save->host || request->pipes || lstat(save->path, &info) < 0 || !S_ISFIFO(info.st_mode))
        return TRUE;
    error_set(error, VMFERRY_ERROR_EXISTS, "%s exists, and is not a file", save->path);
    return FALSE;
}

static SaveActivity *save_new(AgentContext *context, Guest *guest, const SaveRequest *request)
{
    SaveActivity *save = g_new0(SaveActivity, 1);

    g_mutex_init(&save->lock);
    save->context = context;
    save->guest = guest_ref(guest);
    save->target = g_strdup(request->target);
    save->options = *request->options;
    save->options.trust_images = TRUE;
    save->options.keep_source = TRUE;
    save->options.overwrite = request->replace;
    save->options.mode = MIGRATE_MODE_PRECOPY;
    save->options.segments = SENT_STORE_OFF;
    save->options.safety = MIGRATE_SAFETY_NONE;
    save->options.reclaim_free = FALSE;
    save->options.verify = FALSE;
    save->options.store[0] = '\0';
    save->base = g_strdup(request->base);
    save->replace = request->replace;
    save->ends = request->ends;
    save->live_disks = request->live_disks;
    save->cancellable = g_cancellable_new();
    save->activity = activity_new(&save_kind, guest->name, save);
    return save;
}

/* To this agent itself, or another. */
static gboolean get_channel(SaveActivity *save, GError **error)
{
    if (save->host)
        return agent_context_get_channel_options(save->context, &save->channel, error);
    save->channel = (ChannelOptions){
        .agent = save->context->agent_id, .dial = peers_dial, .dial_user = save->context};
    return TRUE;
}

static Activity *start_claimed(SaveActivity *save, GError **error)
{
    AgentContext *context = save->context;
    Activity *activity = save->activity;

    registry_set_activity(save->guest, activity);
    /* See move_start(). */
    if (agent_context_is_stopping(context))
        activity_cancel(activity);
    event_log_add(context->events, save->guest->name, "saving", NULL, "begins to be saved into %s",
                  save->target);
    activity_ref(activity); /* the thread's */
    if (agent_context_spawn(context, "save", save_thread, save, error))
        return activity_ref(activity);
    activity_unref(activity);
    watch_release_from_activity(context, save->guest);
    return NULL;
}

Activity *save_start(AgentContext *context, const char *name, const SaveRequest *request,
                     GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    g_autoptr(Activity) activity = NULL;
    SaveActivity *save;

    if (!guest)
        return NULL;
    if (request->base && !g_path_is_absolute(request->base)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not an absolute path", request->base);
        return NULL;
    }
    save = save_new(context, guest, request);
    activity = save->activity;
    if (!split_target(request->target, &save->host, &save->path, error) ||
        !check_pipe(save, request, error) || !get_channel(save, error) ||
        !registry_claim(guest, GUEST_OURS, "save", error))
        return NULL;
    return start_claimed(save, error);
}

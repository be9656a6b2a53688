#include "agent/protect.h"

#include <string.h>
#include <unistd.h>

#include "agent/directory.h"
#include "agent/launch.h"
#include "agent/postcopy.h"
#include "agent/recovery.h"
#include "agent/watch.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/page.h"
#include "migrate/protect.h"
#include "wire/address.h"

#define OUTSTANDING_NAME "outstanding"
#define LOOK_NS 50000000ULL
#define END_TIMEOUT_MS 120000

typedef struct {
    AgentContext *context;
    Activity *activity; /* owns this */
    Guest *guest;
    char *standby;
    MigrateOptions options;
    gboolean copies_writes;
    guint overhead_percent;
    CheckpointSync sync;
    ChannelOptions channel;
    GCancellable *cancellable;
    uint64_t term; /* before */
    gboolean wanted_before;
    GMutex lock; /* protects all below */
    gboolean has_begun;
    MigrateProgress progress;
    PostcopyDestination *split; /* once it waits for its first epoch */
} Protecting;

/* ---- the kind of activity ---- */

static void describe(gpointer user, json_t *view)
{
    const Protecting *protecting = user;

    json_object_set_new(view, "standby", json_string(protecting->standby));
    if (*protecting->options.store)
        json_object_set_new(view, "witness", json_string(protecting->options.store));
}

static json_t *describe_first_epoch(PostcopyDestination *split)
{
    CheckpointCounts counts = {0};

    postcopy_destination_get_checkpoints(split, &counts);
    return json_pack("{s:s, s:I, s:I, s:I}", "phase", "memory", "round_bytes",
                     (json_int_t)postcopy_destination_get_memory_bytes(split), "round_bytes_done",
                     (json_int_t)(counts.pages + counts.ahead) * (json_int_t)PAGE_BYTES,
                     "wire_bytes", (json_int_t)counts.bytes);
}

static json_t *get_progress(gpointer user)
{
    Protecting *protecting = user;
    lock_guard(&protecting->lock);

    if (protecting->split)
        return describe_first_epoch(protecting->split);
    return protecting->has_begun ? migrate_progress_to_json(&protecting->progress) : NULL;
}

static void cancel(gpointer user)
{
    g_cancellable_cancel(((Protecting *)user)->cancellable);
}

static void protecting_free(gpointer user)
{
    Protecting *protecting = user;

    guest_unref(protecting->guest);
    g_free(protecting->standby);
    g_object_unref(protecting->cancellable);
    g_mutex_clear(&protecting->lock);
    g_free(protecting);
}

static const ActivityKind kind = {
    .kind = "protect",
    .state = "protecting",
    .describe = describe,
    .get_progress = get_progress,
    .cancel = cancel,
    .free = protecting_free,
};

/* ---- what it says and asks ---- */

static void on_progress(const MigrateProgress *progress, gpointer user)
{
    Protecting *protecting = user;

    g_mutex_lock(&protecting->lock);
    protecting->progress = *progress;
    protecting->has_begun = TRUE;
    g_mutex_unlock(&protecting->lock);
    activity_note_progress(protecting->activity);
}

static char *on_make_directory(gpointer user, GError **error)
{
    return guest_directory_create_for_move(((Protecting *)user)->context->settings->runtime_dir,
                                           error);
}

static void on_remove_directory(const char *directory, gpointer user)
{
    guest_directory_remove(directory);
}

/* One that was adopted may have none yet. */
static char *on_name_outstanding(gpointer user, GError **error)
{
    Protecting *protecting = user;
    g_autoptr(GuestRecord) record = registry_get_record(protecting->guest);

    if (!record->directory) {
        if (!launch_give_directory(protecting->context, protecting->guest, error))
            return NULL;
        g_clear_pointer(&record, guest_record_free);
        record = registry_get_record(protecting->guest);
    }
    return g_build_filename(record->directory, OUTSTANDING_NAME, NULL);
}

static char *on_name_overlays(gpointer user, GError **error)
{
    return guest_overlays_directory(((Protecting *)user)->context->settings->state_dir, error);
}

/* Whoever has the claim keeps it: only this is changed. */
static gboolean protect_forget_wish(Guest *guest, GError **error)
{
    return registry_journal_protection(guest, NULL, error);
}

static json_t *make_wish(const Protecting *protecting)
{
    return json_pack(
        "{s:s, s:s, s:i, s:b, s:i, s:s}", "standby", protecting->standby, "witness",
        protecting->options.store, "interval_ms", (int)protecting->options.checkpoint_ms,
        "copies_writes", protecting->copies_writes, "overhead_percent",
        (int)protecting->overhead_percent, "sync", checkpoint_sync_name(protecting->sync));
}

static gboolean on_note(const char *transaction, const char *path, const char *standby,
                        const char *witness_agent, gpointer user, GError **error)
{
    Protecting *protecting = user;
    TransactionLog *log = protecting->context->transactions;
    GuestRecord *record = registry_get_record(protecting->guest);
    TransactionOffer offer = {transaction, record->name, record->id, record->term + 1};

    protecting->term = record->term;
    protecting->wanted_before = record->protection != NULL;
    if (!transaction_log_begin(log, &offer, error) ||
        !transaction_log_commit(log, transaction, offer.term, error)) {
        guest_record_free(record);
        return FALSE;
    }
    record->role = GUEST_POSTCOPY;
    record->standby = TRUE;
    record->term++;
    record->transaction = g_strdup(transaction);
    record->destination = g_strdup(protecting->standby);
    record->outstanding = g_strdup(path);
    record->source_agent = g_strdup(standby);
    record->checkpoint_ms = protecting->options.checkpoint_ms;
    if (witness_agent) {
        record->store = g_strdup(protecting->options.store);
        record->store_agent = g_strdup(witness_agent);
        record->lease_ms = PROTECT_LEASE_MS;
    }
    json_decref(record->protection);
    record->protection = make_wish(protecting);
    return registry_journal_record(protecting->guest, record, error);
}

static void on_withdraw(gpointer user)
{
    Protecting *protecting = user;
    TransactionLog *log = protecting->context->transactions;
    g_autoptr(GuestRecord) record = registry_get_record(protecting->guest);
    g_autoptr(GError) problem = NULL;

    if (!record->standby)
        return;
    /* Where it was not wanted before, it is not wanted by a failed attempt. */
    if (!protecting->wanted_before)
        protect_forget_wish(protecting->guest, NULL);
    registry_journal_settled(protecting->guest, protecting->term, &problem);
    if (problem)
        log_warning("guest %s: %s", record->name, problem->message);
    if (transaction_log_withdraw(log, record->transaction, NULL))
        transaction_log_abort(log, record->transaction);
}

static gboolean on_get_channel(ChannelOptions *ret, gpointer context, GError **error)
{
    return agent_context_get_channel_options(context, ret, error);
}

/* ---- beginning ---- */

static gboolean find_port(const AgentContext *context, uint16_t *ret, GError **error)
{
    g_auto(Address) address = {0};

    if (!context->listening) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "this agent does not listen (`listen` in its agent.conf), so a standby could not "
                  "reach it");
        return FALSE;
    }
    if (!address_parse(context->listening, CHANNEL_DEFAULT_PORT, &address, error))
        return FALSE;
    *ret = address.port;
    return TRUE;
}

static PostcopyDestination *begin(Protecting *protecting, GError **error)
{
    AgentContext *context = protecting->context;
    g_autoptr(GuestRecord) record = registry_get_record(protecting->guest);
    ProtectJob job = {
        .source = {.vmm = registry_get_vmm(protecting->guest, NULL),
                   .guest = protecting->guest->name,
                   .guest_id = record->id,
                   .term = record->term,
                   .command_line = record->command_line,
                   .working_directory = record->working_directory,
                   .destination = protecting->standby,
                   .source_name = context->host_name,
                   .channel = protecting->channel,
                   .options = protecting->options,
                   .host = {.progress = on_progress,
                            .make_directory = on_make_directory,
                            .remove_directory = on_remove_directory,
                            .user = protecting}},
        .host = {.name_outstanding = on_name_outstanding,
                 .name_overlays = on_name_overlays,
                 .note = on_note,
                 .withdraw = on_withdraw,
                 .get_channel = on_get_channel,
                 .channel_user = context,
                 .user = protecting},
    };

    job.copies_writes = protecting->copies_writes;
    job.limits = (CheckpointPaceLimits){protecting->overhead_percent / 100.0, protecting->sync};
    return find_port(context, &job.port, error)
               ? protect_begin(&job, protecting->cancellable, error)
               : NULL;
}

static void set_split(Protecting *protecting, PostcopyDestination *split)
{
    lock_guard(&protecting->lock);

    protecting->split = split;
}

/* Until it is protected, or will not be: its keeper knows more. */
static gboolean await_first_epoch(Protecting *protecting, PostcopyDestination *split)
{
    CheckpointCounts counts = {0};

    set_split(protecting, split);
    while (counts.epochs == 0 && !counts.failed && !postcopy_destination_is_complete(split) &&
           !agent_context_is_stopping(protecting->context)) {
        g_autoptr(GuestRecord) record = registry_get_record(protecting->guest);

        if (protecting->guest->removed || record->role != GUEST_POSTCOPY)
            break;
        clock_sleep_ns(LOOK_NS);
        postcopy_destination_get_checkpoints(split, &counts);
        activity_note_progress(protecting->activity);
    }
    set_split(protecting, NULL);
    return counts.epochs > 0;
}

/* ---- its thread ---- */

/* What came of its disks. */
static json_t *describe_disks(Protecting *protecting)
{
    lock_guard(&protecting->lock);

    return json_pack("{s:I, s:I, s:I}", "disk_bytes", (json_int_t)protecting->progress.disk_bytes,
                     "disk_same_bytes", (json_int_t)protecting->progress.disk_same_bytes,
                     "disk_wire_bytes", (json_int_t)protecting->progress.disk_wire_bytes);
}

static json_t *make_report(Protecting *protecting, const char *status, const char *problem)
{
    json_t *report = json_pack(
        "{s:s, s:s, s:s?, s:s?}", "status", status, "standby", protecting->standby, "witness",
        *protecting->options.store ? protecting->options.store : NULL, "error", problem);
    g_autoptr(json_t) disks = describe_disks(protecting);

    json_object_update(report, disks);
    return report;
}

static void finish_failed(Protecting *protecting, const GError *error)
{
    g_autofree char *text =
        g_strdup_printf("guest %s: %s", protecting->guest->name, error->message);
    gboolean cancelled = error_is(error, VMFERRY_ERROR_CANCELLED);

    event_log_add(protecting->context->events, protecting->guest->name,
                  cancelled ? "cancelled" : "not-protected", NULL, "is not protected by %s: %s",
                  protecting->standby, error->message);
    watch_release_from_activity(protecting->context, protecting->guest);
    activity_finish(protecting->activity,
                    make_report(protecting, cancelled ? "cancelled" : "failed", text));
}

typedef struct {
    AgentContext *context;
    Guest *guest;
    PostcopyDestination *split;
} Keeping;

/* With the claim, which it gives back. */
static gpointer keep_thread(gpointer data)
{
    g_autofree Keeping *keeping = data;
    g_autoptr(Guest) guest = keeping->guest;
    g_autoptr(PostcopyDestination) split = keeping->split;
    AgentContext *context = keeping->context;
    g_autoptr(GuestRecord) record = NULL;

    if (postcopy_keep(context, guest, split) != POSTCOPY_KEPT_WHOLE)
        return NULL;
    record = registry_get_record(guest);
    if (record->role == GUEST_OURS)
        watch_release(context, guest);
    else
        recovery_start(context, guest);
    return NULL;
}

static void keep(Protecting *protecting, PostcopyDestination *split)
{
    Keeping *keeping = g_new(Keeping, 1);

    *keeping = (Keeping){protecting->context, guest_ref(protecting->guest),
                         postcopy_destination_ref(split)};
    agent_context_spawn_surely(protecting->context, "keep", keep_thread, keeping);
}

static gpointer protect_thread(gpointer data)
{
    Protecting *protecting = data;
    g_autoptr(Activity) activity = protecting->activity; /* the thread's reference */
    g_autoptr(GError) error = NULL;
    g_autoptr(PostcopyDestination) split = begin(protecting, &error);
    gboolean protected;

    if (!split) {
        finish_failed(protecting, error);
        return NULL;
    }
    postcopy_publish(protecting->context, protecting->guest, split);
    postcopy_show(protecting->guest, split);
    keep(protecting, split);
    protected = await_first_epoch(protecting, split);
    if (protected)
        event_log_add(protecting->context->events, protecting->guest->name, "protected",
                      describe_disks(protecting), "is protected by %s, which has all of it now",
                      protecting->standby);
    activity_finish(activity, make_report(protecting, protected ? "protected" : "failed",
                                          protected ? NULL
                                                    : "its standby has no epoch of it yet; see its "
                                                      "events"));
    return NULL;
}

static Protecting *protecting_new(AgentContext *context, Guest *guest,
                                  const ProtectRequest *request, const ChannelOptions *channel)
{
    Protecting *protecting = g_new0(Protecting, 1);

    g_mutex_init(&protecting->lock);
    protecting->context = context;
    protecting->guest = guest_ref(guest);
    protecting->standby = g_strdup(request->standby);
    protecting->options = *request->options;
    protecting->copies_writes = request->copies_writes;
    protecting->overhead_percent = request->overhead_percent;
    protecting->sync = request->sync;
    /* As GUEST says it (source_encode_guest()): it is split, and loses nothing. */
    protecting->options.mode = MIGRATE_MODE_POSTCOPY;
    protecting->options.safety = MIGRATE_SAFETY_FULL;
    protecting->options.trust_images = TRUE; /* each is copied, or the very same file */
    protecting->options.keep_source = TRUE;
    protecting->channel = *channel;
    protecting->cancellable = g_cancellable_new();
    protecting->activity = activity_new(&kind, guest->name, protecting);
    return protecting;
}

Activity *protect_start(AgentContext *context, const char *name, const ProtectRequest *request,
                        GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    g_autoptr(Activity) activity = NULL;
    ChannelOptions channel;
    Protecting *protecting;

    if (!guest || !registry_check_leaving(guest, error) ||
        !agent_context_get_channel_options(context, &channel, error) ||
        !registry_claim(guest, GUEST_OURS, "protect", error))
        return NULL;
    protecting = protecting_new(context, guest, request, &channel);
    activity = protecting->activity;
    registry_set_activity(guest, activity);
    if (agent_context_is_stopping(context))
        activity_cancel(activity);
    event_log_add(context->events, name, "protecting", NULL, "begins to be protected by %s",
                  request->standby);
    activity_ref(activity); /* the thread's */
    if (agent_context_spawn(context, "protect", protect_thread, protecting, error))
        return g_steal_pointer(&activity);
    activity_unref(activity);
    watch_release_from_activity(context, guest);
    return NULL;
}

/* ---- its end ---- */

static gboolean is_ended(gpointer user)
{
    const Guest *guest = user;

    return guest->removed || (guest->record->role != GUEST_POSTCOPY && !guest->claim);
}

static gboolean await_ended(AgentContext *context, Guest *guest, GError **error)
{
    gint64 until = g_get_monotonic_time() + END_TIMEOUT_MS * G_TIME_SPAN_MILLISECOND;
    g_autofree char *problem = NULL;

    if (registry_await(context->registry, until, is_ended, guest))
        return TRUE;
    problem = registry_get_problem(guest);
    error_set(error, VMFERRY_ERROR_TIMEOUT, "guest %s is not done yet%s%s; see `vmferry status %s`",
              guest->name, problem ? ": " : "", problem ? problem : "", guest->name);
    return FALSE;
}

static Guest *find_protected(AgentContext *context, const char *name, GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    g_autoptr(GuestRecord) record = guest ? registry_get_record(guest) : NULL;

    if (!guest)
        return NULL;
    if (record->standby && record->role == GUEST_POSTCOPY)
        return g_steal_pointer(&guest);
    if (record->standby)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "guest %s runs on %s, and this host stands by for it: say that there", name,
                  record->destination);
    else
        error_set(error, VMFERRY_ERROR_REFUSED, "guest %s is not protected", name);
    return NULL;
}

/* One whose standby is gone is not to be protected again. */
static gboolean end_wish(AgentContext *context, const char *name, gboolean *ret_ended,
                         GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    g_autoptr(GuestRecord) record = guest ? registry_get_record(guest) : NULL;

    *ret_ended = FALSE;
    if (!guest || !record->protection)
        return guest != NULL;
    *ret_ended = record->role == GUEST_OURS;
    return protect_forget_wish(guest, error);
}

gboolean protect_end(AgentContext *context, const char *name, gboolean force, GError **error)
{
    g_autoptr(Guest) guest = NULL;
    gboolean ended;

    if (!end_wish(context, name, &ended, error))
        return FALSE;
    if (ended)
        return TRUE;
    guest = find_protected(context, name, error);
    return guest && postcopy_end_standby(context, guest, force, error) &&
           await_ended(context, guest, error);
}

gboolean protect_fail_over(AgentContext *context, const char *name, GError **error)
{
    g_autoptr(Guest) guest = find_protected(context, name, error);

    return guest && postcopy_fail_over(context, guest, error) && await_ended(context, guest, error);
}

#include "agent/postcopy.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "agent/directory.h"
#include "agent/postcopy_alone.h"
#include "agent/postcopy_fetcher.h"
#include "agent/watch.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/page.h"
#include "base/process.h"
#include "migrate/epoch_writes.h"
#include "migrate/postcopy_protection.h"
#include "migrate/witness_open.h"
#include "protect/held_output.h"

#define KEEP_SLICE_MS 100
#define STOP_TIMEOUT_MS 10000
/* A source that connects anew is there again by then. */
#define ABSENT_MS 2000u
#define LOOK_NS 20000000ULL
/* From then on its users are told that its standby does not answer. */
#define SILENT_MS 2000u

struct PostcopyTable {
    GMutex lock;
    GHashTable *by_transaction; /* of Entry */
};

typedef struct {
    Guest *guest;
    PostcopyDestination *split;
    gboolean stopped;    /* its end was asked for */
    gboolean superseded; /* its source has gone on with it */
} Entry;

/* The split guest's host. */
typedef struct {
    AgentContext *context;
    Guest *guest;
} Owner;

static void entry_free(gpointer data)
{
    Entry *entry = data;

    guest_unref(entry->guest);
    postcopy_destination_unref(entry->split);
    g_free(entry);
}

static void owner_free(gpointer data)
{
    Owner *owner = data;

    guest_unref(owner->guest);
    g_free(owner);
}

PostcopyTable *postcopy_table_new(void)
{
    PostcopyTable *table = g_new0(PostcopyTable, 1);

    g_mutex_init(&table->lock);
    table->by_transaction = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, entry_free);
    return table;
}

void postcopy_table_free(PostcopyTable *table)
{
    if (!table)
        return;
    g_hash_table_unref(table->by_transaction);
    g_mutex_clear(&table->lock);
    g_free(table);
}

/* ---- all of its memory has come ---- */

static json_t *describe_checkpoints(const CheckpointCounts *counts)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:b}", "epochs",
        (json_int_t)counts->epochs, "pages", (json_int_t)counts->pages, "segments",
        (json_int_t)counts->segments, "ahead", (json_int_t)counts->ahead, "bytes",
        (json_int_t)counts->bytes, "disk_bytes", (json_int_t)counts->disk_bytes, "disk_found_bytes",
        (json_int_t)counts->disk_found_bytes, "disk_sent_bytes",
        (json_int_t)counts->disk_sent_bytes, "pause_p50_ms", counts->p50_pause_ms, "pause_p99_ms",
        counts->p99_pause_ms, "pause_max_ms", counts->max_pause_ms, "pause_ms", counts->pause_ms,
        "age_ms", counts->age_ms, "failed", counts->failed);
}

static void describe_whole(const Guest *guest, const FaultServiceCounts *counts,
                           const CheckpointCounts *checkpoints, EventLog *events)
{
    json_t *data = json_pack(
        "{s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "faults", (json_int_t)counts->faults, "zero_faults",
        (json_int_t)counts->zero_faults, "discarded", (json_int_t)counts->discarded, "placed",
        (json_int_t)counts->placed, "fault_p50_ms", counts->p50_ms, "fault_p99_ms", counts->p99_ms,
        "fault_max_ms", counts->max_ms);

    if (checkpoints)
        json_object_set_new(data, "checkpoints", describe_checkpoints(checkpoints));
    event_log_add(events, guest->name, "whole", data,
                  "has all of its memory: %" PRIu64 " pages came after it, %" PRIu64
                  " of them waited for (half of these within %.2f ms)",
                  counts->placed, counts->faults, counts->p50_ms);
}

static void journal_whole(Guest *guest)
{
    g_autoptr(GError) problem = NULL;

    registry_journal_whole(guest, &problem);
    if (problem)
        log_warning("guest %s: %s", guest->name, problem->message);
}

/* PostcopyDestinationHost. */
static void on_whole(const FaultServiceCounts *counts, const CheckpointCounts *checkpoints,
                     gpointer user)
{
    Owner *owner = user;
    g_autoptr(GuestRecord) record = registry_get_record(owner->guest);

    transaction_log_note_whole(owner->context->transactions, record->transaction);
    journal_whole(owner->guest);
    describe_whole(owner->guest, counts, checkpoints, owner->context->events);
    postcopy_fetcher_drop(owner->context, record);
}

/* PostcopyDestinationHost. */
static void on_source_lost(const GError *why, gpointer user)
{
    Owner *owner = user;
    g_autoptr(GuestRecord) record = registry_get_record(owner->guest);

    if (record->standby) {
        event_log_add(
            owner->context->events, owner->guest->name, "standby-lost", NULL,
            "its standby %s stands by no more: %s; it runs on, and the end of this host is "
            "not survived until it is protected again",
            record->destination, why->message);
        return;
    }
    if (record->store && !witness_address_is_foreign(record->store)) {
        event_log_add(owner->context->events, owner->guest->name, "source-lost", NULL,
                      "its process at its source has ended; the store %s has its pages",
                      record->store);
        return;
    }
    registry_set_problem(owner->guest, why->message);
    event_log_add(owner->context->events, owner->guest->name, "memory-lost", NULL, "%s",
                  why->message);
}

/* ---- the table ---- */

void postcopy_publish(AgentContext *context, Guest *guest, PostcopyDestination *split)
{
    PostcopyTable *table = context->splits;
    Entry *entry = g_new(Entry, 1);
    Owner *owner = g_new(Owner, 1);

    *entry = (Entry){guest_ref(guest), postcopy_destination_ref(split), FALSE, FALSE};
    *owner = (Owner){context, guest_ref(guest)};
    postcopy_destination_set_host(
        split, &(PostcopyDestinationHost){on_whole, on_source_lost, owner_free, owner});
    g_mutex_lock(&table->lock);
    g_hash_table_replace(table->by_transaction,
                         g_strdup(postcopy_destination_get_transaction(split)), entry);
    g_mutex_unlock(&table->lock);
}

void postcopy_withdraw(AgentContext *context, PostcopyDestination *split)
{
    PostcopyTable *table = context->splits;
    lock_guard(&table->lock);

    g_hash_table_remove(table->by_transaction, postcopy_destination_get_transaction(split));
}

static gboolean check_source(const GuestRecord *record, const ResolveMessage *question,
                             const char *agent, GError **error)
{
    if (!agent || g_strcmp0(record->source_agent, agent) != 0)
        error_set(error, VMFERRY_ERROR_REFUSED, "guest %s has its memory from another agent",
                  record->name);
    else if (strcmp(record->id, question->guest_id) != 0 || record->term != question->term)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "transaction %s is of another guest, or of another term", question->transaction);
    else
        return TRUE;
    return FALSE;
}

/* --- a copy that its source has taken over ---- */

static gboolean is_superseded(const GuestRecord *record, const ResolveMessage *question,
                              const char *agent)
{
    return agent && g_strcmp0(record->source_agent, agent) == 0 &&
           strcmp(record->id, question->guest_id) == 0 && question->term > record->term;
}

/* What it has written, and nobody was told of. */
static void remove_overlays(AgentContext *context, const char *transaction)
{
    g_autofree char *directory = guest_overlays_directory(context->settings->state_dir, NULL);
    EpochWritesPlace place = {.transaction = transaction, .directory = directory};

    if (directory)
        epoch_writes_remove(&place);
}

/* With the lock held.  Not through QMP: it may stand still, and its process, too.  Who keeps it does the
 * rest. */
static void end_superseded(AgentContext *context, Entry *entry, const GuestRecord *record)
{
    g_autoptr(GError) problem = NULL;

    if (!entry->superseded)
        event_log_add(
            context->events, record->name, "superseded", NULL,
            "its source has taken it over, and goes on without what it has done here since: "
            "this copy is ended");
    entry->superseded = TRUE;
    if (!process_kill(record->pid, record->start_time, SIGKILL, &problem))
        log_debug("guest %s: %s", record->name, problem->message);
}

/* TRUE where the question tells that the guest is its source's again.  A copy that is not kept any more
 * may have left something. */
static gboolean take_notice(AgentContext *context, const ResolveMessage *question,
                            const char *agent)
{
    PostcopyTable *table = context->splits;
    lock_guard(&table->lock);
    Entry *entry = g_hash_table_lookup(table->by_transaction, question->transaction);
    g_autoptr(GuestRecord) record = entry ? registry_get_record(entry->guest) : NULL;

    if (!entry || !is_superseded(record, question, agent))
        return FALSE;
    end_superseded(context, entry, record);
    return TRUE;
}

static PostcopyDestination *look_up(PostcopyTable *table, const ResolveMessage *question,
                                    const char *agent, gboolean *ret_known, GError **error)
{
    lock_guard(&table->lock);
    Entry *entry = g_hash_table_lookup(table->by_transaction, question->transaction);
    g_autoptr(GuestRecord) record = entry ? registry_get_record(entry->guest) : NULL;

    *ret_known = entry != NULL;
    if (!entry || !check_source(record, question, agent, error))
        return NULL;
    return postcopy_destination_ref(entry->split);
}

/* Its move, or its recovery, may not have got so far. */
static gboolean may_come(const GuestRecord *record, const ResolveMessage *question)
{
    return (record->role == GUEST_INCOMING || record->role == GUEST_POSTCOPY) &&
           g_strcmp0(record->transaction, question->transaction) == 0;
}

/* It is ours, with that term or since: whatever the transaction's record could keep. */
static gboolean is_here(const GuestRecord *record, const ResolveMessage *question)
{
    return record->role == GUEST_OURS && strcmp(record->id, question->guest_id) == 0 &&
           record->term >= question->term;
}

static gboolean is_any(AgentContext *context, const ResolveMessage *question,
                       gboolean (*matches)(const GuestRecord *, const ResolveMessage *))
{
    g_autoptr(GPtrArray) guests = registry_list(context->registry);

    for (guint i = 0; i < guests->len; i++) {
        g_autoptr(GuestRecord) record = registry_get_record(guests->pdata[i]);

        if (matches(record, question))
            return TRUE;
    }
    return FALSE;
}

PostcopyDestination *postcopy_find(AgentContext *context, const ResolveMessage *question,
                                   const char *agent, gboolean *ret_complete, GError **error)
{
    const char *transaction = question->transaction;
    PostcopyDestination *split;
    gboolean known;

    *ret_complete = FALSE;
    if (take_notice(context, question, agent)) {
        error_set(error, VMFERRY_ERROR_BUSY, "the copy of the guest on host %s is being ended",
                  context->host_name);
        return NULL;
    }
    split = look_up(context->splits, question, agent, &known, error);
    if (known)
        return split;
    if (transaction_log_is_whole(context->transactions, transaction) ||
        is_any(context, question, is_here))
        *ret_complete = TRUE;
    else if (is_any(context, question, may_come))
        error_set(error, VMFERRY_ERROR_BUSY, "the guest is not ready for its pages yet");
    else if (transaction_log_is_alone(context->transactions, transaction))
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the guest had gone on alone on host %s, and has ended there: "
                  "what its source has is older than what others have seen",
                  context->host_name);
    else if (transaction_log_is_committed(context->transactions, transaction) &&
             state_store_has_rejected(context->store, STORE_GUEST))
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "host %s has a guest's record that it cannot read (guests/*.bad in its state "
                  "directory): it may be of the guest of transaction %s",
                  context->host_name, transaction);
    else if (transaction_log_is_superseded(context->transactions, question))
        remove_overlays(context, transaction);
    if (!*ret_complete && error && !*error)
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "the guest of transaction %s is not on host %s (any more)", transaction,
                  context->host_name);
    return NULL;
}

/* ---- keeping one ---- */

/* What the witness has on record, and whether the guest stands still for want of a lease. */
static void describe_leases(PostcopyDestination *split, json_t *progress)
{
    SplitLeases *leases = postcopy_destination_get_leases(split);
    const char *state = leases ? split_leases_get_state_name(leases) : NULL;

    if (!leases)
        return;
    json_object_set_new(progress, "witness", json_string(state ? state : "unknown"));
    json_object_set_new(progress, "held", json_boolean(split_leases_are_held(leases)));
    json_object_set_new(progress, "alone", json_boolean(postcopy_destination_is_alone(split)));
}

static json_t *get_progress(gpointer user)
{
    uint64_t pages = postcopy_destination_count_outstanding(user);
    uint64_t uncovered = postcopy_destination_count_uncovered(user);
    gboolean stood_by = postcopy_destination_is_stood_by(user);
    json_t *progress = json_pack("{s:s, s:I, s:I}", "phase", stood_by ? "protected" : "postcopy",
                                 "outstanding_bytes", (json_int_t)pages * (json_int_t)PAGE_BYTES,
                                 "uncovered_bytes", (json_int_t)uncovered * (json_int_t)PAGE_BYTES);
    CheckpointCounts counts;
    gboolean protected = postcopy_destination_get_checkpoints(user, &counts);

    json_object_set_new(progress, "safety", json_string(protected ? "full" : "network"));
    if (stood_by)
        json_object_set_new(progress, "standby_connected",
                            json_boolean(postcopy_destination_has_source(user)));
    if (protected)
        json_object_set_new(progress, "checkpoints", describe_checkpoints(&counts));
    describe_leases(user, progress);
    return progress;
}

static void drop_split(gpointer user)
{
    postcopy_destination_unref(user);
}

static const ActivityKind kind = {
    .kind = "postcopy",
    .state = "postcopy",
    .get_progress = get_progress,
    .free = drop_split,
};

/* It lacks nothing, and is stood by for. */
static const ActivityKind protection_kind = {
    .kind = "protection",
    .state = "protected",
    .get_progress = get_progress,
    .free = drop_split,
};

static gboolean was_stopped(PostcopyTable *table, const char *transaction)
{
    lock_guard(&table->lock);
    const Entry *entry = g_hash_table_lookup(table->by_transaction, transaction);

    return entry && entry->stopped;
}

static gboolean was_superseded(PostcopyTable *table, const char *transaction)
{
    lock_guard(&table->lock);
    const Entry *entry = g_hash_table_lookup(table->by_transaction, transaction);

    return entry && entry->superseded;
}

static gboolean is_gone(Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);

    return !process_is_same(record->pid, record->start_time);
}

static gboolean is_protected(PostcopyDestination *split)
{
    CheckpointCounts counts;

    return postcopy_destination_get_checkpoints(split, &counts);
}

/* A guest that shut down, or was stopped, needs nothing any more; of one that died the source is to know. */
static void tell_end(AgentContext *context, Guest *guest, PostcopyDestination *split)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autoptr(GError) reason = NULL;
    Vmm *vmm = registry_get_vmm(guest, NULL);
    VmferryErrorCode code;

    /* What a protected one had written is here only in part: its source has the rest. */
    if (!is_protected(split) &&
        ((vmm && vmm_was_shut_down(vmm)) || was_stopped(context->splits, record->transaction))) {
        transaction_log_note_whole(context->transactions, record->transaction);
        postcopy_withdraw(context, split);
        postcopy_destination_cut(split, NULL);
        return;
    }
    if (was_superseded(context->splits, record->transaction)) {
        postcopy_destination_discard(split, NULL);
        remove_overlays(context, record->transaction);
        return;
    }
    /* What was done here alone is nowhere else: its source is not told that it may go on. */
    code = transaction_log_is_alone(context->transactions, record->transaction)
               ? VMFERRY_ERROR_REFUSED
               : VMFERRY_ERROR_NOT_FOUND;
    if (record->standby)
        error_set(&reason, code, "the guest's process on host %s has ended", context->host_name);
    else
        error_set(&reason, code,
                  "the guest's process on host %s has ended while %" PRIu64
                  " pages of its memory were not there yet",
                  context->host_name, postcopy_destination_count_outstanding(split));
    event_log_add(context->events, guest->name, "lost", NULL, "%s", reason->message);
    /* First: a source that connects anew at once must not be told that all has come. */
    postcopy_withdraw(context, split);
    postcopy_destination_cut(split, reason);
}

/* The process of a protected guest stays for that: its disks are to be put in order. */
static gboolean has_shut_down(Guest *guest, PostcopyDestination *split)
{
    Vmm *vmm = is_protected(split) ? registry_get_vmm(guest, NULL) : NULL;

    return vmm && vmm_was_shut_down(vmm);
}

static PostcopyKept end_shut_down(Guest *guest)
{
    g_autoptr(GError) problem = NULL;

    if (!vmm_quit(registry_get_vmm(guest, NULL), &problem))
        log_warning("guest %s: %s", guest->name, problem->message);
    return POSTCOPY_KEPT_GONE;
}

/* That may have been decided before the agent was restarted. */
static gboolean is_alone(AgentContext *context, PostcopyDestination *split)
{
    return transaction_log_is_alone(context->transactions,
                                    postcopy_destination_get_transaction(split));
}

/* ---- one whose standby does not answer ---- */

typedef enum {
    ANSWERED,       /* or it is not one that is stood by for */
    UNHEARD,        /* what it sends waits: for the standby, or for its user … */
    ASKS_WITNESS,   /* … or for the witness */
    STANDING_STILL, /* the witness does not answer either */
} Silence;

static Silence get_silence(PostcopyDestination *split, const GuestRecord *record)
{
    SplitLeases *leases = postcopy_destination_get_leases(split);

    if (!record->standby || postcopy_destination_is_alone(split) ||
        postcopy_destination_get_source_idle_ms(split) < SILENT_MS)
        return ANSWERED;
    if (!leases)
        return UNHEARD;
    return split_leases_are_held(leases) ? STANDING_STILL : ASKS_WITNESS;
}

static char *describe_silence(const GuestRecord *record, Silence silence)
{
    switch (silence) {
    case UNHEARD:
        return g_strdup_printf(
            "its standby %s does not answer, and what the guest sends waits; there is no witness: "
            "where it is known that it does not go on there, `vmferry unprotect %s --force`",
            record->destination, record->name);
    case ASKS_WITNESS:
        return g_strdup_printf("its standby %s does not answer, and what the guest sends waits "
                               "until the witness %s lets it go on alone",
                               record->destination, record->store);
    case STANDING_STILL:
        return g_strdup_printf(
            "it stands still: neither its standby %s nor the witness %s answers, so this host may "
            "be "
            "cut off, and the guest run elsewhere; it goes on as soon as one of them answers",
            record->destination, record->store);
    default:
        return NULL;
    }
}

static void show_silence(Guest *guest, PostcopyDestination *split, Silence *shown)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    Silence silence = get_silence(split, record);
    g_autofree char *text = NULL;

    if (silence == *shown)
        return;
    text = describe_silence(record, silence);
    registry_set_problem(guest, text);
    if (text)
        log_warning("guest %s: %s", guest->name, text);
    *shown = silence;
}

static PostcopyKept await_end(AgentContext *context, Guest *guest, PostcopyDestination *split)
{
    PostcopyAlone alone = {0};
    Silence shown = ANSWERED;

    while (!postcopy_destination_await(split, KEEP_SLICE_MS)) {
        postcopy_alone_look(&alone, context, guest, split);
        show_silence(guest, split, &shown);
        if (is_gone(guest)) {
            tell_end(context, guest, split);
            return POSTCOPY_KEPT_GONE;
        }
        if (has_shut_down(guest, split))
            postcopy_destination_forgo_pages(split);
        if (is_alone(context, split))
            postcopy_destination_go_alone(split, NULL);
        if (agent_context_is_stopping(context)) {
            postcopy_destination_cut(split, NULL);
            return POSTCOPY_KEPT_STOPPING;
        }
        registry_wake(context->registry);
    }
    if (shown != ANSWERED)
        registry_set_problem(guest, NULL);
    if (is_protected(split) &&
        (has_shut_down(guest, split) || postcopy_destination_are_pages_forgone(split) ||
         was_stopped(context->splits, postcopy_destination_get_transaction(split))))
        return end_shut_down(guest);
    return POSTCOPY_KEPT_WHOLE;
}

void postcopy_show(Guest *guest, PostcopyDestination *split)
{
    const ActivityKind *shown = postcopy_destination_is_stood_by(split) ? &protection_kind : &kind;
    g_autoptr(Activity) activity =
        activity_new(shown, guest->name, postcopy_destination_ref(split));

    registry_set_activity(guest, activity);
}

static void end_activity(Guest *guest, PostcopyKept kept)
{
    static const char *const names[] = {
        [POSTCOPY_KEPT_WHOLE] = "completed",
        [POSTCOPY_KEPT_GONE] = "ended",
        [POSTCOPY_KEPT_STOPPING] = "interrupted",
    };
    g_autoptr(Activity) activity = registry_get_activity(guest);

    registry_set_activity(guest, NULL);
    if (activity)
        activity_finish(activity, json_pack("{s:s}", "status", names[kept]));
}

PostcopyKept postcopy_keep(AgentContext *context, Guest *guest, PostcopyDestination *split)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    PostcopyFetcher *fetcher = postcopy_fetcher_start(context, guest, split);
    PostcopyKept kept = await_end(context, guest, split);

    postcopy_fetcher_end(fetcher);
    /* Its VMM may be freed from here on.  No session may be using it, nor begin to. */
    if (kept != POSTCOPY_KEPT_WHOLE) {
        postcopy_withdraw(context, split);
        postcopy_destination_cut(split, NULL);
        postcopy_destination_detach(split);
    }
    if (kept == POSTCOPY_KEPT_GONE)
        postcopy_fetcher_drop(context, record);
    if (kept == POSTCOPY_KEPT_WHOLE)
        postcopy_alone_end(context, split);
    end_activity(guest, kept);
    postcopy_withdraw(context, split);
    if (kept == POSTCOPY_KEPT_GONE)
        watch_remove_dead(context, guest);
    return kept;
}

/* ---- what one has written that is no more ---- */

/* A host that was restarted does not know it any more. */
static gboolean may_have_passed(const GuestRecord *record)
{
    return record->role == GUEST_POSTCOPY && record->outstanding &&
           (access(record->outstanding, F_OK) < 0 ||
            postcopy_protection_had_passed(record->outstanding) ||
            postcopy_destination_are_writes_last(record->outstanding));
}

static void say_kept(AgentContext *context, const GuestRecord *record, GPtrArray *files)
{
    g_autofree char *names = NULL;

    g_ptr_array_add(files, NULL);
    names = g_strjoinv(", ", (char **)files->pdata);
    event_log_add(context->events, record->name, "writes-kept", NULL,
                  "its process has ended before what it had written here was part of its disks' "
                  "images: that is in %s (`qemu-img rebase -u -b IMAGE -F FORMAT FILE` and "
                  "`qemu-img commit FILE` for each, in the order of its disks)",
                  names);
}

void postcopy_drop_writes(AgentContext *context, Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autofree char *overlays = NULL;
    g_autoptr(GPtrArray) files = NULL;
    EpochWritesPlace place;

    if (record->checkpoint_ms == 0 || !record->transaction)
        return;
    held_output_sweep();
    overlays = guest_overlays_directory(context->settings->state_dir, NULL);
    if (!overlays)
        return;
    place = (EpochWritesPlace){.transaction = record->transaction, .directory = overlays};
    files = epoch_writes_list_files(&place);
    if (files->len > 0 && may_have_passed(record))
        say_kept(context, record, files);
    else
        epoch_writes_remove(&place);
}

/* ---- stopping one ---- */

/* FALSE: it is not kept here.  *stopped*: that it is to end. */
static gboolean mark(AgentContext *context, const GuestRecord *record, gboolean stopped)
{
    PostcopyTable *table = context->splits;
    lock_guard(&table->lock);
    Entry *entry = record->transaction
                       ? g_hash_table_lookup(table->by_transaction, record->transaction)
                       : NULL;

    if (entry)
        entry->stopped = entry->stopped || stopped;
    return entry != NULL;
}

gboolean postcopy_has(AgentContext *context, Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);

    return mark(context, record, FALSE);
}

static gboolean is_removed(gpointer user)
{
    return ((const Guest *)user)->removed;
}

/* Its disks are put in order first, for which its source must be told. */
static gboolean end_protected(Guest *guest, PostcopyDestination *split, GError **error)
{
    Vmm *vmm = registry_get_vmm(guest, error);

    if (!vmm)
        return FALSE;
    postcopy_destination_end_checkpoints(split);
    if (!vmm_pause(vmm, NULL, error))
        return FALSE;
    postcopy_destination_forgo_pages(split);
    return TRUE;
}

/* Its VMM does not answer, perhaps for want of a page.  Where nobody is there to bring that, it is ended
 * all the same; its overlays stay. */
static gboolean end_split(Guest *guest, const GuestRecord *record, PostcopyDestination *split,
                          GError **error)
{
    gboolean had_source = postcopy_destination_has_source(split);
    g_autoptr(GError) problem = NULL;

    if (end_protected(guest, split, &problem))
        return TRUE;
    if (had_source || postcopy_destination_has_source(split)) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return FALSE;
    }
    log_warning("guest %s: %s; its source is not there, so its process is killed", record->name,
                problem->message);
    postcopy_destination_note_writes_last(split);
    return process_kill(record->pid, record->start_time, SIGKILL, error);
}

static PostcopyDestination *find_protected(PostcopyTable *table, const char *transaction)
{
    lock_guard(&table->lock);
    const Entry *entry = g_hash_table_lookup(table->by_transaction, transaction);

    return entry && is_protected(entry->split) ? postcopy_destination_ref(entry->split) : NULL;
}

/* An operator may have seen it in the moment in which it connects anew: that decides nothing. */
static gboolean is_absent(PostcopyDestination *split)
{
    while (!postcopy_destination_has_source(split)) {
        if (postcopy_destination_get_source_idle_ms(split) >= ABSENT_MS)
            return TRUE;
        clock_sleep_ns(LOOK_NS);
    }
    return FALSE;
}

/* Where there is a witness nobody decides against it. */
static gboolean may_go_alone(PostcopyDestination *split, GError **error)
{
    SplitLeases *leases = postcopy_destination_get_leases(split);

    return !leases || postcopy_destination_is_alone(split) || split_leases_claim(leases, error);
}

gboolean postcopy_go_alone(AgentContext *context, Guest *guest, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autoptr(PostcopyDestination) split =
        record->transaction ? find_protected(context->splits, record->transaction) : NULL;

    if (split && record->role != GUEST_POSTCOPY)
        error_set(error, VMFERRY_ERROR_BUSY, "guest %s is not seen to run yet; try again",
                  guest->name);
    else if (split && !is_absent(split))
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the %s of guest %s answers: nothing is to be decided",
                  record->standby ? "standby" : "source", guest->name);
    else if (split)
        return may_go_alone(split, error) &&
               transaction_log_note_alone(context->transactions, record->transaction, error) &&
               postcopy_destination_go_alone(split, error);
    else
        error_set(error, VMFERRY_ERROR_REFUSED, "guest %s is not in doubt", guest->name);
    return FALSE;
}

/* ---- one that is stood by for ---- */

static gboolean go_on_alone(AgentContext *context, const GuestRecord *record,
                            PostcopyDestination *split, GError **error)
{
    return may_go_alone(split, error) &&
           transaction_log_note_alone(context->transactions, record->transaction, error) &&
           postcopy_destination_go_alone(split, error);
}

gboolean postcopy_end_standby(AgentContext *context, Guest *guest, gboolean force, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autoptr(PostcopyDestination) split =
        record->transaction ? find_protected(context->splits, record->transaction) : NULL;

    if (!split) {
        error_set(error, VMFERRY_ERROR_BUSY,
                  "guest %s is just beginning, or ending, to be "
                  "protected; try again",
                  guest->name);
        return FALSE;
    }
    if (is_absent(split)) {
        if (!force && !postcopy_destination_get_leases(split)) {
            error_set(error, VMFERRY_ERROR_REFUSED,
                      "the standby %s of guest %s does not answer, and there is no witness: make "
                      "sure that it does not go on with it there, then --force",
                      record->destination, guest->name);
            return FALSE;
        }
        if (!go_on_alone(context, record, split, error))
            return FALSE;
    }
    if (postcopy_destination_end_standby(split))
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "guest %s fails over to %s", guest->name,
              record->destination);
    return FALSE;
}

static gboolean end_for_failover(const GuestRecord *record, PostcopyDestination *split,
                                 GError **error)
{
    if (process_kill(record->pid, record->start_time, SIGKILL, error))
        return TRUE;
    postcopy_destination_drop_failover(split);
    return FALSE;
}

gboolean postcopy_fail_over(AgentContext *context, Guest *guest, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autoptr(PostcopyDestination) split =
        record->transaction ? find_protected(context->splits, record->transaction) : NULL;
    CheckpointCounts counts = {0};

    if (split)
        postcopy_destination_get_checkpoints(split, &counts);
    if (!split || counts.epochs == 0 || !postcopy_destination_has_source(split)) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the standby %s of guest %s %s: it could not go on with it", record->destination,
                  guest->name,
                  split && counts.epochs > 0 ? "does not answer" : "has no epoch of it yet");
        return FALSE;
    }
    if (!postcopy_destination_begin_failover(split)) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "guest %s is not protected any more, or fails over already", guest->name);
        return FALSE;
    }
    event_log_add(context->events, guest->name, "failing-over", NULL,
                  "its process here is ended, so that %s goes on with it", record->destination);
    return end_for_failover(record, split, error);
}

/* Not through QMP, which may itself wait for a page. */
gboolean postcopy_stop(AgentContext *context, Guest *guest, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autoptr(PostcopyDestination) protected = NULL;
    gint64 until;

    if (!mark(context, record, TRUE)) {
        error_set(error, VMFERRY_ERROR_BUSY, "all memory of guest %s has just come; try again",
                  guest->name);
        return FALSE;
    }
    protected = find_protected(context->splits, record->transaction);
    if (protected ? !end_split(guest, record, protected, error)
                  : !process_kill(record->pid, record->start_time, SIGKILL, error))
        return FALSE;
    until = g_get_monotonic_time() + STOP_TIMEOUT_MS * G_TIME_SPAN_MILLISECOND;
    if (registry_await(context->registry, until, is_removed, guest))
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "guest %s does not end", guest->name);
    return FALSE;
}

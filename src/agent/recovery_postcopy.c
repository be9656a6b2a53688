#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include "agent/directory.h"
#include "agent/postcopy.h"
#include "agent/postcopy_fetcher.h"
#include "agent/recovery_private.h"
#include "base/error.h"
#include "base/log.h"
#include "base/process.h"
#include "migrate/kept_writes.h"
#include "migrate/postcopy_source.h"
#include "migrate/protect.h"
#include "migrate/source.h"
#include "transfer/guest_pages.h"

#define START_PAUSE_MS 200
#define KILL_TIMEOUT_MS 10000

static gboolean has_ended(gpointer user)
{
    Recovery *recovery = user;
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);

    return !process_is_same(record->pid, record->start_time);
}

/* ---- the destination ---- */

static gboolean get_witness_channel(ChannelOptions *ret, gpointer context, GError **error)
{
    return agent_context_get_channel_options(context, ret, error);
}

/* Before its VMM is spoken to: its process may have been stopped when the last lease ended. */
static gboolean restart_leases(Recovery *recovery, const GuestRecord *record,
                               PostcopyDestination *split, GError **error)
{
    SplitLeasesOptions options = {
        .witness = record->store,
        .agent = record->store_agent,
        .lease_ms = record->lease_ms,
        .shortest_ms = record->standby ? PROTECT_SHORTEST_LEASE_MS : 0,
        .get_channel = get_witness_channel,
        .user = recovery->context,
    };

    return postcopy_destination_start_leases(split, NULL, &options, error);
}

static CheckpointPaceLimits read_limits(json_t *wish)
{
    CheckpointPaceLimits limits = {.most_share =
                                       json_count_or(wish, "overhead_percent", 0) / 100.0};

    checkpoint_sync_from_name(json_text_or(wish, "sync", "auto"), &limits.sync);
    return limits;
}

/* What a dead agent had begun; NULL and no error: it was whole. */
static PostcopyDestination *reopen(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);

    g_autofree char *overlays =
        guest_overlays_directory(recovery->context->settings->state_dir, error);
    PostcopyProtectionOptions options = {
        .interval_ms = record->checkpoint_ms,
        .directory = overlays,
        .copies_writes = json_flag_or(record->protection, "copies_writes", FALSE),
        .limits = read_limits(record->protection),
    };
    PostcopyDestination *split;

    split = overlays
                ? postcopy_destination_reopen(record->pid, record->outstanding, &options, error)
                : NULL;
    /* One that only began to be protected has none yet. */
    if (!split || record->lease_ms == 0 ||
        (record->standby && !split_leases_exist(record->outstanding)) ||
        restart_leases(recovery, record, split, error))
        return split;
    postcopy_destination_unref(split);
    return NULL;
}

/* It was about to be ended, and lacks what was given up for that. */
static RecoveryVerdict end_forgone(Recovery *recovery, const GuestRecord *record, GError **error)
{
    if (!process_kill(record->pid, record->start_time, SIGKILL, error) ||
        !process_wait_gone(record->pid, record->start_time, KILL_TIMEOUT_MS))
        return RECOVERY_AGAIN;
    postcopy_fetcher_drop(recovery->context, record);
    return recovery_forget(recovery, "ended", "its end was asked for");
}

static RecoveryVerdict settle_whole(Recovery *recovery)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    g_autoptr(GError) problem = NULL;

    transaction_log_note_whole(recovery->context->transactions, record->transaction);
    postcopy_fetcher_drop(recovery->context, record);
    registry_journal_whole(recovery->guest, &problem);
    if (problem)
        log_warning("guest %s: %s", record->name, problem->message);
    return RECOVERY_AGAIN;
}

typedef struct {
    Recovery *recovery;
    Vmm *vmm;
    VmmRunState *state;
} Start;

static gboolean end_pause(gpointer user, GError **error)
{
    Start *start = user;

    return recovery_end_pause(start->recovery, start->vmm, start->state, error);
}

static gboolean check_not_stopped(PostcopyDestination *split, GError **error)
{
    SplitLeases *leases = postcopy_destination_get_leases(split);

    if (!leases || !split_leases_has_stopped_vmm(leases))
        return TRUE;
    error_set(error, VMFERRY_ERROR_BUSY, "its process is stopped until there is a lease again");
    return FALSE;
}

/* It has committed, and is to run before its pages have come: those that are needed for that come by
 * other threads.  Where it does not work it is tried again once all are here. */
static gboolean start(Recovery *recovery, PostcopyDestination *split, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    TransactionLog *log = recovery->context->transactions;
    VmmRunState state;
    Vmm *vmm;

    /* Also of one that runs: it says how it ends. */
    if (!check_not_stopped(split, error) || !recovery_reach(recovery, error))
        return FALSE;
    vmm = registry_get_vmm(recovery->guest, NULL);
    if (!postcopy_destination_hold(split, vmm, NULL, error) ||
        !vmm_get_run_state(vmm, &state, error))
        return FALSE;
    if (record->role == GUEST_INCOMING) {
        if (!postcopy_destination_run(split, end_pause, &(Start){recovery, vmm, &state}, error))
            return FALSE;
        registry_journal_arrived(recovery->guest, NULL);
        transaction_log_settle(log, record->transaction);
    }
    registry_set_run_state(recovery->guest, state);
    return TRUE;
}

/* QEMU may wait for a page, which the source brings when it has connected anew.  The output of a
 * protected guest has to be held again, without which its move does not end. */
static void try_to_start(Recovery *recovery, PostcopyDestination *split)
{
    CheckpointCounts counts;
    gboolean again = postcopy_destination_get_checkpoints(split, &counts);

    do {
        g_autoptr(GError) problem = NULL;

        if (start(recovery, split, &problem))
            return;
        log_debug("guest %s: %s", recovery->guest->name, problem->message);
    } while (again && !agent_context_is_stopping(recovery->context) && !has_ended(recovery) &&
             !postcopy_destination_await(split, START_PAUSE_MS));
}

RecoveryVerdict recovery_keep_split(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    g_autoptr(PostcopyDestination) split = NULL;
    g_autoptr(GError) problem = NULL;

    split = reopen(recovery, &problem);
    if (problem) {
        g_propagate_prefixed_error(error, g_steal_pointer(&problem),
                                   "memory that is still at its source: ");
        return RECOVERY_AGAIN;
    }
    if (!split && postcopy_destination_were_pages_forgone(record->outstanding))
        return end_forgone(recovery, record, error);
    if (!split)
        return settle_whole(recovery);
    event_log_add(recovery->context->events, record->name, "recovered", NULL,
                  "found again; %" PRIu64 " pages of its memory are still at its source",
                  postcopy_destination_count_outstanding(split));
    postcopy_publish(recovery->context, recovery->guest, split);
    postcopy_show(recovery->guest, split);
    try_to_start(recovery, split);
    switch (postcopy_keep(recovery->context, recovery->guest, split)) {
    case POSTCOPY_KEPT_GONE:
        return RECOVERY_DONE;
    default:
        return RECOVERY_AGAIN; /* its role has changed, or the agent stops */
    }
}

/* ---- the source ---- */

gboolean recovery_get_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    return agent_context_get_channel_options(((Recovery *)user)->context, ret, error);
}

gboolean recovery_is_stopping(gpointer user)
{
    Recovery *recovery = user;

    return agent_context_is_stopping(recovery->context) ||
           registry_get_decision(recovery->guest) != recovery->seen_decision;
}

/* The memory of our paused copy. */
static GuestMemory *open_memory(Recovery *recovery, GError **error)
{
    g_autoptr(VmmDescription) description = NULL;
    Vmm *vmm;

    if (!recovery_reach(recovery, error))
        return NULL;
    vmm = registry_get_vmm(recovery->guest, NULL);
    description = vmm_describe(vmm, error);
    return description ? guest_memory_open(vmm_get_pid(vmm), description->ram_regions, error)
                       : NULL;
}

/* COMPLETE: our epochs will not be used. */
gboolean recovery_give_up(gpointer user, GError **error)
{
    Recovery *recovery = user;
    GuestRecord *record = registry_get_record(recovery->guest);

    record->role = GUEST_LEAVING;
    record->untold = TRUE;
    return registry_journal_record(recovery->guest, record, error);
}

static PostcopySourceJob make_job(Recovery *recovery, const GuestRecord *record, PageSource *pages)
{
    return (PostcopySourceJob){
        .destination = record->destination,
        .agent = record->destination_agent,
        .transaction = {record->transaction, record->id, record->term + 1},
        .pages = pages,
        .give_up = record->deltas ? recovery_give_up : NULL,
        .gate = recovery_get_gate(recovery, record),
        .sender = {.workers = 1, .packing = PACKING_NONE},
        .get_channel = recovery_get_channel,
        .is_stopping = recovery_is_stopping,
        .has_ended = has_ended,
        .user = recovery,
    };
}

/* An operator decides where the destination does not answer; it has. */
void recovery_drop_decision(Recovery *recovery)
{
    registry_forget_decision(recovery->guest);
    recovery->seen_decision = DECISION_NONE;
}

static void note_role(Recovery *recovery)
{
    g_autoptr(GError) problem = NULL;

    registry_journal_anyway(recovery->guest, GUEST_POSTCOPY_SOURCE, RESUME_AS_BEFORE, &problem);
    if (problem)
        log_warning("guest %s: %s", recovery->guest->name, problem->message);
    recovery_drop_decision(recovery);
}

static PostcopyAnswer ask(Recovery *recovery, const GuestRecord *record)
{
    g_autoptr(GuestMemory) memory = open_memory(recovery, NULL);
    g_autoptr(PageSource) pages = memory ? guest_source_new(memory) : NULL;
    g_autoptr(Session) session = NULL;
    g_autoptr(GPtrArray) left = NULL;
    PostcopySourceJob job;
    PostcopyAnswer answer;

    if (!pages)
        return POSTCOPY_ANSWER_NONE;
    job = make_job(recovery, record, pages);
    session = postcopy_source_connect(&job, &left, &answer, NULL);
    return answer;
}

static gboolean has_guest(PostcopyAnswer answer)
{
    return answer == POSTCOPY_ANSWER_RESUMED || answer == POSTCOPY_ANSWER_COMPLETE;
}

gboolean recovery_try_split(Recovery *recovery, const GuestRecord *record)
{
    if (!has_guest(ask(recovery, record)))
        return FALSE;
    note_role(recovery);
    return TRUE;
}

RecoveryVerdict recovery_begin_split(Recovery *recovery)
{
    note_role(recovery);
    return RECOVERY_AGAIN;
}

static RecoveryVerdict follow_decision(Recovery *recovery, const GuestRecord *record,
                                       GError **error)
{
    if (recovery->seen_decision == DECISION_KEEP_HERE && record->deltas)
        return recovery_take_over(recovery, error);
    if (recovery->seen_decision == DECISION_KEEP_HERE)
        return recovery_keep_above(
            recovery, record, "kept here by an operator's decision, as it was at its switchover",
            error);
    return recovery_release(recovery, "given-up",
                            "given to its destination by an operator's decision", error);
}

/* What an agent that died has left of a protected guest's epochs. */
gboolean recovery_open_epochs(const GuestRecord *record, DeltaStore **ret_deltas,
                              KeptWrites **ret_writes, GError **error)
{
    g_autofree char *deltas = g_build_filename(record->deltas, SOURCE_DELTAS, NULL);
    g_autofree char *writes = g_build_filename(record->deltas, SOURCE_WRITES, NULL);
    uint64_t epoch = 0;

    *ret_deltas = delta_store_open(deltas, error);
    if (!*ret_deltas)
        return FALSE;
    delta_store_get_epoch(*ret_deltas, &epoch);
    *ret_writes = kept_writes_open(writes, record->transaction, epoch, error);
    if (*ret_writes)
        kept_writes_set_pages(*ret_writes, *ret_deltas);
    return *ret_writes != NULL;
}

/* An operator decides. */
static RecoveryVerdict note_lost(Recovery *recovery, const GuestRecord *record, const GError *why)
{
    g_autofree char *text = g_strdup_printf(
        "%s; what is here is the guest as it was at its switchover: `vmferry resolve %s --keep "
        "here` runs that, `--keep there` drops it",
        why->message, record->name);

    registry_set_problem(recovery->guest, text);
    if (!recovery->told)
        event_log_add(recovery->context->events, record->name, "split-lost", NULL, "%s", text);
    recovery->told = TRUE;
    return RECOVERY_AGAIN;
}

/* The destination says so itself: nobody has it any more.  Of a protected guest all that anybody has
 * heard of is here. */
static RecoveryVerdict note_loss(Recovery *recovery, const GuestRecord *record, const GError *why,
                                 GError **error)
{
    if (!record->deltas || recovery_is_alone_there(recovery, record))
        return note_lost(recovery, record, why);
    event_log_add(recovery->context->events, record->name, "taking-over", NULL,
                  "%s; it is taken over here from its last epoch", why->message);
    return recovery_take_over(recovery, error);
}

RecoveryVerdict recovery_go_through_gate(Recovery *recovery, const GuestRecord *record,
                                         const char *why, GError **error)
{
    event_log_add(recovery->context->events, record->name, "taking-over", NULL,
                  "%s cannot be reached, and does not run it any more (%s); it is taken over here "
                  "from its last epoch",
                  record->destination, why);
    return recovery_take_over(recovery, error);
}

/* It had asked for pages, and then could not run the guest. */
static gboolean was_taken_back(Recovery *recovery, const GuestRecord *record)
{
    ResolveMessage question = {record->transaction, record->id, record->term + 1};
    ChannelOptions channel;
    OutcomeMessage answer;

    return agent_context_get_channel_options(recovery->context, &channel, NULL) &&
           migrate_source_resolve(record->destination, &channel, &question,
                                  record->destination_agent, &answer, NULL) &&
           answer.outcome == OUTCOME_ABORTED;
}

static RecoveryVerdict serve(Recovery *recovery, const GuestRecord *record, GError **error)
{
    g_autoptr(GuestMemory) memory = open_memory(recovery, error);
    g_autoptr(PageSource) pages = memory ? guest_source_new(memory) : NULL;
    g_autoptr(DeltaStore) deltas = NULL;
    g_autoptr(KeptWrites) writes = NULL;
    CheckpointPart part;
    g_autoptr(GError) why = NULL;
    MigratePostcopy counts = {.switched = TRUE};
    g_autofree char *text = NULL;
    PostcopySourceJob job;

    if (!pages)
        return RECOVERY_AGAIN;
    job = make_job(recovery, record, pages);
    if (record->deltas && !recovery_open_epochs(record, &deltas, &writes, error))
        return RECOVERY_AGAIN;
    if (writes) {
        part = kept_writes_get(writes);
        job.deltas = deltas;
        job.parts = &part;
        job.part_count = 1;
    }
    switch (postcopy_source_run(&job, NULL, NULL, &counts, &why)) {
    case POSTCOPY_COMPLETE:
        recovery_forget_witness(recovery, record);
        text = g_strdup_printf("moved: %s has it, and all of its memory", record->destination);
        return recovery_release(recovery, "moved", text, error);
    case POSTCOPY_TAKEN:
        g_clear_pointer(&deltas, delta_store_free);
        g_clear_pointer(&writes, kept_writes_free);
        return recovery_go_through_gate(recovery, record, why->message, error);
    case POSTCOPY_LOST:
        if (!was_taken_back(recovery, record)) {
            g_clear_pointer(&deltas, delta_store_free);
            g_clear_pointer(&writes, kept_writes_free);
            return note_loss(recovery, record, why, error);
        }
        text = g_strdup_printf("runs here: %s does not have it", record->destination);
        return recovery_keep(recovery, text, error);
    default:
        return RECOVERY_AGAIN; /* the agent stops, an operator has decided, or it is gone */
    }
}

RecoveryVerdict recovery_serve_split(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    PostcopyAnswer answer;

    if (record->taking_over)
        return recovery_take_over(recovery, error);
    /* An agent that died had carried out a decision: what this memory is now is nobody else's. */
    if (recovery_is_running(recovery))
        return recovery_keep_above(recovery, record, "runs here", error);
    if (recovery->seen_decision == DECISION_NONE)
        return serve(recovery, record, error);
    /* Whoever answers that it has the guest is right, whatever an operator takes it for. */
    answer = ask(recovery, record);
    if (answer == POSTCOPY_ANSWER_LATER)
        return RECOVERY_AGAIN;
    if (!has_guest(answer))
        return follow_decision(recovery, record, error);
    recovery_drop_decision(recovery);
    return serve(recovery, record, error);
}

/* Our process may be gone by now: that is nothing to the destination. */
static gboolean never(gpointer user)
{
    return FALSE;
}

static gboolean is_given_up(gpointer user, GError **error)
{
    return TRUE;
}

static gboolean end_copy(Recovery *recovery, const GuestRecord *record, GError **error)
{
    return record->pid == 0 || strcmp(record->boot_id, recovery->context->boot_id) != 0 ||
           migrate_source_end_old(record->pid, record->start_time, record->name,
                                  record->destination, error);
}

RecoveryVerdict recovery_tell_ended(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    PostcopySourceJob job = make_job(recovery, record, postcopy_source_no_pages());
    MigratePostcopy counts = {0};
    GuestRecord *told;

    /* It may take long until that is told, and nobody needs our copy any more. */
    if (!end_copy(recovery, record, error))
        return RECOVERY_AGAIN;
    job.give_up = is_given_up;
    job.gate = NULL; /* there is no way back */
    job.has_ended = never;
    switch (postcopy_source_run(&job, NULL, NULL, &counts, error)) {
    case POSTCOPY_COMPLETE:
    case POSTCOPY_LOST: /* it has ended there since: nobody waits */
        break;
    default:
        return RECOVERY_AGAIN;
    }
    g_clear_error(error);
    recovery_forget_witness(recovery, record);
    told = registry_get_record(recovery->guest);
    told->untold = FALSE;
    registry_journal_record(recovery->guest, told, error);
    return RECOVERY_AGAIN;
}

static RecoveryVerdict forget_drained(Recovery *recovery)
{
    return recovery_forget(
        recovery, "ended",
        "its process ended, and with it memory that the guest at its destination "
        "may still lack");
}

/* The output of a protected guest waits for us until it hears that. */
RecoveryVerdict recovery_tell_drained(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    PostcopySourceJob job = make_job(recovery, record, postcopy_source_no_pages());

    if (!record->deltas || recovery->seen_decision != DECISION_NONE)
        return forget_drained(recovery);
    switch (postcopy_source_tell_drained(&job, NULL, error)) {
    case POSTCOPY_ANSWER_RESUMED:
    case POSTCOPY_ANSWER_LOST:
        g_clear_error(error);
        return forget_drained(recovery);
    case POSTCOPY_ANSWER_COMPLETE:
        g_clear_error(error);
        recovery_give_up(recovery, error);
        return RECOVERY_AGAIN;
    default:
        g_prefix_error(error,
                       "its process ended, and its destination, which waits for it, does not "
                       "hear that: ");
        return RECOVERY_AGAIN;
    }
}

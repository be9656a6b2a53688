/*
 * A standby: what comes of another host's guest is kept, and gone on with
 *
 * As the source of a split guest (recovery_postcopy.c), without a process: all of the guest is in its
 * epochs.  Up to the first of them there is nothing, and nothing is taken over: where its host has lost
 * the guest by then, it is lost as one without a standby.
 */
#include <string.h>

#include "agent/recovery_private.h"
#include "base/error.h"
#include "base/log.h"
#include "migrate/postcopy_source.h"

typedef struct {
    Recovery *recovery;
    DeltaStore *deltas;
    KeptWrites *writes;
} Standing;

static void standing_clear(Standing *standing)
{
    g_clear_pointer(&standing->deltas, delta_store_free);
    g_clear_pointer(&standing->writes, kept_writes_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Standing, standing_clear)

static gboolean get_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    return recovery_get_channel(ret, ((Standing *)user)->recovery, error);
}

static gboolean is_stopping(gpointer user)
{
    return recovery_is_stopping(((Standing *)user)->recovery);
}

static gboolean give_up(gpointer user, GError **error)
{
    return recovery_give_up(((Standing *)user)->recovery, error);
}

static gboolean has_epoch(gpointer user)
{
    return delta_store_get_epoch(((Standing *)user)->deltas, NULL);
}

/* There is no process that could end. */
static gboolean never(gpointer user)
{
    return FALSE;
}

static PostcopySourceJob make_job(Standing *standing, const GuestRecord *record,
                                  CheckpointPart *part)
{
    *part = kept_writes_get(standing->writes);
    return (PostcopySourceJob){
        .destination = record->destination,
        .agent = record->destination_agent,
        .transaction = {record->transaction, record->id, record->term + 1},
        .pages = delta_store_get_source(standing->deltas),
        .deltas = standing->deltas,
        .parts = part,
        .part_count = 1,
        .give_up = give_up,
        .gate = recovery_get_gate(standing->recovery, record),
        .may_take_over = has_epoch,
        .sender = {.workers = 1, .packing = PACKING_NONE},
        .get_channel = get_channel,
        .is_stopping = is_stopping,
        .has_ended = never,
        .user = standing,
    };
}

/* ---- its end ---- */

RecoveryVerdict recovery_end_standby(Recovery *recovery)
{
    return recovery_forget(recovery, "standby-ended",
                           "this host does not stand by for it any more");
}

static RecoveryVerdict end_lost(Recovery *recovery, const GuestRecord *record, const char *why)
{
    g_autofree char *text = g_strdup_printf(
        "%s; this host had nothing of it yet, or what others have heard of since is not here", why);

    recovery_forget_witness(recovery, record);
    return recovery_forget(recovery, "standby-ended", text);
}

/* What it kept was in memory. */
static RecoveryVerdict end_rebooted(Recovery *recovery, const GuestRecord *record, GError **error)
{
    PostcopySourceJob job = {
        .destination = record->destination,
        .agent = record->destination_agent,
        .transaction = {record->transaction, record->id, record->term + 1},
        .pages = postcopy_source_no_pages(),
        .get_channel = recovery_get_channel,
        .is_stopping = recovery_is_stopping,
        .has_ended = never,
        .user = recovery,
    };

    if (postcopy_source_tell_drained(&job, error) == POSTCOPY_ANSWER_NONE) {
        g_prefix_error(error, "this host was restarted and stands by no more, which the guest's "
                              "host does not hear: ");
        return RECOVERY_AGAIN;
    }
    g_clear_error(error);
    recovery_forget_witness(recovery, record);
    return recovery_forget(recovery, "standby-ended",
                           "this host was restarted, and had it in its memory only");
}

/* ---- taking over ---- */

static RecoveryVerdict take_over(Recovery *recovery, const GuestRecord *record, const char *why,
                                 GError **error)
{
    event_log_add(recovery->context->events, record->name, "taking-over", NULL,
                  "%s; it goes on here from its last epoch", why);
    return recovery_take_over(recovery, error);
}

/* Its host says that it has it no more. */
static RecoveryVerdict note_loss(Standing *standing, const GuestRecord *record, const char *why,
                                 GError **error)
{
    Recovery *recovery = standing->recovery;
    gboolean usable = has_epoch(standing) && !recovery_is_alone_there(recovery, record);

    standing_clear(standing);
    return usable ? take_over(recovery, record, why, error) : end_lost(recovery, record, why);
}

static RecoveryVerdict go_through_gate(Standing *standing, const GuestRecord *record,
                                       const char *why, GError **error)
{
    standing_clear(standing);
    return recovery_go_through_gate(standing->recovery, record, why, error);
}

static RecoveryVerdict stand_by(Standing *standing, const GuestRecord *record, GError **error)
{
    g_autoptr(GError) why = NULL;
    MigratePostcopy counts = {.switched = TRUE};
    CheckpointPart part;
    PostcopySourceJob job = make_job(standing, record, &part);

    switch (postcopy_source_run(&job, NULL, NULL, &counts, &why)) {
    case POSTCOPY_COMPLETE:
        recovery_forget_witness(standing->recovery, record);
        return recovery_end_standby(standing->recovery);
    case POSTCOPY_TAKEN:
        return go_through_gate(standing, record, why->message, error);
    case POSTCOPY_LOST:
        return note_loss(standing, record, why->message, error);
    default:
        return RECOVERY_AGAIN; /* the agent stops, or an operator has decided */
    }
}

/* Whoever answers that it has the guest is right, whatever an operator takes it for. */
static RecoveryVerdict follow_decision(Standing *standing, const GuestRecord *record,
                                       GError **error)
{
    Recovery *recovery = standing->recovery;
    g_autoptr(Session) session = NULL;
    g_autoptr(GPtrArray) left = NULL;
    CheckpointPart part;
    PostcopySourceJob job = make_job(standing, record, &part);
    PostcopyAnswer answer;

    session = postcopy_source_connect(&job, &left, &answer, NULL);
    if (answer == POSTCOPY_ANSWER_LATER)
        return RECOVERY_AGAIN;
    if (answer == POSTCOPY_ANSWER_RESUMED || answer == POSTCOPY_ANSWER_COMPLETE) {
        recovery_drop_decision(recovery);
        return RECOVERY_AGAIN;
    }
    if (recovery->seen_decision == DECISION_KEEP_HERE && has_epoch(standing)) {
        standing_clear(standing);
        return take_over(recovery, record, "kept here by an operator's decision", error);
    }
    recovery_forget_witness(recovery, record);
    return recovery_forget(recovery, "standby-ended", "given up by an operator's decision");
}

RecoveryVerdict recovery_stand_by(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    g_auto(Standing) standing = {.recovery = recovery};

    if (strcmp(record->boot_id, recovery->context->boot_id) != 0)
        return end_rebooted(recovery, record, error);
    if (record->taking_over)
        return recovery_take_over(recovery, error);
    if (!recovery_open_epochs(record, &standing.deltas, &standing.writes, error))
        return RECOVERY_AGAIN;
    return recovery->seen_decision == DECISION_NONE ? stand_by(&standing, record, error)
                                                    : follow_decision(&standing, record, error);
}

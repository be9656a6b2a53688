/*
 * A standby: what comes of another host's guest is kept, and gone on with
 *
 * As the source of a split guest (recovery_postcopy.c), without a process: all of the guest is in its
 * epochs.  Up to the first of them there is nothing, and nothing is taken over: where its host has lost
 * the guest by then, it is lost as one without a standby.
 */
#include <string.h>

#include "agent/directory.h"
#include "agent/incoming_private.h"
#include "agent/recovery_private.h"
#include "agent/storage_guards.h"
#include "base/error.h"
#include "migrate/postcopy_source.h"
#include "migrate/standby_disks.h"
#include "migrate/takeover_images.h"

#define CONNECT_TIMEOUT_MS 500u

typedef struct {
    Recovery *recovery;
    DeltaStore *deltas;
    KeptWrites *writes;
    GuestMessage *machine;
    GPtrArray *rules; /* of VmmMapRule */
    json_t *images_object;
    GArray *images;  /* of TakeoverImage */
    char *directory; /* of a storage process, or NULL */
    GHashTable *guards;
    StandbyDisks *disks;
} Standing;

static void standing_clear(Standing *standing)
{
    g_clear_pointer(&standing->disks, standby_disks_free);
    if (standing->directory)
        guest_directory_remove(standing->directory);
    g_clear_pointer(&standing->directory, g_free);
    g_clear_pointer(&standing->guards, g_hash_table_unref);
    g_clear_pointer(&standing->images, g_array_unref);
    g_clear_pointer(&standing->images_object, json_decref);
    g_clear_pointer(&standing->rules, g_ptr_array_unref);
    g_clear_pointer(&standing->machine, guest_message_free);
    g_clear_pointer(&standing->deltas, delta_store_free);
    g_clear_pointer(&standing->writes, kept_writes_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Standing, standing_clear)

static gboolean get_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    Standing *standing = user;

    if (!recovery_get_channel(ret, standing->recovery, error))
        return FALSE;
    /* Leases are asked for four times in the length of one. */
    if (standing->machine->lease_ms > 0)
        ret->peer_timeout_ms = (int)MIN(standing->machine->lease_ms / 2, CHANNEL_PEER_TIMEOUT_MS);
    return TRUE;
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
    *part = standby_disks_get(standing->disks);
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
        .watches_leases = TRUE,
        .patience_ms = 1, /* the gate knows when the last lease has ended */
        .connect_timeout_ms = CONNECT_TIMEOUT_MS,
        .sender = {.workers = 1, .packing = PACKING_NONE},
        .get_channel = get_channel,
        .is_stopping = is_stopping,
        .has_ended = never,
        .user = standing,
    };
}

/* ---- what is kept ---- */

/* StandbyDisksOptions. */
static VmmStorage *on_open_storage(gpointer user, GError **error)
{
    Standing *standing = user;
    const char *runtime = standing->recovery->context->settings->runtime_dir;

    if (!standing->directory)
        standing->directory = guest_directory_create_for_move(runtime, error);
    return standing->directory
               ? recovery_open_storage(standing->recovery, standing->machine, standing->rules,
                                       standing->directory, standing->guards, error)
               : NULL;
}

static void on_close_storage(VmmStorage *storage, gpointer user)
{
    Standing *standing = user;
    pid_t pid = vmm_storage_get_pid(storage);

    vmm_storage_free(storage);
    storage_guards_drop(standing->guards, pid);
    guest_directory_remove(standing->directory);
    g_clear_pointer(&standing->directory, g_free);
}

static gboolean start_disks(Standing *standing, GError **error)
{
    StandbyDisksOptions options = {
        .kept = standing->writes,
        .images = (const TakeoverImage *)standing->images->data,
        .count = standing->images->len,
        .full_bytes = STANDBY_DISKS_FULL_BYTES,
        .open_storage = on_open_storage,
        .close_storage = on_close_storage,
        .user = standing,
    };

    standing->disks = standby_disks_start(&options, error);
    return standing->disks != NULL;
}

static gboolean open_all(Standing *standing, const GuestRecord *record, GError **error)
{
    standing->machine = recovery_read_machine(record->deltas, error);
    if (!standing->machine)
        return FALSE;
    standing->rules = incoming_make_rules(standing->recovery->context->settings);
    standing->guards = storage_guards_new();
    standing->images = takeover_images_read(record->deltas, &standing->images_object, error);
    return standing->images &&
           recovery_open_epochs(record, &standing->deltas, &standing->writes, error) &&
           start_disks(standing, error);
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

    if (!record->destination)
        return recovery_forget(recovery, "standby-ended", "the agent ended before it had begun");
    if (strcmp(record->boot_id, recovery->context->boot_id) != 0)
        return end_rebooted(recovery, record, error);
    if (record->taking_over)
        return recovery_take_over(recovery, error);
    if (!open_all(&standing, record, error))
        return RECOVERY_AGAIN;
    return recovery->seen_decision == DECISION_NONE ? stand_by(&standing, record, error)
                                                    : follow_decision(&standing, record, error);
}

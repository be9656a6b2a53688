/*
 * A standby: what comes of another host's guest is kept, and gone on with
 *
 * As the source of a split guest (recovery_postcopy.c), without its process: all of the guest is in its
 * epochs.  Up to the first of them there is nothing, and nothing is taken over: where its host has lost
 * the guest by then, it is lost as one without a standby.  From then on an empty process waits
 * (standby_ahead.h), so that what is left of a takeover is: the rest of the journal to the images, the
 * device state into that process, and run.  It outlives sessions and decisions; whatever ends the
 * standing by takes it or ends it, before the guest's record changes.
 */
#include <string.h>

#include "agent/incoming_private.h"
#include "agent/recovery_private.h"
#include "base/error.h"
#include "base/log.h"
#include "migrate/postcopy_source.h"
#include "migrate/standby_disks.h"
#include "migrate/takeover_images.h"

#define CONNECT_TIMEOUT_MS 500u
#define MOST_PARTS 2
/* From then on its users are told. */
#define UNHEARD_MS 4000u

typedef struct {
    Recovery *recovery;
    DeltaStore *deltas;
    KeptWrites *writes;
    GuestMessage *machine;
    GPtrArray *rules; /* of VmmMapRule */
    json_t *images_object;
    GArray *images;           /* of TakeoverImage */
    RecoveryStorage *storage; /* that writes them; NULL: it is not there */
    StandbyDisks *disks;
    gboolean full; /* that was said */
    GMutex lock;   /* protects both below */
    char *unheard; /* what its users are told … */
    char *unwritten;
} Standing;

static void standing_clear(Standing *standing)
{
    g_clear_pointer(&standing->disks, standby_disks_free);
    g_clear_pointer(&standing->storage, recovery_storage_free);
    g_clear_pointer(&standing->images, g_array_unref);
    g_clear_pointer(&standing->images_object, json_decref);
    g_clear_pointer(&standing->rules, g_ptr_array_unref);
    g_clear_pointer(&standing->machine, guest_message_free);
    g_clear_pointer(&standing->deltas, delta_store_free);
    g_clear_pointer(&standing->writes, kept_writes_free);
    g_clear_pointer(&standing->unheard, g_free);
    g_clear_pointer(&standing->unwritten, g_free);
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

static void end_ahead(Recovery *recovery)
{
    standby_ahead_free(g_steal_pointer(&recovery->ahead));
}

/* Its process first, whose pid and directory are on the record as well. */
static gboolean give_up(gpointer user, GError **error)
{
    Recovery *recovery = ((Standing *)user)->recovery;

    end_ahead(recovery);
    return recovery_give_up(recovery, error);
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

/* Without a process that waits there is one part. */
static guint list_parts(const Standing *standing, CheckpointPart parts[MOST_PARTS])
{
    StandbyAhead *ahead = standing->recovery->ahead;

    parts[0] = standby_disks_get(standing->disks);
    if (ahead)
        parts[1] = standby_ahead_get(ahead);
    return ahead ? 2 : 1;
}

/* ---- what its users are told ---- */

/* Takes *text*; NULL: all is well. */
static void tell(Standing *standing, char **which, char *text)
{
    g_mutex_lock(&standing->lock);
    g_free(*which);
    *which = text;
    registry_set_problem(standing->recovery->guest,
                         standing->unheard ? standing->unheard : standing->unwritten);
    g_mutex_unlock(&standing->lock);
}

static char *describe_silence(const Standing *standing)
{
    g_autoptr(GuestRecord) record = registry_get_record(standing->recovery->guest);

    if (record->lease_ms > 0)
        return g_strdup_printf(
            "its host %s does not answer, and the witness %s has not let it go on "
            "here",
            record->destination, record->store);
    return g_strdup_printf(
        "its host %s does not answer, and there is no witness: where it is known "
        "that the guest runs nowhere, `vmferry resolve %s --keep here`",
        record->destination, record->name);
}

/* PostcopySourceJob. */
static void note_silence(uint64_t ms, gpointer user)
{
    Standing *standing = user;

    if (ms == 0 && standing->unheard)
        tell(standing, &standing->unheard, NULL);
    if (ms >= UNHEARD_MS && !standing->unheard && delta_store_get_epoch(standing->deltas, NULL))
        tell(standing, &standing->unheard, describe_silence(standing));
}

/* Its host, which hears that, gives us up. */
static void no_room(const GError *why, gpointer user)
{
    const Standing *standing = user;
    Guest *guest = standing->recovery->guest;

    if (!standing->full)
        event_log_add(
            standing->recovery->context->events, guest->name, "no-room", NULL,
            "this host has no room for its next epoch, and is to stand by for it no more: %s",
            why->message);
    ((Standing *)user)->full = TRUE;
}

static PostcopySourceJob make_job(Standing *standing, const GuestRecord *record,
                                  CheckpointPart parts[MOST_PARTS])
{
    return (PostcopySourceJob){
        .destination = record->destination,
        .agent = record->destination_agent,
        .transaction = {record->transaction, record->id, record->term + 1},
        .pages = delta_store_get_source(standing->deltas),
        .deltas = standing->deltas,
        .parts = parts,
        .part_count = list_parts(standing, parts),
        .give_up = give_up,
        .gate = recovery_get_gate(standing->recovery, record),
        .no_room = no_room,
        .note_silence = note_silence,
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

    standing->storage = recovery_storage_open(standing->recovery->context, standing->machine,
                                              standing->rules, error);
    return standing->storage ? recovery_storage_get(standing->storage) : NULL;
}

/* One that works a takeover may need. */
static void on_close_storage(VmmStorage *storage, gboolean works, gpointer user)
{
    Standing *standing = user;

    if (!works)
        g_clear_pointer(&standing->storage, recovery_storage_free);
}

/* Until they can be written it goes on here no sooner than there is room for what waits. */
static void on_note(const GError *problem, gpointer user)
{
    Standing *standing = user;
    Recovery *recovery = standing->recovery;
    char *text = NULL;

    if (problem)
        text = g_strdup_printf("its disks' images here cannot be written, and it could not go on "
                               "here before they can: %s",
                               problem->message);
    event_log_add(recovery->context->events, recovery->guest->name,
                  problem ? "images-behind" : "images-written", NULL, "%s",
                  problem ? text : "its disks' images here are written again");
    tell(standing, &standing->unwritten, text);
}

static gboolean start_disks(Standing *standing, GError **error)
{
    StandbyDisksOptions options = {
        .kept = standing->writes,
        .images = (const TakeoverImage *)standing->images->data,
        .count = standing->images->len,
        .full_bytes = STANDBY_DISKS_FULL_BYTES,
        .opens_ahead = standing->recovery->context->settings->launch_ahead,
        .open_storage = on_open_storage,
        .close_storage = on_close_storage,
        .note = on_note,
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
    standing->images = takeover_images_read(record->deltas, &standing->images_object, error);
    return standing->images &&
           recovery_open_epochs(record, &standing->deltas, &standing->writes, error) &&
           start_disks(standing, error);
}

/* ---- a process that waits ---- */

/* A help, and no more: a takeover launches one as well. */
static void begin_ahead(Standing *standing)
{
    Recovery *recovery = standing->recovery;
    g_autoptr(GError) problem = NULL;

    if (!recovery->ahead && recovery_end_fresh(recovery->guest, &problem) &&
        recovery->context->settings->launch_ahead)
        recovery->ahead = standby_ahead_start(recovery->context, recovery->guest, &problem);
    if (problem)
        log_warning("guest %s: no process waits here: %s", recovery->guest->name, problem->message);
    if (recovery->ahead && has_epoch(standing))
        standby_ahead_want(recovery->ahead);
}

/* ---- its end ---- */

static RecoveryVerdict forget(Recovery *recovery, const char *why)
{
    end_ahead(recovery);
    return recovery_forget(recovery, "standby-ended", why);
}

RecoveryVerdict recovery_end_standby(Recovery *recovery)
{
    return forget(recovery, "this host does not stand by for it any more");
}

static RecoveryVerdict end_lost(Recovery *recovery, const GuestRecord *record, const char *why)
{
    g_autofree char *text = g_strdup_printf(
        "%s; this host had nothing of it yet, or what others have heard of since is not here", why);

    recovery_forget_witness(recovery, record);
    return forget(recovery, text);
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

    if (postcopy_source_tell_drained(&job, "that host was restarted, and had it in its memory only",
                                     error) == POSTCOPY_ANSWER_NONE) {
        g_prefix_error(error, "this host was restarted and stands by no more, which the guest's "
                              "host does not hear: ");
        return RECOVERY_AGAIN;
    }
    g_clear_error(error);
    /* That it was told is not to say that it has heard it. */
    if (!recovery_give_back_witness(recovery, record, error))
        return RECOVERY_AGAIN;
    recovery_leave_witness(recovery);
    return forget(recovery, "this host was restarted, and had it in its memory only");
}

/* ---- taking over ---- */

/* All is closed that it opens, and what it can go on with is left to it. */
static void hand_over(Standing *standing)
{
    g_clear_pointer(&standing->disks, standby_disks_free);
    standing->recovery->storage = g_steal_pointer(&standing->storage);
    standing_clear(standing);
}

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

    hand_over(standing);
    return usable ? take_over(recovery, record, why, error) : end_lost(recovery, record, why);
}

static RecoveryVerdict go_through_gate(Standing *standing, const GuestRecord *record,
                                       const char *why, GError **error)
{
    hand_over(standing);
    return recovery_go_through_gate(standing->recovery, record, why, error);
}

static RecoveryVerdict stand_by(Standing *standing, const GuestRecord *record, GError **error)
{
    g_autoptr(GError) why = NULL;
    MigratePostcopy counts = {.switched = TRUE};
    CheckpointPart parts[MOST_PARTS];
    PostcopySourceJob job = make_job(standing, record, parts);

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
    CheckpointPart parts[MOST_PARTS];
    PostcopySourceJob job = make_job(standing, record, parts);
    PostcopyAnswer answer;

    session = postcopy_source_connect(&job, &left, &answer, NULL);
    if (answer == POSTCOPY_ANSWER_LATER)
        return RECOVERY_AGAIN;
    if (answer == POSTCOPY_ANSWER_RESUMED || answer == POSTCOPY_ANSWER_COMPLETE) {
        recovery_drop_decision(recovery);
        return RECOVERY_AGAIN;
    }
    if (recovery->seen_decision == DECISION_KEEP_HERE && has_epoch(standing)) {
        hand_over(standing);
        return take_over(recovery, record, "kept here by an operator's decision", error);
    }
    if (!recovery_give_back_witness(recovery, record, error))
        return RECOVERY_AGAIN;
    recovery_leave_witness(recovery);
    return forget(recovery, "given up by an operator's decision");
}

RecoveryVerdict recovery_stand_by(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    g_auto(Standing) standing = {.recovery = recovery};

    if (!record->destination)
        return forget(recovery, "the agent ended before it had begun");
    if (strcmp(record->boot_id, recovery->context->boot_id) != 0)
        return end_rebooted(recovery, record, error);
    if (record->taking_over)
        return recovery_take_over(recovery, error);
    if (!open_all(&standing, record, error))
        return RECOVERY_AGAIN;
    begin_ahead(&standing);
    return recovery->seen_decision == DECISION_NONE ? stand_by(&standing, record, error)
                                                    : follow_decision(&standing, record, error);
}

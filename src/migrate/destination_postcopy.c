/*
 * The destination's half of a move whose guest runs before its memory is all there
 *
 * All that can keep it from being split is found before ACCEPTED: the userfaultfd is made in the
 * VMM then, though nothing is registered with it before the last epoch.
 */
#include "migrate/destination_move.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "memory/discard.h"
#include "migrate/epoch_writes.h"
#include "wire/postcopy_frame.h"

#define JOIN_TIMEOUT_MS 15000
#define END_ATTEMPTS 20
#define END_PAUSE_NS 100000000ULL

/* Epochs go back of what is written: that is tracked on the same userfaultfd. */
static UserfaultUses get_uses(const DestinationMove *move)
{
    return move->guest->checkpoint_ms > 0 ? FAULT_SERVICE_USES | USERFAULT_WP_ASYNC
                                          : FAULT_SERVICE_USES;
}

static VmmStorage *open_storage(DestinationMove *move, GError **error)
{
    const GuestMessage *guest = move->guest;
    DisksMessage like = {
        .vmm_kind = guest->vmm_kind,
        .program = guest->command_line[0],
        .working_directory = guest->working_directory,
        .process = guest->process,
    };

    // cppcheck-suppress returnDanglingLifetime ; it keeps nothing of it
    return move->host->open_storage(&like, move->host->user, error);
}

static EpochWritesPlace get_place(const DestinationMove *move)
{
    return (EpochWritesPlace){.transaction = move->guest->transaction,
                              .directory = move->overlays,
                              .limit_bytes = EPOCH_TAP_LIMIT_BYTES};
}

/* For who runs the VMM. */
static gboolean prepare_writes(DestinationMove *move, GError **error)
{
    g_autofree char *process = g_strdup_printf("/proc/%d", (int)move->memory->pid);
    EpochWritesPlace place = get_place(move);
    VmmStorage *storage;
    struct stat owner;

    if (stat(process, &owner) < 0) {
        error_set_errno(error, errno, "%s", process);
        return FALSE;
    }
    storage = open_storage(move, error);
    if (!storage)
        return FALSE;
    move->writes =
        epoch_writes_prepare(move->vmm, &place, storage, owner.st_uid, owner.st_gid, error);
    move->host->close_storage(storage, move->host->user);
    return move->writes != NULL;
}

/* What the guest sends and writes must be something that can be held back. */
static gboolean prepare_protection(DestinationMove *move, GError **error)
{
    g_autoptr(GPtrArray) disks = NULL;

    if (!postcopy_protection_check(move->vmm, error))
        return FALSE;
    disks = epoch_writes_list(move->vmm, error);
    if (!disks || !epoch_writes_check(disks, error))
        return FALSE;
    move->overlays = move->host->name_overlays(move->host->user, error);
    return move->overlays && (disks->len == 0 || prepare_writes(move, error));
}

gboolean destination_prepare_split(DestinationMove *move, GError **error)
{
    if (!move->guest->postcopy)
        return TRUE;
    if (fault_service_check(move->memory, error) &&
        (move->guest->checkpoint_ms == 0 || prepare_protection(move, error)))
        move->userfault =
            userfault_open(move->memory->pid, get_uses(move), USERFAULT_STAYS_IN_VMM, error);
    if (!move->userfault) {
        g_prefix_error(error, "post-copy is not possible here: ");
        destination_drop_overlays(move); /* as long as there is a VMM */
    }
    return move->userfault != NULL;
}

static gboolean make_file(DestinationMove *move, GError **error)
{
    if (move->outstanding)
        return TRUE;
    if (!move->guest->postcopy) {
        error_set(error, VMFERRY_ERROR_INVALID, "OUTSTANDING without post-copy in GUEST");
        return FALSE;
    }
    move->outstanding_path = move->host->name_outstanding(move->host->user);
    move->outstanding =
        outstanding_create(move->outstanding_path, move->guest->transaction, move->memory, error);
    return move->outstanding != NULL;
}

gboolean destination_take_outstanding(DestinationMove *move, const Frame *frame, GError **error)
{
    OutstandingFrame outstanding;
    PageSpan span;

    if (!make_file(move, error) ||
        !outstanding_frame_decode(frame->payload, frame->length, move->sink->regions->pages,
                                  move->sink->regions->count, &outstanding, error))
        return FALSE;
    move->has_stale = TRUE;
    for (uint32_t i = 0; i < outstanding.runs; i++) {
        outstanding_frame_next(&outstanding, &span.first, &span.count);
        if (!outstanding_add(move->outstanding, outstanding.region, span, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean make_split(DestinationMove *move, GError **error)
{
    GuestMemory *memory =
        guest_memory_open(move->memory->pid, outstanding_get_regions(move->outstanding), error);

    if (!memory)
        return FALSE;
    move->split = postcopy_destination_new(memory, g_steal_pointer(&move->userfault),
                                           g_steal_pointer(&move->outstanding),
                                           move->outstanding_path, FALSE, error);
    return move->split != NULL;
}

gboolean destination_drop_outstanding(DestinationMove *move, GError **error)
{
    if (!move->has_stale)
        return TRUE;
    move->has_stale = FALSE;
    return !fault_point("destination.discard", error) &&
           guest_memory_discard(move->memory, move->outstanding, error);
}

/* The kernel may have put pages of zeroes in the place of what was dropped before the pause
 * (khugepaged). */
static gboolean drop_again(DestinationMove *move, GError **error)
{
    return guest_memory_check_missing(move->memory, move->outstanding, NULL) ||
           guest_memory_discard(move->memory, move->outstanding, error);
}

static gboolean protect(DestinationMove *move, GError **error)
{
    PostcopyProtectionOptions options = {.interval_ms = move->guest->checkpoint_ms,
                                         .directory = move->overlays};

    return postcopy_destination_protect(move->split, &options, error);
}

gboolean destination_begin_split(DestinationMove *move, GError **error)
{
    if (!move->outstanding)
        return TRUE;
    return drop_again(move, error) && make_split(move, error) &&
           (move->guest->checkpoint_ms == 0 || protect(move, error)) &&
           postcopy_destination_begin(move->split, move->session, error);
}

/* Its first lease is asked for while the source still hears that we are ready. */
static gboolean start_leases(DestinationMove *move, GError **error)
{
    SplitLeasesOptions options = {
        .witness = move->guest->store,
        .agent = move->guest->store_agent,
        .lease_ms = move->guest->lease_ms,
        .get_channel = move->host->get_channel,
        .user = move->host->channel_user,
    };

    return move->guest->lease_ms == 0 ||
           postcopy_destination_start_leases(move->split, move->vmm, &options, error);
}

gboolean destination_runs_by_leases(const DestinationMove *move)
{
    return move->split && postcopy_destination_get_leases(move->split);
}

gboolean destination_hold_output(DestinationMove *move, GError **error)
{
    return !move->split || move->guest->checkpoint_ms == 0 ||
           (session_await_channel(move->session, TRAFFIC_CHECKPOINT, JOIN_TIMEOUT_MS, error) &&
            start_leases(move, error) && vmm_take_images(move->vmm, error) &&
            postcopy_destination_hold(move->split, move->vmm, g_steal_pointer(&move->writes),
                                      error) &&
            !fault_point("destination.held", error));
}

/* Not in the pause, since that takes some milliseconds.  Where it stays, it is without ranges: it
 * does no harm, and a restarted agent closes it. */
void destination_end_userfault(DestinationMove *move)
{
    g_autoptr(GError) problem = NULL;

    if (!move->userfault)
        return;
    for (guint i = 0; i < END_ATTEMPTS && !userfault_end(move->userfault, &problem); i++) {
        if (i + 1 == END_ATTEMPTS)
            log_warning("guest %s: %s", move->guest->guest, problem->message);
        g_clear_error(&problem);
        clock_sleep_ns(END_PAUSE_NS);
    }
    g_clear_pointer(&move->userfault, userfault_free);
}

void destination_serve_split(DestinationMove *move)
{
    g_autoptr(GError) broken = NULL;

    /* It is on record as running, with all that a restarted agent needs. */
    guard_disarm(move->guard, GUARD_SLOT_GUEST, NULL);
    if (!postcopy_destination_serve(move->split, move->session, move->queue, &broken))
        log_warning("guest %s: its memory does not arrive: %s", move->guest->guest,
                    broken->message);
    move->host->keep_split(move->split, move->host->user);
    g_clear_pointer(&move->split, postcopy_destination_unref);
}

void destination_drop_overlays(DestinationMove *move)
{
    g_clear_pointer(&move->writes, epoch_writes_free);
}

void destination_undo_split(DestinationMove *move)
{
    if (move->split) {
        postcopy_destination_discard(move->split, move->failure);
        postcopy_destination_detach(move->split);
    }
    destination_drop_overlays(move);
    g_clear_pointer(&move->split, postcopy_destination_unref);
    g_clear_pointer(&move->outstanding, outstanding_free);
    g_clear_pointer(&move->userfault, userfault_free);
}

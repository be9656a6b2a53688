/*
 * The guest is started where it has arrived
 *
 * The images are opened for writing, and locked, only now.  Where that fails the
 * machine has certainly not run: then the commit is taken back, the VMM ends and
 * the guest goes on at its source.  In this order, so that no death of ours
 * leaves two owners or none:
 *
 *     guard: leave it     from here on nobody but a restarted agent runs it, and
 *                         that goes by the journal
 *     journal: aborted    (not told yet) a restarted agent ends it
 *     guard: kill it
 *     end it, then tell
 */
#include "migrate/destination_move.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"

/* Somebody who looks at an image holds its lock for a moment; the guest stands. */
#define START_ATTEMPTS 6
#define START_PAUSE_NS 200000000ULL

/* A guest that arrives paused holds its images as a paused guest does; where
 * that fails it takes them when it runs. */
static void settle_paused(DestinationMove *move)
{
    g_autoptr(GError) problem = NULL;

    if (!vmm_take_images(move->vmm, &problem))
        log_debug("guest %s: images are not locked: %s", move->guest->guest, problem->message);
}

static VmmStart try_start(DestinationMove *move, GError **error)
{
    /* Fails as where QEMU refuses. */
    if (!fault_point("destination.cont", error) && vmm_resume(move->vmm, error))
        return VMM_START_DONE;
    return vmm_get_start(move->vmm);
}

static VmmStart start(DestinationMove *move, GError **error)
{
    VmmStart came = try_start(move, error);

    for (int i = 1; i < START_ATTEMPTS && came == VMM_START_NEVER; i++) {
        clock_sleep_ns(START_PAUSE_NS);
        g_clear_error(error);
        came = try_start(move, error);
    }
    return came;
}

/* FALSE: it stays ours, since that cannot be written down. */
static gboolean take_back(DestinationMove *move, GError **error)
{
    const MigrateDestinationHost *host = move->host;

    guard_disarm(move->guard, GUARD_SLOT_GUEST, NULL);
    fault_point("destination.taking-back", NULL);
    if (!host->take_back(move->guest->transaction, host->user, error)) {
        guard_arm(move->guard, GUARD_SLOT_GUEST, &move->resume_action, NULL);
        return FALSE;
    }
    fault_point("destination.taken-back", NULL);
    guard_arm(move->guard, GUARD_SLOT_GUEST, &move->kill_action, NULL);
    return TRUE;
}

gboolean destination_start_guest(DestinationMove *move, GError **error)
{
    g_autoptr(GError) failure = NULL;
    g_autoptr(GError) problem = NULL;
    VmmStart came = VMM_START_DONE;

    if (move->run)
        came = start(move, &failure);
    else
        settle_paused(move);
    if (came == VMM_START_DONE)
        return TRUE;
    if (came == VMM_START_NEVER && take_back(move, &problem)) {
        g_propagate_prefixed_error(error, g_steal_pointer(&failure),
                                   "the guest could not be started: ");
        return FALSE;
    }
    if (problem)
        log_warning("guest %s: the commit cannot be taken back: %s", move->guest->guest,
                    problem->message);
    move->resume_error = g_steal_pointer(&failure);
    g_prefix_error(&move->resume_error, "the guest is here, but could not be started: ");
    return TRUE;
}

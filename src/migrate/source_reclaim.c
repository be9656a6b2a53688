/*
 * The guest's free memory, taken by its balloon before it is tracked
 *
 * From the record and the guard's order on, whoever dies: the guest gets its
 * memory back.  A guest that does not answer costs some time and no more.
 */
#include "migrate/source_move.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "policy/reclaim.h"

#define LOOK_NS 50000000ULL
#define STATISTICS_MS 2500.0
/* The shortest there is. */
#define STATISTICS_INTERVAL_SECONDS 1
#define LET_GO_ATTEMPTS 3

static gboolean check_possible(SourceMove *move, GError **error)
{
    g_autoptr(GError) problem = NULL;
    uint64_t bytes;

    if (!peer_has_feature(&move->peer, FEATURE_BALLOON)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "vmferry on %s cannot give a guest its free memory back: update it, or leave "
                  "--reclaim-free away",
                  session_get_peer_name(move->session));
        return FALSE;
    }
    if (vmm_get_balloon(move->job->vmm, &bytes, &problem))
        return TRUE;
    if (error_is(problem, VMFERRY_ERROR_NOT_FOUND))
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest has no balloon device: --reclaim-free needs virtio-balloon");
    else
        g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

/* Waits until the balloon is where it is to be, or moves no more. */
static gboolean await_balloon(SourceMove *move, uint64_t target, double first_ms, uint64_t *ret,
                              GError **error)
{
    ReclaimWait wait;

    if (!vmm_get_balloon(move->job->vmm, ret, error))
        return FALSE;
    reclaim_wait_begin(&wait, *ret, target, first_ms, source_now_ms(move));
    while (reclaim_wait_note(&wait, *ret, source_now_ms(move))) {
        if (!source_not_cancelled(move, error))
            return FALSE;
        clock_sleep_ns(LOOK_NS);
        if (!vmm_get_balloon(move->job->vmm, ret, error))
            return FALSE;
    }
    return TRUE;
}

/* 0 where the guest does not tell anything new in time. */
static gboolean await_statistics(SourceMove *move, uint64_t before, uint64_t *ret_free,
                                 GError **error)
{
    double end_ms = source_now_ms(move) + STATISTICS_MS;

    for (;;) {
        uint64_t updated;

        if (!source_not_cancelled(move, error) ||
            !vmm_get_free_memory(move->job->vmm, ret_free, &updated, error))
            return FALSE;
        if (updated != before)
            return TRUE;
        if (source_now_ms(move) >= end_ms)
            break;
        clock_sleep_ns(LOOK_NS);
    }
    *ret_free = 0;
    return TRUE;
}

/* What is free in it, and what it has.  A balloon that still moves (let go after
 * a move just now) is waited for: else what it has now would be all that it
 * gets back. */
static gboolean ask_guest(SourceMove *move, uint64_t *ret_free, uint64_t *ret_now, GError **error)
{
    Vmm *vmm = move->job->vmm;
    uint64_t updated, unused;
    gboolean done;
    guint interval;

    if (!vmm_get_free_memory(vmm, &unused, &updated, error) ||
        !vmm_watch_statistics(vmm, STATISTICS_INTERVAL_SECONDS, &interval, error))
        return FALSE;
    done = await_balloon(move, 0, RECLAIM_STILL_MS, ret_now, error) &&
           await_statistics(move, updated, ret_free, error);
    if (!vmm_watch_statistics(vmm, interval, &interval, done ? error : NULL))
        return FALSE;
    return done;
}

/* On record and with the guard first: then the balloon moves. */
static gboolean inflate(SourceMove *move, uint64_t now, uint64_t target, GError **error)
{
    const MigrateSourceHost *host = &move->job->host;
    GuardAction action;
    uint64_t reached;

    move->balloon_bytes = now;
    if (!host->note_balloon(now, host->user, error) ||
        !vmm_get_set_balloon_action(move->job->vmm, now, &action, error) ||
        !guard_arm(move->guard, GUARD_SLOT_BALLOON, &action, error) ||
        !vmm_set_balloon(move->job->vmm, target, error) ||
        !await_balloon(move, target, RECLAIM_FIRST_MS, &reached, error))
        return FALSE;
    move->report->reclaim = MIGRATE_RECLAIM_DONE;
    if (reached > target) {
        /* It is not pressed for more while it moves. */
        move->report->reclaim = MIGRATE_RECLAIM_PARTLY;
        if (!vmm_set_balloon(move->job->vmm, reached, error))
            return FALSE;
    }
    move->report->reclaimed_bytes = now - MIN(now, reached);
    return TRUE;
}

static gboolean reclaim(SourceMove *move, GError **error)
{
    uint64_t free, now, target;

    if (!check_possible(move, error) || !ask_guest(move, &free, &now, error))
        return FALSE;
    target = reclaim_get_target(now, free);
    if (free == 0)
        move->report->reclaim = MIGRATE_RECLAIM_NO_ANSWER;
    else if (target == now)
        move->report->reclaim = MIGRATE_RECLAIM_LITTLE;
    else
        return inflate(move, now, target, error);
    return TRUE;
}

gboolean source_reclaim(SourceMove *move, GError **error)
{
    if (!move->job->options.reclaim_free)
        return TRUE;
    return reclaim(move, error) && source_check_limits(move, error);
}

void source_release_balloon(SourceMove *move)
{
    const MigrateSourceHost *host = &move->job->host;
    g_autoptr(GError) error = NULL;

    if (move->balloon_bytes == 0)
        return;
    for (int i = 0; i < LET_GO_ATTEMPTS; i++) {
        g_clear_error(&error);
        if (vmm_set_balloon(move->job->vmm, move->balloon_bytes, &error) ||
            error_is(error, VMFERRY_ERROR_DISCONNECTED))
            break;
    }
    if (error) {
        /* It stays on record, for the agent's next start. */
        log_warning("guest %s: its balloon could not be let go: %s", move->job->guest,
                    error->message);
    } else {
        guard_disarm(move->guard, GUARD_SLOT_BALLOON, NULL);
        host->note_balloon(0, host->user, NULL);
    }
    move->balloon_bytes = 0;
    move->report->reclaimed_bytes = 0;
}

/* A guest that goes to a VMM of another kind (vmm.h: the neutral form). */
#include "migrate/source_move.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "state/tree.h"
#include "vmm/vmm_driver.h"

/* What it runs on for between two tries: longer each time, since each try costs it more than that. */
#define MOMENT_NS 1000000ULL
#define MOMENT_MOST_NS 64000000ULL

static const char *wanted_kind(const SourceMove *move)
{
    const char *kind = migrate_vmm_kind(move->job->options.vmm);

    return kind ? kind : move->description->kind;
}

/* Where the same kind is asked for by name, too: QEMU to QEMU, of which one has KVM and the other has not. */
static gboolean goes_neutral(const SourceMove *move, const char *kind)
{
    return move->job->options.vmm > 0 || strcmp(kind, move->description->kind) != 0 ||
           (move->job->vmm->neutral && move->job->vmm->neutral->only);
}

/* What reads a page of a VMM's own form later, or copies disks by a VMM, is not for another one. */
static gboolean check_options(const SourceMove *move, const char *kind, GError **error)
{
    const MigrateOptions *options = &move->job->options;
    const char *what =
        options->mode == MIGRATE_MODE_POSTCOPY || options->mode == MIGRATE_MODE_HYBRID ? "post-copy"
        : migrate_options_may_split(options) ? "--safety full"
        : options->disks == DISK_MODE_COPY || options->disks == DISK_MODE_TOP ||
                move->job->disk_modes
            ? "copying disks"
        : options->reclaim_free ? "--reclaim-free"
                                : NULL;

    if (!what)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s is not possible on the way to %s", what, kind);
    return FALSE;
}

/* Before anything is sent: the driver of that kind is in every agent.  The destination asks its own again. */
static gboolean check_plan(const SourceMove *move, const VmmDriver *driver, GError **error)
{
    g_auto(GStrv) line = NULL;

    if (!driver->plan) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "no guest of another VMM can go on in %s",
                  driver->kind);
        return FALSE;
    }
    line = driver->plan(move->neutral, error);
    return line != NULL;
}

static gboolean pick_regions(SourceMove *move, GError **error)
{
    GPtrArray *regions = vmm_list_neutral_regions(move->job->vmm, move->description, error);

    if (!regions)
        return FALSE;
    g_ptr_array_unref(move->description->ram_regions);
    move->description->ram_regions = regions;
    return TRUE;
}

gboolean source_describe_neutral(SourceMove *move, GError **error)
{
    const char *kind = wanted_kind(move);
    const VmmDriver *driver = vmm_driver_find(kind, error);

    if (!driver)
        return FALSE;
    if (move->image || !goes_neutral(move, kind))
        return TRUE;
    if (!check_options(move, kind, error))
        return FALSE;
    move->neutral = vmm_describe_neutral(move->job->vmm, move->machine, error);
    if (!move->neutral)
        return FALSE;
    if (!move->neutral->origin_line) {
        g_free(move->neutral->origin_kind);
        move->neutral->origin_kind = g_strdup(move->description->kind);
        move->neutral->origin_line = g_strdupv(move->command_line);
    }
    if (move->job->options.allow_cpu_mismatch)
        g_array_set_size(move->neutral->cpuid, 0);
    move->neutral_driver = driver;
    move->report->vmm = driver->kind;
    return check_plan(move, driver, error) && pick_regions(move, error);
}

gboolean source_check_neutral_peer(const SourceMove *move, GError **error)
{
    if (!move->neutral || peer_has_feature(&move->peer, FEATURE_NEUTRAL))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s takes no guests of another VMM",
              session_get_peer_name(move->session));
    return FALSE;
}

/* ---- the moment ---- */

static gboolean try_moment(const SourceMove *move, GError **error)
{
    g_autoptr(GBytes) bytes =
        vmm_save_neutral(move->job->vmm, VMM_SAVE_CHECKPOINT, move->neutral, error);
    g_autoptr(StateNode) state = NULL;

    if (bytes)
        state = state_decode(g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes), error);
    return state && state_check(state, error) &&
           (!move->neutral_driver->check_state || move->neutral_driver->check_state(state, error));
}

/* Its pause goes on afterwards: what it stood still before counts.  Its user may have paused it in between; then it
 * stays so. */
static gboolean run_on(SourceMove *move, uint64_t ns, GError **error)
{
    uint64_t stood_ns = clock_now_ns() - move->paused_ns;
    gboolean was_running = FALSE;

    if (!source_not_cancelled(move, error) || !vmm_resume(move->job->vmm, error))
        return FALSE;
    clock_sleep_ns(ns);
    move->paused_ns = clock_now_ns() - stood_ns;
    return vmm_pause(move->job->vmm, &was_running, error) &&
           (was_running || source_note_user_pause(move, error));
}

static gboolean may_try_again(const SourceMove *move, const GError *failure)
{
    return error_is(failure, VMFERRY_ERROR_BUSY) && !move->stays_paused &&
           clock_now_ns() - move->paused_ns < source_deadline_limit_ms(move) * 1000000;
}

gboolean source_find_moment(SourceMove *move, GError **error)
{
    uint64_t ns = MOMENT_NS;

    while (move->neutral) {
        g_autoptr(GError) failure = NULL;

        if (try_moment(move, &failure))
            return TRUE;
        if (!may_try_again(move, failure)) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return FALSE;
        }
        if (!run_on(move, ns, error))
            return FALSE;
        ns = MIN(2 * ns, MOMENT_MOST_NS);
        move->report->moments++;
    }
    return TRUE;
}

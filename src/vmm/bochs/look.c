/*
 * Looking at a machine that runs
 *
 * A pause, `show`, and `c`.  The machine runs on whatever fails in between, and where the agent dies, as soon as it is back
 * (process.h).  Nobody else may change it meanwhile: its images stay locked, and the order of its VGA's memory (video.h) is
 * left alone.  At a moment that has no neutral form it is looked at again a little later.
 */
#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/settle.h"

/* Between two looks, doubled each time. */
#define FIRST_NS 1000000u
#define TRIES 8u

/* It has just stopped, or not. */
static GBytes *read_stopped(BochsVmm *bochs, gboolean stopped, GError **error)
{
    if (!stopped || fault_point("look.paused", error) ||
        !bochs_settle(bochs->process, bochs->line->machine.vcpus, error))
        return NULL;
    return bochs_read_state(bochs, error);
}

static GBytes *look_once(BochsVmm *bochs, double *ret_paused_ms, GError **error)
{
    BochsProcess *process = bochs->process;
    uint64_t begin = clock_now_ns();
    g_autoptr(GError) failure = NULL;
    GBytes *state = read_stopped(bochs, bochs_process_begin_look(process, error), error);

    if (!bochs_process_end_look(process, &failure)) {
        g_clear_pointer(&state, g_bytes_unref);
        g_clear_error(error);
        g_propagate_prefixed_error(error, g_steal_pointer(&failure),
                                   "the guest was paused for a look, and does not go on: ");
    }
    *ret_paused_ms = clock_ns_to_ms(clock_now_ns() - begin);
    return state;
}

static GBytes *look_until_told(BochsVmm *bochs, double *ret_paused_ms, GError **error)
{
    for (guint try = 0;; try++) {
        g_autoptr(GError) failure = NULL;
        GBytes *state = look_once(bochs, ret_paused_ms, &failure);

        if (state)
            return state;
        if (try + 1 == TRIES || !error_is(failure, VMFERRY_ERROR_BUSY) ||
            !bochs_process_runs(bochs->process)) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return NULL;
        }
        clock_sleep_ns((uint64_t)FIRST_NS << try);
    }
}

GBytes *bochs_look(BochsVmm *bochs, double *ret_paused_ms, GError **error)
{
    BochsProcess *process = bochs->process;

    *ret_paused_ms = 0;
    if (bochs_awaits_state(bochs)) {
        error_set(error, VMFERRY_ERROR_REFUSED, "the guest's state was not loaded");
        return NULL;
    }
    if (bochs_process_runs(process) || process->interrupted || process->looked_at)
        return look_until_told(bochs, ret_paused_ms, error);
    if (bochs_console_await_prompt(process->console, BOCHS_COMMAND_MS, NULL, error))
        return bochs_read_state(bochs, error);
    return NULL;
}

#include "vmm/bochs/settle.h"

#include "base/clock.h"
#include "base/error.h"
#include "vmm/bochs/parameters.h"

/* Half of what a guest needs from a transfer's end to the next one.  Not a time breakpoint of Bochs, which comes again and again. */
#define STEPS "25000"
#define STEP_MS 1000

/* Parameters that say so with bits that are set; the first of each list is what is shown. */
static const struct {
    const char *list;
    const char *path;
    uint64_t mask;
    gboolean when_clear;
} signs[] = {
    {"pci_ide", "0.status", 1, FALSE},
    {"pci_ide", "1.status", 1, FALSE},
    {"serial.0.line_status", "tsr_empty", 1, TRUE},
};

/* TRUE while a disk's transfer or a byte of the serial port is under way. */
static gboolean ask_busy(BochsProcess *process, gboolean *ret_busy, GError **error)
{
    g_autoptr(BochsNode) shown = NULL;

    *ret_busy = FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(signs) && !*ret_busy; i++) {
        uint64_t value;

        if (i == 0 || signs[i].list != signs[i - 1].list) {
            g_clear_pointer(&shown, bochs_node_free);
            shown = bochs_show(process->console, signs[i].list, error);
        }
        if (!shown || !bochs_tree_get(shown, signs[i].path, &value, error))
            return FALSE;
        *ret_busy = ((value & signs[i].mask) != 0) != signs[i].when_clear;
    }
    return TRUE;
}

/* Of instructions: while the guest waits for the disk its time passes without any.  One that has halted for good executes none:
 * then it is stopped.  Several processors go on together: time passes with each of their steps, whether they have halted or not. */
static gboolean step(BochsProcess *process, guint vcpus, gboolean *ret_stuck, GError **error)
{
    const char *command = vcpus > 1 ? "s all " STEPS : "s " STEPS;
    g_autoptr(GError) failure = NULL;

    *ret_stuck = FALSE;
    if (!bochs_console_send(process->console, command, error))
        return FALSE;
    if (bochs_console_await_prompt(process->console, STEP_MS, NULL, &failure))
        return TRUE;
    *ret_stuck = error_is(failure, VMFERRY_ERROR_TIMEOUT);
    if (*ret_stuck)
        return bochs_process_break(process, error);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

gboolean bochs_settle(BochsProcess *process, guint vcpus, GError **error)
{
    uint64_t begin = clock_now_ns();
    gboolean busy, stuck;

    for (;;) {
        if (!ask_busy(process, &busy, error))
            return FALSE;
        if (!busy || clock_ns_to_ms(clock_now_ns() - begin) > BOCHS_SETTLE_MS)
            return TRUE;
        if (!step(process, vcpus, &stuck, error))
            return FALSE;
        if (stuck)
            return TRUE;
    }
}

#include "protect/held_output.h"

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "net/tap_plug.h"

#define NAME_FORMAT "vmferry-hold-%u"

struct HeldOutput {
    OutputBuffer *buffer;
    guint count;     /* of cards that the VMM holds */
    GPtrArray *taps; /* of TapPlug: what it cannot hold */
    uint64_t cut;
    void (*waits)(gpointer user);
    gpointer user;
};

static void on_event(OutputBufferEvent event, gpointer user)
{
    HeldOutput *held = user;
    g_autoptr(GError) problem = NULL;

    if (event == OUTPUT_BUFFER_HELD)
        held->waits(held->user);
    else if (!output_buffer_check(held->buffer, &problem))
        log_warning("held output: %s", problem->message);
}

/* ---- what can be held ---- */

static gboolean check_tap(Vmm *vmm, const VmmNic *nic, GError **error)
{
    autofd int tap = vmm_open_tap_interface(vmm, nic->id, error);

    return tap >= 0 && tap_plug_check(tap, error);
}

static gboolean check_nic(Vmm *vmm, const VmmNic *nic, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (!nic->obstacle || (nic->id && check_tap(vmm, nic, &why)))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "what the guest sends through %s cannot be held back: %s%s%s", nic->device,
              nic->obstacle, why ? "; at its tap interface: " : "", why ? why->message : "");
    return FALSE;
}

gboolean held_output_check(Vmm *vmm, GError **error)
{
    g_autoptr(GPtrArray) nics = vmm_list_nics(vmm, error);

    for (guint i = 0; nics && i < nics->len; i++)
        if (!check_nic(vmm, nics->pdata[i], error))
            return FALSE;
    return nics != NULL;
}

/* ---- holding ---- */

static gboolean hold_by_vmm(HeldOutput *held, Vmm *vmm, const char *nic, GError **error)
{
    g_autofree char *name = g_strdup_printf(NAME_FORMAT, held->count);
    VmmHold hold = {name, nic};
    VmmHoldEnds ends;

    if (!vmm_begin_hold(vmm, &hold, &ends, error))
        return FALSE;
    held->count++;
    output_buffer_add_nic(held->buffer, ends.sent, ends.back);
    return TRUE;
}

static gboolean hold_by_kernel(HeldOutput *held, Vmm *vmm, const char *nic, GError **error)
{
    autofd int fd = vmm_open_tap_interface(vmm, nic, error);
    TapPlug *tap =
        fd >= 0 ? tap_plug_begin(fd, vmm_get_pid(vmm), OUTPUT_BUFFER_LIMIT_BYTES, error) : NULL;

    if (!tap)
        return FALSE;
    g_ptr_array_add(held->taps, tap);
    output_buffer_add_tap(held->buffer, tap);
    return TRUE;
}

static gboolean hold_all(HeldOutput *held, Vmm *vmm, const GPtrArray *nics, GError **error)
{
    for (guint i = 0; i < nics->len; i++) {
        const VmmNic *nic = nics->pdata[i];

        if (nic->id && !(nic->obstacle ? hold_by_kernel : hold_by_vmm)(held, vmm, nic->id, error)) {
            g_prefix_error(error, "output of %s: ", nic->device);
            return FALSE;
        }
    }
    return TRUE;
}

HeldOutput *held_output_begin(Vmm *vmm, void (*waits)(gpointer user), gpointer user, GError **error)
{
    g_autoptr(GPtrArray) nics = vmm_list_nics(vmm, error);
    HeldOutput *held;

    if (!nics)
        return NULL;
    held = g_new0(HeldOutput, 1);
    held->taps = g_ptr_array_new_with_free_func((GDestroyNotify)tap_plug_free);
    held->waits = waits;
    held->user = user;
    held->buffer = output_buffer_new(&(OutputBufferOptions){.func = on_event, .user = held}, error);
    if (held->buffer && hold_all(held, vmm, nics, error))
        return held;
    if (held->buffer)
        held_output_end(held, vmm);
    else
        held_output_free(held);
    return NULL;
}

static gboolean cut(gpointer user, GError **error)
{
    HeldOutput *held = user;

    held->cut = output_buffer_cut(held->buffer);
    return output_buffer_check(held->buffer, error);
}

static void release(gpointer user)
{
    HeldOutput *held = user;

    output_buffer_release(held->buffer, held->cut);
}

CheckpointOutput held_output_get(HeldOutput *held)
{
    return (CheckpointOutput){.cut = cut, .release = release, .user = held};
}

void held_output_end(HeldOutput *held, Vmm *vmm)
{
    if (!held)
        return;
    output_buffer_pass(held->buffer);
    for (guint i = 0; i < held->count; i++) {
        g_autofree char *name = g_strdup_printf(NAME_FORMAT, i);
        g_autoptr(GError) problem = NULL;

        if (!vmm_end_hold(vmm, name, &problem))
            log_warning("the hold on a network card is not taken out: %s", problem->message);
    }
    /* Its thread uses them. */
    g_clear_pointer(&held->buffer, output_buffer_free);
    for (guint i = 0; i < held->taps->len; i++) {
        g_autoptr(GError) problem = NULL;

        if (!tap_plug_end(held->taps->pdata[i], &problem))
            log_warning("the hold on a tap interface is not taken out: %s", problem->message);
    }
    held_output_free(held);
}

static gboolean remove_tap(Vmm *vmm, const char *nic, GError **error)
{
    autofd int tap = vmm_open_tap_interface(vmm, nic, NULL);

    return tap < 0 || tap_plug_remove(tap, error);
}

gboolean held_output_remove(Vmm *vmm, GError **error)
{
    g_autoptr(GPtrArray) nics = vmm_list_nics(vmm, error);

    for (guint i = 0; nics && i < nics->len; i++) {
        g_autofree char *name = g_strdup_printf(NAME_FORMAT, i);

        const VmmNic *nic = nics->pdata[i];

        if (!vmm_end_hold(vmm, name, error) ||
            (nic->id && nic->obstacle && !remove_tap(vmm, nic->id, error)))
            return FALSE;
    }
    return nics != NULL;
}

void held_output_sweep(void)
{
    tap_plug_sweep();
}

void held_output_free(HeldOutput *held)
{
    if (!held)
        return;
    output_buffer_free(held->buffer);
    g_ptr_array_unref(held->taps);
    g_free(held);
}

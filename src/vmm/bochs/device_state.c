/* The device state of a Bochs as bytes: the neutral state, encoded. */
#include "base/error.h"
#include "state/state_machine.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/live.h"
#include "vmm/bochs/places.h"
#include "vmm/bochs/plan.h"
#include "vmm/bochs/record.h"

/* It stands at its prompt. */
static gboolean check_prompt(BochsVmm *bochs, GError **error)
{
    if (bochs_console_await_prompt(bochs->process->console, 0, NULL, NULL))
        return bochs_process_note_run(bochs->process, FALSE, error);
    error_set(error, VMFERRY_ERROR_BUSY, "the guest is not paused");
    return FALSE;
}

static GBytes *show_state(BochsVmm *bochs, GError **error)
{
    g_autoptr(BochsForm) shown = bochs_form_show(bochs->process, &bochs->line->machine, error);
    g_autoptr(MachineDescription) machine = bochs_describe(&bochs->line->machine);
    g_autoptr(StateNode) state = NULL;

    if (!shown || !bochs_places_read(bochs->process, bochs->places, shown, error))
        return NULL;
    state = bochs_form_to_state(shown, bochs->loaded, error);
    if (!state)
        return NULL;
    state_note_machine(state, machine);
    return state_encode(state);
}

/* Showing all devices is most of what a move takes of the pause, and it asks twice: at one prompt the state is one. */
static gboolean update_saved(BochsVmm *bochs, GError **error)
{
    BochsConsole *console = bochs->process->console;
    guint64 prompt = bochs_console_get_prompt(console);

    if (bochs->saved && prompt != 0 && prompt == bochs->saved_at)
        return TRUE;
    g_clear_pointer(&bochs->saved, g_bytes_unref);
    bochs->saved = show_state(bochs, error);
    bochs->saved_at = bochs_console_get_prompt(console);
    return bochs->saved != NULL;
}

GBytes *bochs_read_state(BochsVmm *bochs, GError **error)
{
    return update_saved(bochs, error) ? g_bytes_ref(bochs->saved) : NULL;
}

GBytes *bochs_save_device_state(BochsVmm *bochs, VmmSavePurpose purpose, GError **error)
{
    if (!check_prompt(bochs, error) || !update_saved(bochs, error) ||
        (purpose == VMM_SAVE_SWITCHOVER && !bochs_release_images(bochs, error)))
        return NULL;
    return g_bytes_ref(bochs->saved);
}

static gboolean is_same_region(const RamRegion *own, const RamRegion *other)
{
    return g_strcmp0(other->name, own->name) == 0 && other->bytes == own->bytes;
}

/* Each of these regions is one of ours, of the same size, and RAM is among them; their content is the caller's. */
static gboolean are_same_regions(const BochsVmm *bochs, const GPtrArray *regions)
{
    guint ram = 0, video = 0;

    for (guint i = 0; i < regions->len; i++) {
        ram += is_same_region(bochs->ram, regions->pdata[i]);
        video += bochs->video && is_same_region(bochs->video, regions->pdata[i]);
    }
    return ram == 1 && video <= 1 && ram + video == regions->len;
}

static gboolean check_regions(const BochsVmm *bochs, const GPtrArray *regions, GError **error)
{
    if (bochs->has_run)
        error_set(error, VMFERRY_ERROR_REFUSED, "the guest of this Bochs has run already");
    else if (!are_same_regions(bochs, regions))
        error_set(error, VMFERRY_ERROR_REFUSED, "the guest's memory is not that of this Bochs");
    else
        return TRUE;
    return FALSE;
}

/* What it shows is taken before the source's pause. */
gboolean bochs_open_incoming(BochsVmm *bochs, const char *machine, const GPtrArray *regions,
                             GError **error)
{
    if (!check_regions(bochs, regions, error) || !check_prompt(bochs, error))
        return FALSE;
    g_clear_pointer(&bochs->fresh, bochs_form_free);
    bochs->fresh = bochs_form_show(bochs->process, &bochs->line->machine, error);
    return bochs->fresh != NULL;
}

static gboolean check_opened(BochsVmm *bochs, GError **error)
{
    if (bochs->fresh && !bochs->loaded && !bochs->has_run)
        return check_prompt(bochs, error);
    error_set(error, VMFERRY_ERROR_REFUSED, "this Bochs does not wait for a state");
    return FALSE;
}

gboolean bochs_load_device_state(BochsVmm *bochs, GBytes *bytes, GError **error)
{
    g_autoptr(StateNode) state =
        state_decode(g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes), error);
    g_autoptr(BochsForm) wanted = NULL;

    if (!state || !check_opened(bochs, error) ||
        !state_check_ram(state, bochs->ram->bytes, "Bochs", error))
        return FALSE;
    wanted = bochs_form_from_state(state, bochs->fresh, error);
    if (!wanted || !bochs_places_write(bochs->process, bochs->places, wanted, error) ||
        !bochs_form_restore(bochs->process, bochs->ram->host_address, wanted, error))
        return FALSE;
    if (!bochs_record_write_loaded(bochs, bytes, error))
        return FALSE;
    g_clear_pointer(&bochs->loaded, state_free);
    bochs->loaded = g_steal_pointer(&state);
    return TRUE;
}

#include "agent/restored_guest.h"

#include "base/error.h"
#include "base/log.h"
#include "vmm/vmm_driver.h"

/* Until a guest has let its cards go. */
#define CARDS_TIMEOUT_US (30 * G_TIME_SPAN_SECOND)

/* ---- before anything is begun ---- */

static gboolean check_agent(const VmmDriver *driver, char *const *command_line, GError **error)
{
    if (driver->check_agent)
        return driver->check_agent(command_line, error);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "a VMM of kind \"%s\" has no agents in guests",
              driver->kind);
    return FALSE;
}

static gboolean check_new_macs(const VmmDriver *driver, json_t *machine, GError **error)
{
    if (driver->check_new_macs)
        return driver->check_new_macs(machine, error);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "a VMM of kind \"%s\" exchanges no network cards",
              driver->kind);
    return FALSE;
}

gboolean restored_guest_check(const ImageRestore *image, const RestoredGuestWishes *wishes,
                              GError **error)
{
    const GuestMessage *machine = image_restore_get_machine(image);
    const VmmDriver *driver = vmm_driver_find(machine->vmm_kind, error);

    if (!driver)
        return FALSE;
    if ((wishes->new_macs || wishes->sets_clock) &&
        json_is_true(json_object_get(image_restore_get_note(image), "paused"))) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the guest was saved while it was paused, and has to run for %s",
                  wishes->new_macs ? "new addresses" : "its clock to be set");
        return FALSE;
    }
    return (!wishes->sets_clock || check_agent(driver, machine->command_line, error)) &&
           (!wishes->new_macs || check_new_macs(driver, machine->live, error));
}

gboolean restored_guest_plan(Vmm *vmm, const RestoredGuestWishes *wishes, json_t **ret,
                             GError **error)
{
    json_t *cards = NULL;

    *ret = NULL;
    if (!wishes->new_macs && !wishes->sets_clock)
        return TRUE;
    if (wishes->new_macs && !(cards = vmm_plan_new_macs(vmm, error)))
        return FALSE;
    *ret = json_pack("{s:o*, s:b}", "cards", cards, "clock", wishes->sets_clock);
    return TRUE;
}

/* ---- while it runs ---- */

void restored_guest_clear(RestoredGuest *restored)
{
    if (restored->failed)
        g_string_free(restored->failed, TRUE);
    restored->failed = NULL;
}

static void note_failure(RestoredGuest *restored, const char *type, const char *what,
                         const char *why)
{
    event_log_add(restored->context->events, restored->guest->name, type, NULL, "%s: %s", what,
                  why);
    if (restored->failed)
        g_string_append(restored->failed, "; ");
    else
        restored->failed = g_string_new(NULL);
    g_string_append_printf(restored->failed, "%s: %s", what, why);
}

/* For users: without what the driver needs. */
static json_t *describe_cards(json_t *cards)
{
    json_t *list = json_array(), *card;
    size_t i;

    json_array_foreach(cards, i, card)
    {
        json_array_append_new(list, json_pack("{s:O, s:O, s:O}", "netdev",
                                              json_object_get(card, "netdev"), "mac_before",
                                              json_object_get(card, "mac_before"), "mac",
                                              json_object_get(card, "mac")));
    }
    return json_pack("{s:o}", "cards", list);
}

static char *list_addresses(json_t *cards)
{
    GString *text = g_string_new(NULL);
    json_t *card;
    size_t i;

    json_array_foreach(cards, i, card)
    {
        g_string_append_printf(text, "%s%s at %s", text->len > 0 ? ", " : "",
                               json_text_or(card, "mac", "?"), json_text_or(card, "netdev", "?"));
    }
    return g_string_free(text, FALSE);
}

/* TRUE: done, or given up. */
static gboolean renew_cards(RestoredGuest *restored, Vmm *vmm, json_t *cards)
{
    g_autoptr(GError) error = NULL;
    gboolean done = FALSE;

    if (vmm_renew_macs(vmm, cards, &done, &error) && done) {
        g_autofree char *list = list_addresses(cards);

        vmm_announce(vmm, NULL);
        event_log_add(restored->context->events, restored->guest->name, "new-addresses",
                      describe_cards(cards), "has new addresses: %s", list);
        return TRUE;
    }
    if (g_get_monotonic_time() < restored->until)
        return FALSE;
    note_failure(restored, "no-new-addresses", "has no new addresses, and is cut off",
                 error ? error->message : "its guest does not let its cards go");
    return TRUE;
}

static gboolean is_stopping(gpointer user)
{
    return agent_context_is_stopping(user);
}

static void set_clock(RestoredGuest *restored, Vmm *vmm)
{
    g_autoptr(GError) error = NULL;

    if (vmm_set_clock(vmm, is_stopping, restored->context, &error))
        event_log_add(restored->context->events, restored->guest->name, "clock-set", NULL,
                      "its clock has this host's time");
    else if (!error_is(error, VMFERRY_ERROR_CANCELLED))
        note_failure(restored, "clock-not-set", "its clock was not set", error->message);
}

static void forget(Guest *guest)
{
    GuestRecord *record = registry_get_record(guest);
    g_autoptr(GError) problem = NULL;

    json_decref(record->renewal);
    record->renewal = NULL;
    if (!registry_journal_record(guest, record, &problem))
        log_warning("guest %s: %s", guest->name, problem->message);
}

gboolean restored_guest_go_on(RestoredGuest *restored)
{
    g_autoptr(GuestRecord) record = registry_get_record(restored->guest);
    Vmm *vmm = record->renewal ? registry_get_vmm(restored->guest, NULL) : NULL;
    json_t *cards = json_object_get(record->renewal, "cards");

    if (!vmm)
        return TRUE;
    if (restored->until == 0)
        restored->until = g_get_monotonic_time() + CARDS_TIMEOUT_US;
    if (cards && !renew_cards(restored, vmm, cards))
        return FALSE;
    if (json_is_true(json_object_get(record->renewal, "clock")))
        set_clock(restored, vmm);
    if (agent_context_is_stopping(restored->context))
        return FALSE;
    forget(restored->guest);
    return TRUE;
}

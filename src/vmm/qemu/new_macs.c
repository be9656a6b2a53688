#include "vmm/qemu/new_macs.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "vmm/qemu/device_options.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/machine.h"

#define ANONYMOUS_FOLDER "/machine/peripheral-anon"
#define NAMED_FOLDER "/machine/peripheral"
#define MAC_BYTES 6
#define SETTLE_NS 1000000000u
#define ASK_AGAIN_NS 10000000000ULL

/* ---- what can be taken out ---- */

/* Of buses that take and give devices while the guest runs. */
static const char *const bus_owners[] = {"i440FX-pcihost", "pci-bridge",         "pcie-pci-bridge",
                                         "pcie-root-port", "xio3130-downstream", NULL};

typedef struct {
    const QemuMachine *machine;
    guint cards;
    GError *error;
} CardCheck;

static void refuse(CardCheck *check, const QemuDevice *device, const char *why)
{
    g_autofree char *name = device_describe(device);

    error_set(&check->error, VMFERRY_ERROR_UNSUPPORTED, "card %s cannot get a new address: %s",
              name, why);
}

static gboolean was_made_by_device_option(const QemuMachine *machine, const QemuDevice *device)
{
    if (*device->id)
        return qemu_object_find(machine->named, device->id) != NULL;
    for (guint i = 0; i < machine->anonymous->len; i++)
        if (strcmp(((QemuObject *)machine->anonymous->pdata[i])->type, device->driver) == 0)
            return TRUE;
    return FALSE;
}

/* A virtio device sits alone on the bus of its proxy, which is what can be unplugged. */
static const QemuDevice *get_card(const QemuDevice *device)
{
    const QemuBus *bus = device->bus;

    return bus->owner && g_str_has_prefix(bus->type, "virtio-") ? bus->owner : device;
}

static void check_card(QemuDevice *device, gpointer user)
{
    CardCheck *check = user;
    const char *netdev = g_hash_table_lookup(device->properties, "netdev");
    const QemuDevice *card = get_card(device);
    const char *owner = card->bus->owner ? card->bus->owner->driver : "";

    if (!netdev || !*netdev || check->error)
        return;
    check->cards++;
    if (!g_strv_contains(bus_owners, owner))
        refuse(check, device, "its place is none from which a card can be unplugged");
    else if (!was_made_by_device_option(check->machine, card))
        refuse(check, device, "no -device option has made it");
}

gboolean qemu_check_new_macs(json_t *object, GError **error)
{
    g_autoptr(QemuMachine) machine = qemu_machine_parse(object, error);
    CardCheck check = {.machine = machine};

    if (!machine)
        return FALSE;
    device_tree_visit(machine->devices, check_card, &check);
    if (check.error) {
        g_propagate_error(error, check.error);
        return FALSE;
    }
    if (check.cards > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "the machine has no network card");
    return FALSE;
}

/* ---- the plan ---- */

char *qemu_make_mac(void)
{
    guint8 byte[MAC_BYTES];

    for (guint i = 0; i < MAC_BYTES; i++)
        byte[i] = (guint8)g_random_int_range(0, 256);
    /* IEEE 802: bit 0 is for groups, bit 1 for addresses that nobody has registered. */
    byte[0] = (guint8)((byte[0] & 0xfcu) | 2u);
    return g_strdup_printf("%02x:%02x:%02x:%02x:%02x:%02x", byte[0], byte[1], byte[2], byte[3],
                           byte[4], byte[5]);
}

/* NULL: it has no such property, or is not there. */
static char *get_text(Qmp *qmp, const char *path, const char *property, GError **error)
{
    g_autoptr(json_t) value =
        qmp_execute(qmp, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", property),
                    QMP_COMMAND_MS, error);

    return g_strdup(json_string_value(value));
}

static json_t *make_options(QemuVmm *qemu, const QemuObject *card, const char *path,
                            const char *mac, const char *id, GError **error)
{
    json_t *options = qemu_read_settings(path, card->type, qemu->qmp, error);
    g_autofree char *bus = NULL;

    if (!options)
        return NULL;
    bus = qemu_settings_to_options(options);
    json_object_set_new(options, "driver", json_string(card->type));
    json_object_set_new(options, "mac", json_string(mac));
    json_object_set_new(options, "id", json_string(id));
    return options;
}

static json_t *plan_card(QemuVmm *qemu, const QemuObject *card, const char *path, gboolean named,
                         const char *netdev, GError **error)
{
    g_autofree char *before = get_text(qemu->qmp, path, "mac", error);
    g_autofree char *mac = qemu_make_mac();
    g_autofree char *id = named ? g_strdup(card->name) : g_strconcat("vmferry-", netdev, NULL);
    json_t *options = before ? make_options(qemu, card, path, mac, id, error) : NULL;

    if (!options)
        return NULL;
    return json_pack("{s:s, s:s?, s:s, s:s, s:s, s:o}", "path", path, "id",
                     named ? card->name : NULL, "netdev", netdev, "mac_before", before, "mac", mac,
                     "options", options);
}

static gboolean set_link(QemuVmm *qemu, const char *netdev, gboolean up, GError **error)
{
    return qmp_run(qemu->qmp, "set_link", json_pack("{s:s, s:b}", "name", netdev, "up", up),
                   QMP_COMMAND_MS, error);
}

/* Those that are no cards have no back end. */
static gboolean plan_folder(QemuVmm *qemu, const GPtrArray *objects, const char *folder,
                            json_t *plan, GError **error)
{
    for (guint i = 0; i < objects->len; i++) {
        const QemuObject *object = objects->pdata[i];
        g_autofree char *path = g_strdup_printf("%s/%s", folder, object->name);
        g_autofree char *netdev = get_text(qemu->qmp, path, "netdev", NULL);
        gboolean named = strcmp(folder, NAMED_FOLDER) == 0;
        json_t *entry;

        if (!netdev || !*netdev)
            continue;
        entry = plan_card(qemu, object, path, named, netdev, error);
        if (!entry)
            return FALSE;
        json_array_append_new(plan, entry);
        if (!set_link(qemu, netdev, FALSE, error))
            return FALSE;
    }
    return TRUE;
}

json_t *qemu_plan_new_macs(QemuVmm *qemu, GError **error)
{
    g_autoptr(QemuMachine) machine = qemu_machine_read(qemu->qmp, qemu->copies, error);
    g_autoptr(json_t) plan = json_array();

    if (!machine || !plan_folder(qemu, machine->named, NAMED_FOLDER, plan, error) ||
        !plan_folder(qemu, machine->anonymous, ANONYMOUS_FOLDER, plan, error))
        return NULL;
    return g_steal_pointer(&plan);
}

/* ---- doing it ---- */

/* TRUE where the card at *path* is the one with this address. */
static gboolean has_mac(Qmp *qmp, const char *path, const char *mac)
{
    g_autofree char *now = get_text(qmp, path, "mac", NULL);

    return now && g_ascii_strcasecmp(now, mac) == 0;
}

/* It may not have heard.  Who asks at each look has QEMU (since 8.0) tell the guest each time, and what it still has to
 * hear then counts for the new card; a second push of a PCIe slot's button calls the first one off. */
static gboolean is_time_to_ask(QemuVmm *qemu)
{
    uint64_t now = clock_now_ns();

    if (qemu->unplugged_ns != 0 && now - qemu->unplugged_ns < ASK_AGAIN_NS)
        return FALSE;
    qemu->unplugged_ns = now;
    return TRUE;
}

static gboolean take_out(Qmp *qmp, const char *path, GError **error)
{
    g_autoptr(GError) problem = NULL;

    if (qmp_run(qmp, "device_del", json_pack("{s:s}", "id", path), QMP_COMMAND_MS, &problem) ||
        strstr(problem->message, "in the process of unplug"))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

/* A guest that is still about the card that it has let go of misses the news of another one in the same place (seen of
 * Linux 6.1 behind a port of a q35, on QEMU 7.2 and 10.0). */
static gboolean is_time_to_put_in(QemuVmm *qemu)
{
    if (qemu->card_gone_ns == 0)
        qemu->card_gone_ns = clock_now_ns();
    return clock_now_ns() - qemu->card_gone_ns >= SETTLE_NS;
}

static gboolean put_in(QemuVmm *qemu, json_t *entry, GError **error)
{
    json_t *options = json_object_get(entry, "options");

    qemu->card_gone_ns = 0;
    return qmp_run(qemu->qmp, "device_add", json_deep_copy(options), QMP_COMMAND_MS, error) &&
           set_link(qemu, json_text_or(entry, "netdev", ""), TRUE, error);
}

static gboolean renew_one(QemuVmm *qemu, json_t *entry, gboolean asks, gboolean *ret_done,
                          GError **error)
{
    const char *id = json_text_or(json_object_get(entry, "options"), "id", "");
    g_autofree char *path_after = g_strdup_printf(NAMED_FOLDER "/%s", id);
    const char *path = json_text_or(entry, "path", "");

    *ret_done = FALSE;
    if (has_mac(qemu->qmp, path_after, json_text_or(entry, "mac", ""))) {
        *ret_done = TRUE;
        return set_link(qemu, json_text_or(entry, "netdev", ""), TRUE, error);
    }
    if (has_mac(qemu->qmp, path, json_text_or(entry, "mac_before", "")))
        return !asks || take_out(qemu->qmp, path, error);
    *ret_done = is_time_to_put_in(qemu);
    return !*ret_done || put_in(qemu, entry, error);
}

gboolean qemu_renew_macs(QemuVmm *qemu, json_t *plan, gboolean *ret_done, GError **error)
{
    gboolean asks = is_time_to_ask(qemu);
    json_t *entry;
    size_t i;

    *ret_done = TRUE;
    json_array_foreach(plan, i, entry)
    {
        gboolean done;

        if (!renew_one(qemu, entry, asks, &done, error)) {
            g_prefix_error(error, "card at %s: ", json_text_or(entry, "netdev", "?"));
            return FALSE;
        }
        *ret_done = *ret_done && done;
    }
    return TRUE;
}

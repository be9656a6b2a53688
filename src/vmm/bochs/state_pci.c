/* The chipset: host bridge, ISA bridge, IDE, power management. */
#include "vmm/bochs/form_private.h"

#include <string.h>

#include "base/error.h"

#define PAM0 0x59u
#define AREAS 13u /* of Bochs's memory: C0000h to EFFFFh by 16 KiB, then F0000h */

static gboolean refuse(GError **error, const char *path, const char *why)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s: %s", path, why);
    return FALSE;
}

/* Ids and classes are what both have; the rest is as the guest has set it. */
static gboolean write_config(const StateNode *device, const char *name, BochsForm *wanted,
                             GError **error)
{
    size_t length = 0;
    const uint8_t *bytes = state_get_bytes(device, "config", &length);

    if (!bytes || length != BOCHS_CONFIG_BYTES)
        return refuse(error, name, "no configuration space");
    bochs_form_set_bytes(wanted, name, "pci_conf", bytes, length);
    return TRUE;
}

static gboolean read_config(const BochsForm *shown, const char *name, StateNode *device,
                            GError **error)
{
    const uint8_t *bytes = bochs_form_get_bytes(shown, name, "pci_conf", BOCHS_CONFIG_BYTES);

    if (!bytes)
        return refuse(error, name, "its configuration space is not known");
    state_set_bytes(device, "config", bytes, BOCHS_CONFIG_BYTES);
    return TRUE;
}

/* ---- 82441FX ---- */

/* PAM0's upper half is of F0000h, PAM1 to PAM6 are of two areas each, the lower half first (290549, 3.2.18); bit
 * 0 of a half lets reads, bit 1 writes go to RAM. */
static void write_pam(const uint8_t *config, BochsNode *memory)
{
    for (guint area = 0; area < AREAS; area++) {
        gboolean last = area == AREAS - 1;
        guint pam = config[last ? PAM0 : PAM0 + 1 + area / 2];
        guint half = last || area % 2 ? pam >> 4 : pam;
        g_autofree char *reads = g_strdup_printf("memtype.%u_r", area);
        g_autofree char *writes = g_strdup_printf("memtype.%u_w", area);

        bochs_tree_set(memory, reads, BOCHS_NODE_BOOLEAN, half & 1);
        bochs_tree_set(memory, writes, BOCHS_NODE_BOOLEAN, half & 2);
    }
}

static gboolean write_host_bridge(const StateNode *device, const BochsForm *shown,
                                  BochsForm *wanted, GError **error)
{
    size_t length = 0;

    if (!write_config(device, "pci_bridge", wanted, error))
        return FALSE;
    write_pam(state_get_bytes(device, "config", &length), bochs_form_get(wanted, "memory"));
    return TRUE;
}

/* Port CF8h is not told by Bochs: it stays as it was loaded, and whoever uses it sets it before. */
static gboolean read_host_bridge(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                                 GError **error)
{
    return read_config(shown, "pci_bridge", device, error);
}

/* ---- 82371SB ---- */

static gboolean write_isa_bridge(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                                 GError **error)
{
    return write_config(device, "pci2isa", wanted, error);
}

static gboolean read_isa_bridge(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                                GError **error)
{
    return read_config(shown, "pci2isa", device, error);
}

/* ---- IDE ---- */

static const BochsField channel_fields[] = {
    BOCHS_FLAG("bus_master_command", "cmd_ssbm", 0),
    BOCHS_FLAG("bus_master_command", "cmd_rwcon", 3),
    BOCHS_HEX("bus_master_status", "status"),
    BOCHS_HEX("descriptor_table", "dtpr"),
    BOCHS_END,
};

static const BochsField drive_fields[] = {
    BOCHS_HEX("features", "features"),
    BOCHS_HEX("error", "error_register"),
    BOCHS_BITS("sector_count", "sector_count", 0, 8),
    BOCHS_HEX("sector", "sector_no"),
    BOCHS_HEX("previous_features", "hob_feature"),
    BOCHS_HEX("previous_sector", "hob_sector"),
    BOCHS_HEX("previous_sector_count", "hob_nsector"),
    BOCHS_HEX("previous_cylinder_low", "hob_lcyl"),
    BOCHS_HEX("previous_cylinder_high", "hob_hcyl"),
    BOCHS_BITS("device", "head_no", 0, 4),
    BOCHS_FLAG("device", "lba_mode", 6),
    BOCHS_FLAG("status", "status.err", 0),
    BOCHS_FLAG("status", "status.corrected_data", 2),
    BOCHS_FLAG("status", "status.drq", 3),
    BOCHS_FLAG("status", "status.seek_complete", 4),
    BOCHS_FLAG("status", "status.write_fault", 5),
    BOCHS_FLAG("status", "status.drive_ready", 6),
    BOCHS_FLAG("status", "status.busy", 7),
    BOCHS_HEX("multiple_sectors", "multiple_sectors"),
    BOCHS_END,
};

#define DEVICE_OBSOLETE 0xa0u /* bits 7 and 5, which read as 1 */

static void write_drive(const StateNode *drive, const char *under, uint64_t control, BochsNode *to)
{
    g_autofree char *cylinder = bochs_path(under, "cylinder_no");
    g_autofree char *no_interrupt = bochs_path(under, "control_disable_irq");

    bochs_fields_write(drive_fields, drive, to, under);
    bochs_tree_set(to, cylinder, BOCHS_NODE_HEX,
                   state_number_or(drive, "cylinder_low", 0) |
                       state_number_or(drive, "cylinder_high", 0) << 8);
    bochs_tree_set(to, no_interrupt, BOCHS_NODE_BOOLEAN, control & 2);
}

/* Drives that this Bochs has; the others have no registers in it. */
static gboolean write_channel(const StateNode *channel, guint number, const BochsForm *shown,
                              BochsForm *wanted, GError **error)
{
    g_autofree char *name = g_strdup_printf("%u", number);
    g_autofree char *select = g_strdup_printf("%u.drive_select", number);
    const StateNode *drives = state_find(channel, "drives");
    BochsNode *to = bochs_form_get(wanted, "hard_drive");

    bochs_fields_write(channel_fields, channel, bochs_form_get(wanted, "pci_ide"), name);
    bochs_tree_set(to, select, BOCHS_NODE_DECIMAL, state_number_or(channel, "selected", 0));
    for (guint i = 0; i < state_length(drives); i++) {
        const StateNode *drive = state_child(drives, i);
        g_autofree char *under = g_strdup_printf("%u.drive%u", number, i);

        if (!bochs_tree_find(bochs_form_find(shown, "hard_drive"), under))
            continue;
        write_drive(drive, under, state_number_or(channel, "device_control", 0), to);
    }
    return TRUE;
}

static gboolean write_ide(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                          GError **error)
{
    return write_config(device, "pci_ide", wanted, error) &&
           write_channel(state_find(device, "channels[0]"), 0, shown, wanted, error) &&
           write_channel(state_find(device, "channels[1]"), 1, shown, wanted, error);
}

static gboolean read_drive(const BochsNode *from, const char *under, StateNode *drive,
                           GError **error)
{
    g_autofree char *path = bochs_path(under, "cylinder_no");
    uint64_t cylinder;

    if (!bochs_tree_get(from, path, &cylinder, error) ||
        !bochs_fields_read(drive_fields, from, under, drive, error))
        return FALSE;
    state_set_number(drive, "device", state_number_or(drive, "device", 0) | DEVICE_OBSOLETE);
    state_set_number(drive, "cylinder_low", cylinder & 0xff);
    state_set_number(drive, "cylinder_high", cylinder >> 8 & 0xff);
    return TRUE;
}

static gboolean read_channel(const BochsForm *shown, guint number, StateNode *channel,
                             GError **error)
{
    const BochsNode *drives = bochs_form_find(shown, "hard_drive");
    g_autofree char *name = g_strdup_printf("%u", number);
    g_autofree char *select = g_strdup_printf("%u.drive_select", number);
    uint64_t selected;

    if (!bochs_fields_read(channel_fields, bochs_form_find(shown, "pci_ide"), name, channel,
                           error) ||
        !bochs_tree_get(drives, select, &selected, error))
        return FALSE;
    state_set_number(channel, "selected", selected & 1);
    (void)state_remove(channel, "dma");
    for (guint i = 0; i < 2; i++) {
        g_autofree char *under = g_strdup_printf("%u.drive%u", number, i);
        g_autofree char *path = g_strdup_printf("drives[%u]", i);

        if (bochs_tree_find(drives, under) &&
            !read_drive(drives, under, state_set_group(channel, path), error))
            return FALSE;
    }
    return TRUE;
}

static gboolean read_ide(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                         GError **error)
{
    return read_config(shown, "pci_ide", device, error) &&
           read_channel(shown, 0, state_set_group(device, "channels[0]"), error) &&
           read_channel(shown, 1, state_set_group(device, "channels[1]"), error);
}

/* ---- power management ---- */

static const BochsField acpi_fields[] = {
    BOCHS_HEX("pm1_status", "pmsts"),
    BOCHS_HEX("pm1_enable", "pmen"),
    BOCHS_HEX("pm1_control", "pmcntrl"),
    BOCHS_HEX("smbus.status", "smbus.stat"),
    BOCHS_HEX("smbus.control", "smbus.ctl"),
    BOCHS_HEX("smbus.command", "smbus.cmd"),
    BOCHS_HEX("smbus.address", "smbus.addr"),
    BOCHS_HEX("smbus.data0", "smbus.data0"),
    BOCHS_HEX("smbus.data1", "smbus.data1"),
    BOCHS_HEX("smbus.index", "smbus.index"),
    BOCHS_END,
};

static gboolean write_acpi(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                           GError **error)
{
    bochs_fields_write(acpi_fields, device, bochs_form_get(wanted, "acpi"), "");
    return write_config(device, "acpi", wanted, error);
}

static gboolean read_acpi(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                          GError **error)
{
    if (!bochs_fields_read(acpi_fields, bochs_form_find(shown, "acpi"), "", device, error))
        return FALSE;
    state_set_number(device, "pm_timer", bochs_clock_pm_timer(clock));
    return read_config(shown, "acpi", device, error);
}

const BochsDevice bochs_pci_devices[] = {
    {"intel,440fx", write_host_bridge, read_host_bridge},
    {"intel,piix3", write_isa_bridge, read_isa_bridge},
    {"intel,piix3-ide", write_ide, read_ide},
    {"intel,piix4-pm", write_acpi, read_acpi},
    {NULL, NULL, NULL},
};

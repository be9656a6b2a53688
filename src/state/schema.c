/* The root of the schema, and finding one's way in it. */
#include "state/schema.h"

#include <string.h>

#include "state/schema_tables.h"

static const StateField memory_fields[] = {
    STATE_NUMBER_FIELD("base", 64, "guest-physical address"),
    STATE_NUMBER_FIELD("bytes", 64, ""),
    STATE_TEXT_FIELD("kind", "\"ram\", or \"video\" (where the BAR of the VGA says)"),
    {NULL},
};

static const StateGroup memory_group = {"memory", "A part of the memory map.", NULL, memory_fields};

static const StateField disk_fields[] = {
    STATE_TEXT_FIELD("at", "the controller's place and the port: \"pci:00:01.1/0/0\""),
    STATE_OPTIONAL_NUMBER("bytes", 64, "not known"),
    STATE_OPTIONAL_TEXT("kind", "\"disk\" or \"cdrom\"; \"disk\""),
    {NULL},
};

static const StateGroup disk_group = {"disk", "A disk of the machine; its content is not here.",
                                      NULL, disk_fields};

static const StateField machine_fields[] = {
    STATE_TEXT_FIELD("architecture", "\"x86-64\""),
    STATE_OPTIONAL_TEXT("chipset", "type of the host bridge, as in devices; none"),
    STATE_OPTIONAL_NUMBER("ram_bytes", 64, "not known"),
    STATE_NUMBER_FIELD("a20", 1, "address line 20 is not masked"),
    {NULL},
};

static const StateGroup machine_group = {"machine", "What the machine is.", NULL, machine_fields};

static const StateField clock_fields[] = {
    STATE_NUMBER_FIELD("tsc", 64, "of the first processor, at the pause"),
    STATE_OPTIONAL_NUMBER("tsc_hz", 64, "not known"),
    STATE_TIME_FIELD("since_start", "how long the guest's clock has run when it was paused"),
    STATE_OPTIONAL_TIME("kvm_clock", "the KVM guest's clock at the pause; not there without one"),
    {NULL},
};

static const StateGroup clock_group = {
    "clock", "The guest's clock, from which all times in the tree are counted.", NULL,
    clock_fields};

/* Fields of every device; what is special is its type's. */
static const StateField device_fields[] = {
    STATE_TEXT_FIELD("type", "vendor and part"),
    STATE_TEXT_FIELD("at", "its place: `io:` port, `mmio:` address, `pci:` bus:device.function"),
    {NULL},
};

static const StateGroup device_group = {"device", "A device.", NULL, device_fields};

static const StateField root_fields[] = {
    STATE_GROUP_FIELD("machine", &machine_group, ""),
    STATE_OPTIONAL_GROUPS("memory", &memory_group, 0, "main memory, and the VGA's; not known"),
    STATE_GROUP_FIELD("clock", &clock_group, ""),
    STATE_GROUPS("cpus", &state_cpu_group, 0, "in the order of their APIC ids"),
    STATE_GROUPS("devices", &device_group, 0, "buses and interrupt controllers are devices, too"),
    STATE_OPTIONAL_GROUPS("disks", &disk_group, 0,
                          "those of controllers in `devices`, by their places; not known"),
    STATE_OPTIONAL_BYTES_LIST("pending_output", 0, 0,
                              "packets the guest has sent, which nobody has got yet; none"),
    {NULL},
};

static const StateGroup root_group = {"state", "The whole.", NULL, root_fields};

static const StateGroup *const devices[] = {
    &state_8259a_group,
    &state_82093aa_group,
    &state_8254_group,
    &state_mc146818_group,
    &state_hpet_group,
    &state_8237a_group,
    &state_440fx_group,
    &state_piix3_group,
    &state_piix3_ide_group,
    &state_piix4_pm_group,
    &state_16550a_group,
    &state_8042_group,
    &state_port92_group,
    &state_speaker_group,
    &state_vga_group,
    &state_82540em_group,
    NULL,
};

const StateGroup *state_schema_root(void)
{
    return &root_group;
}

const StateGroup *const *state_schema_devices(void)
{
    return devices;
}

const StateGroup *state_schema_device(const char *type)
{
    for (guint i = 0; type && devices[i]; i++)
        if (strcmp(devices[i]->name, type) == 0)
            return devices[i];
    return NULL;
}

static const StateField *field_of(const StateGroup *group, const char *name)
{
    for (const StateField *field = group->fields; field->name; field++)
        if (strcmp(field->name, name) == 0)
            return field;
    return NULL;
}

const StateField *state_schema_field(const StateGroup *group, const char *name)
{
    const StateField *field = field_of(group, name);

    /* Devices' tables leave out what all of them have. */
    return field || !group->place ? field : field_of(&device_group, name);
}

const StateGroup *state_schema_group(const StateField *field, const StateNode *node)
{
    return field->group == &device_group ? state_schema_device(state_get_text(node, "type"))
                                         : field->group;
}

gboolean state_name_is_optional(const char *name)
{
    return g_str_has_prefix(name, "x-");
}

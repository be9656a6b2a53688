/*
 * -drive and its short forms
 *
 * Each makes a block backend, whose name is its id or one that QEMU composes of
 * interface, bus and unit (drive_new() in QEMU's blockdev.c).  A backend lives
 * as long as its device does, and the nodes below it are what the guest has:
 * the overlay of a snapshot, the target of a mirror, another medium, none.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "vmm/qemu/live_line_private.h"

#define MAX_UNITS 4096u

/* ---- names ---- */

typedef struct {
    const LivePlan *plan;
    GHashTable *taken; /* "ide 0 1" of the options before */
    guint ide_units;   /* on a bus: 1 on AHCI, 2 on PIIX */
} DriveNamer;

/* "-cdrom x" is "-drive index=2,media=cdrom,file=x", and so on. */
static const struct {
    const char *option, *text;
} short_forms[] = {
    {"hda", "index=0,media=disk"},    {"hdb", "index=1,media=disk"}, {"hdc", "index=2,media=disk"},
    {"hdd", "index=3,media=disk"},    {"fda", "if=floppy,index=0"},  {"fdb", "if=floppy,index=1"},
    {"cdrom", "index=2,media=cdrom"}, {"mtdblock", "if=mtd"},        {"sd", "if=sd"},
    {"pflash", "if=pflash"},
};

QemuParameters *live_expand_short_form(const QemuOption *option)
{
    for (guint i = 0; i < G_N_ELEMENTS(short_forms); i++) {
        QemuParameters *parameters;

        if (g_strcmp0(option->name, short_forms[i].option) != 0 || !option->value)
            continue;
        parameters = qemu_parameters_parse(short_forms[i].text, NULL);
        qemu_parameters_set(parameters, "file", json_string(option->value));
        return parameters;
    }
    return NULL;
}

static guint number_of(const QemuParameters *parameters, const char *key)
{
    const char *text = qemu_parameters_get(parameters, key);
    guint64 number;

    return text && g_ascii_string_to_unsigned(text, 10, 0, MAX_UNITS, &number, NULL) ? (guint)number
                                                                                     : G_MAXUINT;
}

static gboolean take_place(DriveNamer *namer, const char *interface, guint bus, guint unit)
{
    return g_hash_table_add(namer->taken, g_strdup_printf("%s %u %u", interface, bus, unit));
}

/* The first free unit from the start of this bus on. */
static void take_free_place(DriveNamer *namer, const char *interface, guint units, guint *bus,
                            guint *unit)
{
    *unit = 0;
    while (!take_place(namer, interface, *bus, *unit)) {
        (*unit)++;
        if (units && *unit >= units) {
            *unit = 0;
            (*bus)++;
        }
    }
}

static char *name_drive(DriveNamer *namer, const QemuParameters *parameters)
{
    const char *interface = qemu_parameters_get(parameters, "if");
    const char *id = qemu_parameters_get(parameters, "id");
    gboolean cdrom = g_strcmp0(qemu_parameters_get(parameters, "media"), "cdrom") == 0;
    guint index = number_of(parameters, "index"), unit = number_of(parameters, "unit");
    guint bus = number_of(parameters, "bus"), units;

    if (!interface)
        interface = strstr(namer->plan->job->machine_type, "microvm") ? "none" : "ide";
    units = strcmp(interface, "ide") == 0 ? namer->ide_units : 7 * !strcmp(interface, "scsi");
    bus = bus == G_MAXUINT ? 0 : bus;
    if (index != G_MAXUINT) {
        bus = units ? index / units : 0;
        unit = units ? index % units : index;
    }
    if (unit != G_MAXUINT)
        take_place(namer, interface, bus, unit);
    else
        take_free_place(namer, interface, units, &bus, &unit);
    if (id)
        return g_strdup(id);
    if (units)
        return g_strdup_printf("%s%u-%s%u", interface, bus, cdrom ? "cd" : "hd", unit);
    return g_strdup_printf("%s%u", interface, unit);
}

static const BlockDrive *find_named(const LivePlan *plan, const char *name)
{
    const BlockDrive *drive = block_graph_find_drive(plan->machine->block, name);

    return drive && strcmp(drive->name, name) == 0 ? drive : NULL;
}

void live_name_drives(LivePlan *plan)
{
    g_autoptr(GHashTable) taken = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    DriveNamer namer = {plan, taken, strstr(plan->job->machine_type, "q35") ? 1 : 2};

    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);

        if (!line->parameters || (!line_option_is(line, "drive") && !line->new_name))
            continue;
        line->drive_name = name_drive(&namer, line->parameters);
        line->drive = find_named(plan, line->drive_name);
    }
}

/* ---- what a drive holds ---- */

static const BlockNode *get_root(const LivePlan *plan, const BlockDrive *drive)
{
    return drive->root ? block_graph_find(plan->machine->block, drive->root) : NULL;
}

static gboolean check_root(const BlockDrive *drive, const BlockNode *root, GError **error)
{
    static const char *const formats[] = {"raw", "qcow2", "qcow", "qed",       "vmdk",
                                          "vdi", "vhdx",  "vpc",  "parallels", NULL};

    if (g_strv_contains(formats, root->driver) && !root->encrypted)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "drive %s: its node %s (driver %s%s) cannot be carried over by an option",
              block_drive_describe(drive), root->name, root->driver,
              root->encrypted ? ", encrypted" : "");
    return FALSE;
}

static void remove_keys(QemuParameters *parameters, const char *const *keys)
{
    for (; *keys; keys++)
        qemu_parameters_remove(parameters, *keys);
}

/* Everything that says which medium there is and how it is opened. */
static void remove_medium(QemuParameters *parameters)
{
    static const char *const keys[] = {
        "file",          "format",   "driver",       "backing", "node-name",      "cache",
        "aio",           "discard",  "read-only",    "encrypt", "auto-read-only", "force-share",
        "detect-zeroes", "snapshot", "copy-on-read", "ro",      "readonly",       NULL,
    };

    remove_keys(parameters, keys);
}

static void set_flag(QemuParameters *parameters, const char *key, gboolean value)
{
    qemu_parameters_set(parameters, key, json_string(value ? "on" : "off"));
}

/* File, format and flags as they are now; what else the user asked for (aio,
 * discard, what to do on errors) stays. */
static void set_medium(QemuParameters *parameters, const BlockDrive *drive, const BlockNode *root)
{
    static const char *const keys[] = {"file",     "driver",    "backing",  "cache",
                                       "snapshot", "read-only", "readonly", NULL};
    gboolean native = g_strcmp0(qemu_parameters_get(parameters, "aio"), "native") == 0;

    remove_keys(parameters, keys);
    qemu_parameters_set(parameters, "file", json_string(root->file));
    qemu_parameters_set(parameters, "format", json_string(root->driver));
    set_flag(parameters, "cache.writeback", drive->writeback);
    set_flag(parameters, "cache.direct", root->cache.direct);
    set_flag(parameters, "cache.no-flush", root->cache.no_flush);
    if (drive->read_only)
        set_flag(parameters, "read-only", TRUE);
    if (strcmp(root->detect_zeroes, "off") != 0 || qemu_parameters_get(parameters, "detect-zeroes"))
        qemu_parameters_set(parameters, "detect-zeroes", json_string(root->detect_zeroes));
    /* Linux's native AIO needs a file that bypasses the page cache. */
    if (native && !root->cache.direct)
        qemu_parameters_remove(parameters, "aio");
}

static gboolean names_file(const QemuParameters *parameters, const BlockNode *root)
{
    const char *file = qemu_parameters_get(parameters, "file");
    const char *format = qemu_parameters_get(parameters, "format");

    if (!file)
        file = qemu_parameters_get(parameters, "file.filename");
    if (!format)
        format = qemu_parameters_get(parameters, "driver");
    if (file && g_str_has_prefix(file, "file:"))
        file += strlen("file:");
    return g_strcmp0(file, root->file) == 0 && (!format || strcmp(format, root->driver) == 0);
}

/* TRUE where the option makes what the drive holds now. */
static gboolean says_medium(const QemuParameters *parameters, const BlockDrive *drive,
                            const BlockNode *root)
{
    if (!root)
        return !qemu_parameters_get(parameters, "file") &&
               !qemu_parameters_get(parameters, "file.filename") &&
               !qemu_parameters_get(parameters, "file.driver");
    /* A CD is read-only without a word; a disk by option, or by a file that
     * cannot be written. */
    return names_file(parameters, root) &&
           (drive->removable || !drive->read_only || qemu_parameters_flag(parameters, "readonly") ||
            qemu_parameters_flag(parameters, "read-only"));
}

/* ---- a device that QEMU makes by itself (if=virtio) ---- */

typedef struct {
    const char *drive;
    const QemuDevice *found;
} DriveUser;

/* The proxy, not the back end inside of it. */
static void match_drive_user(QemuDevice *device, gpointer user)
{
    DriveUser *search = user;

    if (!search->found && g_strcmp0(device_get_property(device, "drive"), search->drive) == 0)
        search->found = device;
}

/* It gets the first free place; where devices came or went that would be
 * another one. */
static void place_implied_device(LivePlan *plan, LineOption *line)
{
    DriveUser search = {.drive = line->drive_name};
    DeviceAddress address[DEVICE_ADDRESS_KEYS];

    if (!plan->rearranged || g_strcmp0(line_option_get(line, "if"), "virtio") != 0)
        return;
    device_tree_visit(plan->machine->devices, match_drive_user, &search);
    if (!search.found || device_get_address(search.found, address) != 1)
        return;
    line->edited = TRUE;
    qemu_parameters_set(line->parameters, "if", json_string("none"));
    qemu_parameters_set(line->parameters, "id", json_string(line->drive_name));
    live_plan_add_json(plan, "device",
                       json_pack("{s:s, s:s, s:s, s:s}", "driver", search.found->driver, "drive",
                                 line->drive_name, "bus", search.found->bus->name, address[0].key,
                                 address[0].value));
}

/* ---- the options of the line, and drives that none of them makes ---- */

static gboolean update_drive(LivePlan *plan, LineOption *line, GError **error)
{
    const BlockNode *root = get_root(plan, line->drive);

    if (!says_medium(line->parameters, line->drive, root)) {
        if (root && !check_root(line->drive, root, error))
            return FALSE;
        line->edited = TRUE;
        if (root)
            set_medium(line->parameters, line->drive, root);
        else
            remove_medium(line->parameters);
    }
    place_implied_device(plan, line);
    return TRUE;
}

/* The default CD-ROM and floppy drives of a machine, where a medium was put in
 * since. */
static gboolean fill_default_drive(LivePlan *plan, const BlockDrive *drive, const BlockNode *root)
{
    g_autoptr(QemuParameters) parameters = NULL;
    guint bus, unit;

    if (sscanf(drive->name, "ide%u-cd%u", &bus, &unit) == 2)
        parameters = qemu_parameters_parse("if=ide,index=2,media=cdrom", NULL);
    else if (strcmp(drive->name, "floppy0") == 0)
        parameters = qemu_parameters_parse("if=floppy,index=0", NULL);
    else
        return FALSE;
    set_medium(parameters, drive, root);
    live_plan_add(plan, "drive", qemu_parameters_to_text(parameters));
    return TRUE;
}

static void add_drive(LivePlan *plan, const BlockDrive *drive, const BlockNode *root)
{
    g_autoptr(QemuParameters) parameters = qemu_parameters_parse("if=none", NULL);

    qemu_parameters_set(parameters, "id", json_string(drive->name));
    if (drive->removable && (!root || drive->read_only))
        qemu_parameters_set(parameters, "media", json_string("cdrom"));
    if (root)
        set_medium(parameters, drive, root);
    live_plan_add(plan, "drive", qemu_parameters_to_text(parameters));
}

/* Machines get an empty drive for an SD card, which no device uses, unless told
 * -nodefaults. */
static gboolean is_default_card(const BlockDrive *drive, const BlockNode *root)
{
    return !root && !drive->device && strcmp(drive->name, "sd0") == 0;
}

static gboolean add_missing_drive(LivePlan *plan, const BlockDrive *drive, GError **error)
{
    const BlockNode *root = get_root(plan, drive);
    gboolean board = drive->device && g_str_has_prefix(drive->device, "/machine/unattached/");

    /* A default drive that no device has, like QEMU 7's "sd0". */
    if (!drive->device && !root)
        return TRUE;
    if (root && !check_root(drive, root, error))
        return FALSE;
    if (is_default_card(drive, root))
        return TRUE;
    if (!board) {
        add_drive(plan, drive, root);
        return TRUE;
    }
    if (!root || fill_default_drive(plan, drive, root))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "drive %s of the board was given a medium (%s) that no option can put there",
              drive->name, root->file);
    return FALSE;
}

static gboolean has_option(const LivePlan *plan, const BlockDrive *drive)
{
    for (guint i = 0; i < plan->options->len; i++)
        if (live_plan_option(plan, i)->drive == drive)
            return TRUE;
    return FALSE;
}

gboolean live_drives(LivePlan *plan, GError **error)
{
    const GPtrArray *drives = plan->machine->block->drives;

    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);

        if (line->drive && !update_drive(plan, line, error))
            return FALSE;
        line->dropped = line->dropped || (line->drive_name && !line->drive);
    }
    for (guint i = 0; i < drives->len; i++) {
        const BlockDrive *drive = drives->pdata[i];

        if (*drive->name && !has_option(plan, drive) && !add_missing_drive(plan, drive, error))
            return FALSE;
    }
    return TRUE;
}

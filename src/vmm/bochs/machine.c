#include "vmm/bochs/machine.h"

#include <string.h>

#include "base/error.h"

#define MEBIBYTE (1u << 20)
#define MIN_IPS 1000000u
#define MAX_PATH 400u
#define MAX_MODEL 40u

/* ---- checks ---- */

gboolean bochs_path_is_valid(const char *path)
{
    if (!g_path_is_absolute(path) || strlen(path) > MAX_PATH)
        return FALSE;
    for (; *path; path++)
        if (!g_ascii_isprint(*path) || strchr("\"',$#\\", *path))
            return FALSE;
    return TRUE;
}

static gboolean check_path(const char *what, const char *path, GError **error)
{
    if (!path || bochs_path_is_valid(path))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "%s: Bochs cannot be told \"%s\": it takes absolute paths without quotes, commas, "
              "'$', '#' and '\\'",
              what, path);
    return FALSE;
}

static guint vcpus_of_socket(const BochsMachine *machine)
{
    return MAX(1, machine->cores) * MAX(1, machine->threads);
}

static gboolean check_cpu(const BochsMachine *machine, GError **error)
{
    const char *model = machine->cpu_model;

    if (!model || !*model || strlen(model) > MAX_MODEL ||
        model[strspn(model, "abcdefghijklmnopqrstuvwxyz0123456789_")] != '\0')
        error_set(error, VMFERRY_ERROR_INVALID, "not a CPU model of Bochs's");
    else if (machine->vcpus < 1 || machine->vcpus > BOCHS_MAX_VCPUS)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs takes 1 to %u vCPUs, not %u",
                  BOCHS_MAX_VCPUS, machine->vcpus);
    else if (machine->cores > BOCHS_MAX_VCPUS || machine->threads > BOCHS_MAX_VCPUS ||
             machine->vcpus % vcpus_of_socket(machine) != 0)
        error_set(error, VMFERRY_ERROR_INVALID,
                  "%u vCPUs are not sockets of %u cores with %u threads", machine->vcpus,
                  MAX(1, machine->cores), MAX(1, machine->threads));
    else if (machine->ips < MIN_IPS)
        error_set(error, VMFERRY_ERROR_INVALID, "Bochs needs at least %u instructions a second",
                  MIN_IPS);
    else
        return TRUE;
    return FALSE;
}

static gboolean check_memory(const BochsMachine *machine, GError **error)
{
    uint64_t bytes = machine->memory_bytes;

    if (bytes >= MEBIBYTE && bytes % MEBIBYTE == 0 && bytes / MEBIBYTE <= BOCHS_MAX_MEMORY_MIB)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "Bochs takes 1 to %u MiB of memory in whole MiB, not %" G_GUINT64_FORMAT " bytes",
              BOCHS_MAX_MEMORY_MIB, bytes);
    return FALSE;
}

static gboolean check_disks(const BochsMachine *machine, GError **error)
{
    guint seen = 0;

    for (guint i = 0; i < machine->disk_count; i++) {
        const BochsDisk *disk = &machine->disks[i];
        guint place = disk->channel * 2 + disk->unit;

        if (disk->channel > 1 || disk->unit > 1 || seen & 1u << place) {
            error_set(error, VMFERRY_ERROR_INVALID, "disk %u has no place of its own", i);
            return FALSE;
        }
        seen |= 1u << place;
        if ((!disk->path && !disk->cdrom) || (disk->journal && disk->cdrom)) {
            error_set(error, VMFERRY_ERROR_INVALID, "disk %u: %s", i,
                      disk->path ? "nothing is written to a CD-ROM" : "it has no image");
            return FALSE;
        }
        if (!check_path("disk", disk->path, error) || !check_path("disk", disk->journal, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean check_slots(const BochsMachine *machine, GError **error)
{
    guint count[BOCHS_SLOT_E1000 + 1] = {0};

    for (guint i = 0; i < BOCHS_MAX_SLOTS; i++)
        count[machine->slots[i]]++;
    if (count[BOCHS_SLOT_VGA] <= 1 && count[BOCHS_SLOT_E1000] <= 1)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs takes one %s card only",
              count[BOCHS_SLOT_VGA] > 1 ? "VGA" : "e1000");
    return FALSE;
}

static gboolean check_start_time(const BochsMachine *machine, GError **error)
{
    /* 0 and 1 mean "now" to Bochs. */
    if (machine->start_time > 1)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "not a time for Bochs's clock");
    return FALSE;
}

gboolean bochs_machine_check(const BochsMachine *machine, GError **error)
{
    return check_cpu(machine, error) && check_memory(machine, error) &&
           check_start_time(machine, error) && check_disks(machine, error) &&
           check_slots(machine, error) && check_path("serial line", machine->serial_file, error) &&
           check_path("BIOS", machine->bios, error) &&
           check_path("VGA BIOS", machine->vga_bios, error);
}

/* ---- the file ---- */

static void add_disk(const BochsDisk *disk, GString *out)
{
    g_string_append_printf(out, "ata%u-%s: type=%s, ", disk->channel,
                           disk->unit ? "slave" : "master", disk->cdrom ? "cdrom" : "disk");
    if (disk->cdrom && !disk->path)
        g_string_append(out, "path=\"\", status=ejected\n");
    else if (disk->cdrom)
        g_string_append_printf(out, "path=\"%s\", status=inserted\n", disk->path);
    else if (disk->journal)
        g_string_append_printf(out, "path=\"%s\", mode=volatile, journal=\"%s\"\n", disk->path,
                               disk->journal);
    else
        g_string_append_printf(out, "path=\"%s\", mode=flat\n", disk->path);
}

gboolean bochs_machine_has_card(const BochsMachine *machine, BochsSlot wanted)
{
    for (guint i = 0; i < BOCHS_MAX_SLOTS; i++)
        if (machine->slots[i] == wanted)
            return TRUE;
    return FALSE;
}

static void add_cards(const BochsMachine *machine, GString *out)
{
    static const char *const names[] = {NULL, "pcivga", "e1000"};
    const guint8 *mac = machine->mac;

    g_string_append(out, "pci: enabled=1, chipset=i440fx");
    for (guint i = 0; i < BOCHS_MAX_SLOTS; i++)
        if (machine->slots[i] != BOCHS_SLOT_EMPTY)
            g_string_append_printf(out, ", slot%u=%s", i + 1, names[machine->slots[i]]);
    g_string_append_c(out, '\n');
    if (bochs_machine_has_card(machine, BOCHS_SLOT_E1000))
        g_string_append_printf(out,
                               "e1000: enabled=1, mac=%02x:%02x:%02x:%02x:%02x:%02x, ethmod=null\n",
                               mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static void add_serial(const BochsMachine *machine, GString *out)
{
    if (machine->serial_file)
        g_string_append_printf(out, "com1: enabled=1, mode=file, dev=\"%s\"\n",
                               machine->serial_file);
    else
        g_string_append(out, "com1: enabled=1, mode=null\n");
}

/* What is the same for each machine. */
static const char fixed_lines[] = "config_interface: textconfig\n"
                                  "display_library: rfb, options=\"timeout=0\"\n"
                                  "plugin_ctrl: biosdev=0, gameport=0, iodebug=0, speaker=0\n"
                                  "sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n"
                                  "debugger_log: -\n"
                                  "panic: action=report\n"
                                  "error: action=ignore\n"
                                  "info: action=ignore, memory=report\n"
                                  "debug: action=ignore\n"
                                  "port_e9_hack: enabled=0\n"
                                  "vga: extension=vbe, update_freq=5, realtime=0\n"
                                  "parport1: enabled=0\n";

char *bochs_machine_format_count(const BochsMachine *machine)
{
    guint each = vcpus_of_socket(machine);

    return each == 1 ? g_strdup_printf("%u", machine->vcpus)
                     : g_strdup_printf("%u:%u:%u", machine->vcpus / each, MAX(1, machine->cores),
                                       MAX(1, machine->threads));
}

char *bochs_machine_format(const BochsMachine *machine, const char *log)
{
    GString *out = g_string_new(fixed_lines);
    g_autofree char *count = bochs_machine_format_count(machine);

    g_string_append_printf(out, "log: %s\n", log);
    g_string_append_printf(out, "megs: %u\n", (guint)(machine->memory_bytes / MEBIBYTE));
    g_string_append_printf(out, "cpu: model=%s, count=%s, ips=%u, reset_on_triple_fault=0\n",
                           machine->cpu_model, count, machine->ips);
    g_string_append_printf(out, "clock: sync=none, time0=%" G_GUINT64_FORMAT "\n",
                           machine->start_time);
    g_string_append_printf(out, "romimage: file=\"%s\"\n",
                           machine->bios ? machine->bios : BOCHS_BIOS);
    g_string_append_printf(out, "vgaromimage: file=\"%s\"\n",
                           machine->vga_bios ? machine->vga_bios : BOCHS_VGA_BIOS);
    for (guint i = 0; i < machine->disk_count; i++)
        add_disk(&machine->disks[i], out);
    add_cards(machine, out);
    add_serial(machine, out);
    g_string_append(out, "boot: disk, cdrom\n");
    return g_string_free(out, FALSE);
}

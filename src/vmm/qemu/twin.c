#include "vmm/qemu/twin.h"

#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "guard/guard.h"
#include "memory/guest_memory.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/neutral.h"
#include "vmm/qemu/options.h"
#include "vmm/qemu/qemu.h"

/* Of all blocks together; QEMU's own are below 4 MiB. */
#define FIRMWARE_MAX_BYTES ((uint64_t)64 << 20)

/* ---- its command line ---- */

/* What makes the machine, and what confines the process; all else is left out: images, consoles, monitors, files. */
static const char *const kept_options[] = {
    "machine", "M",    "accel",      "enable-kvm",     "cpu",      "smp",
    "m",       "numa", "nodefaults", "no-user-config", "name",     "uuid",
    "smbios",  "rtc",  "no-hpet",    "no-acpi",        "device",   "global",
    "bios",    "L",    "vga",        "kernel",         "initrd",   "append",
    "netdev",  "nic",  "net",        "serial",         "parallel", "chardev",
    "object",  "usb",  "sandbox",    "runas",          "run-with", NULL,
};

static gboolean is_dropped(const QemuOption *option)
{
    g_autoptr(QemuParameters) parameters = NULL;

    if (!g_strv_contains(kept_options, option->name))
        return TRUE;
    if (strcmp(option->name, "device") != 0 || !option->value)
        return FALSE;
    parameters = qemu_parameters_parse(option->value, "driver");
    return qemu_parameters_get(parameters, "drive") != NULL;
}

/* Its value with all but the keys of *kept*; *first* is what its implied key is set to. */
static char *keep_only(const QemuOption *option, const char *implied, const char *first,
                       const char *const *kept)
{
    g_autoptr(QemuParameters) parameters = qemu_parameters_parse(option->value, implied);
    GString *text = g_string_new(first);

    for (; *kept; kept++) {
        const char *value = qemu_parameters_get(parameters, *kept);
        g_autofree char *escaped = value ? qemu_escape_commas(value) : NULL;

        if (value)
            g_string_append_printf(text, ",%s=%s", *kept, escaped);
    }
    return g_string_free(text, FALSE);
}

/* A port of a hub that nothing else is connected to. */
static char *unconnected(const QemuOption *option, guint *hubs)
{
    static const char *const kept[] = {"id", "model", "mac", "addr", NULL};
    g_autofree char *first = g_strdup_printf("hubport,hubid=%u", (*hubs)++);

    return keep_only(option, "type", first, kept);
}

static char *plain_memory(const QemuOption *option)
{
    static const char *const kept[] = {"id", "size", NULL};
    g_autoptr(QemuParameters) parameters = qemu_parameters_parse(option->value, "qom-type");
    const char *type = qemu_parameters_get(parameters, "qom-type");

    return type && g_str_has_prefix(type, "memory-backend-")
               ? keep_only(option, "qom-type", "memory-backend-ram", kept)
               : NULL;
}

/* The value in the twin's line; NULL: the option is left out.  "-net nic" is a card, any other "-net" a back end.  Of
 * objects only memory is of the machine. */
static char *twin_value(const QemuOption *option, guint *hubs)
{
    static const char *const id[] = {"id", NULL};
    gboolean none = strcmp(option->value, "none") == 0;

    if (strcmp(option->name, "serial") == 0 || strcmp(option->name, "parallel") == 0)
        return g_strdup(none ? "none" : "null");
    if (strcmp(option->name, "chardev") == 0)
        return keep_only(option, "backend", "null", id);
    if (strcmp(option->name, "netdev") == 0 || (strcmp(option->name, "nic") == 0 && !none))
        return unconnected(option, hubs);
    if (strcmp(option->name, "net") == 0 && !none && !g_str_has_prefix(option->value, "nic"))
        return NULL;
    return strcmp(option->name, "object") == 0 ? plain_memory(option) : g_strdup(option->value);
}

static void add_option(GPtrArray *line, const QemuOption *option, guint *hubs)
{
    char *value = option->value ? twin_value(option, hubs) : NULL;

    if (option->value && !value)
        return;
    g_ptr_array_add(line, g_strconcat("-", option->name, NULL));
    if (value)
        g_ptr_array_add(line, value);
}

char **qemu_twin_line(char *const *argv, GError **error)
{
    g_auto(GStrv) clean = qemu_command_line_clean(argv);
    g_autoptr(GPtrArray) line = g_ptr_array_new_with_free_func(g_free);
    QemuOption option = {0};
    guint hubs = 0;

    if (!clean[0]) {
        error_set(error, VMFERRY_ERROR_INVALID, "the command line is empty");
        return NULL;
    }
    g_ptr_array_add(line, g_strdup(clean[0]));
    while (qemu_option_next(clean, &option)) {
        if (!option.name || strcmp(option.name, "readconfig") == 0 ||
            strcmp(option.name, "pflash") == 0) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                      "%s in QEMU's command line: not for a guest that comes from another VMM",
                      clean[option.first]);
            return NULL;
        }
        if (!is_dropped(&option))
            add_option(line, &option, &hubs);
    }
    g_ptr_array_add(line, g_strdup("-display"));
    g_ptr_array_add(line, g_strdup("none"));
    g_ptr_array_add(line, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&line), FALSE);
}

/* ---- reading it ---- */

static void firmware_free(gpointer data)
{
    QemuFirmware *firmware = data;

    g_free(firmware->name);
    g_bytes_unref(firmware->content);
    g_free(firmware);
}

static gboolean read_block(GuestMemory *memory, guint number, const char *name, GPtrArray *out,
                           GError **error)
{
    const PageSpan span = {0, guest_memory_get_region(memory, number)->pages};
    g_autofree uint8_t *content = g_malloc(span.count * PAGE_BYTES);
    QemuFirmware *firmware;

    if (!guest_memory_read(memory, number, &span, 1, content, error))
        return FALSE;
    firmware = g_new0(QemuFirmware, 1);
    firmware->name = g_strdup(name);
    firmware->content = g_bytes_new_take(g_steal_pointer(&content), span.count * PAGE_BYTES);
    g_ptr_array_add(out, firmware);
    return TRUE;
}

static gboolean read_blocks(Vmm *twin, GPtrArray *out, GError **error)
{
    g_autofree char *main_block = qemu_neutral_query_main((QemuVmm *)twin, error);
    g_autoptr(VmmDescription) description = main_block ? vmm_describe(twin, error) : NULL;
    g_autoptr(GuestMemory) memory = NULL;
    uint64_t total = 0;

    if (!description)
        return FALSE;
    memory = guest_memory_open(vmm_get_pid(twin), description->ram_regions, error);
    for (guint i = 0; memory && i < description->ram_regions->len; i++) {
        const RamRegion *region = description->ram_regions->pdata[i];

        if (qemu_neutral_block(region->name, main_block) != QEMU_NEUTRAL_NONE)
            continue;
        total += region->bytes;
        if (total > FIRMWARE_MAX_BYTES) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED, "QEMU has more than %u MiB of firmware",
                      (guint)(FIRMWARE_MAX_BYTES >> 20));
            return FALSE;
        }
        if (!read_block(memory, i, region->name, out, error))
            return FALSE;
    }
    return memory && vmm_check_process(twin, error);
}

/* It ends with us, from its begin on. */
static gboolean on_begun(const VmmIdentity *identity, gpointer user, GError **error)
{
    Guard **guard = user;

    *guard = guard_start_kill(identity->pid, error);
    return *guard != NULL;
}

static Vmm *launch_twin(const VmmLaunch *launch, Guard **ret_guard, GError **error)
{
    g_autofree char *name = g_strconcat(launch->name, ".twin", NULL);
    g_autofree char *folder =
        vmm_map_text(launch->working_directory ? launch->working_directory : "/", launch->rules);
    g_auto(GStrv) line = qemu_twin_line(launch->command_line, error);
    const VmmLaunch twin = {
        .name = name,
        .command_line = line,
        .directory = launch->directory,
        .paused = TRUE,
        .working_directory = folder,
        .process = launch->process,
        .allow_unconfined = launch->allow_unconfined,
        .begun = on_begun,
        .user = ret_guard,
    };

    for (guint i = 0; line && line[i]; i++) {
        char *mapped = vmm_map_text(line[i], launch->rules);

        g_free(line[i]);
        line[i] = mapped;
    }
    return line ? qemu_launch(&twin, error) : NULL;
}

GPtrArray *qemu_twin_read_firmware(const VmmLaunch *launch, GError **error)
{
    g_autoptr(GPtrArray) firmware = g_ptr_array_new_with_free_func(firmware_free);
    g_autoptr(Guard) guard = NULL;
    g_autoptr(Vmm) twin = launch_twin(launch, &guard, error);
    gboolean read = twin && read_blocks(twin, firmware, error);

    if (!twin || (!vmm_quit(twin, read ? error : NULL) && read) || !read) {
        g_prefix_error(error, "reading the firmware of a QEMU like it: ");
        return NULL;
    }
    return g_steal_pointer(&firmware);
}

/* Asking a live QEMU for what its machine in the neutral form has beside the devices. */
#include <string.h>

#include "base/json.h"
#include "base/tsc.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/neutral_machine.h"
#include "vmm/qemu/options.h"
#include "vmm/vmm_driver.h"

static json_t *get_cpu_property(Qmp *qmp, const char *name)
{
    g_autoptr(json_t) cpus = qmp_execute(qmp, "query-cpus-fast", NULL, QMP_COMMAND_MS, NULL);
    const char *path = json_text_or(json_array_get(cpus, 0), "qom-path", NULL);

    return path ? qmp_execute(qmp, "qom-get",
                              json_pack("{s:s, s:s}", "path", path, "property", name),
                              QMP_COMMAND_MS, NULL)
                : NULL;
}

/* KVM tells it.  TCG has none of its own: the guest reads this host's counter. */
static uint64_t find_tsc_hz(Qmp *qmp, const char *accelerator)
{
    g_autoptr(json_t) told = get_cpu_property(qmp, "tsc-frequency");
    json_int_t hz = told ? json_integer_value(told) : 0;

    if (strcmp(accelerator, "tcg") == 0)
        return tsc_hz();
    return hz > 0 ? (uint64_t)hz : tsc_hz();
}

static char *query_architecture(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-target", NULL, QMP_COMMAND_MS, error);
    const char *name;

    return reply && json_get_text(reply, "arch", &name, error) ? g_strdup(name) : NULL;
}

static void add_file(QemuVmm *qemu, GHashTable *files, char *id, const char *path)
{
    char *whole = g_path_is_absolute(path) || !qemu->working_directory
                      ? g_strdup(path)
                      : g_build_filename(qemu->working_directory, path, NULL);

    g_hash_table_replace(files, id, whole);
}

static void read_chardev(QemuVmm *qemu, const QemuOption *option, GHashTable *files)
{
    g_autoptr(QemuParameters) parameters = qemu_parameters_parse(option->value, "backend");
    const char *id = qemu_parameters_get(parameters, "id"),
               *path = qemu_parameters_get(parameters, "path");

    if (id && path && g_strcmp0(qemu_parameters_get(parameters, "backend"), "file") == 0)
        add_file(qemu, files, g_strdup(id), path);
}

/* "-serial file:PATH" is the character device "serialN". */
static GHashTable *list_files(QemuVmm *qemu)
{
    GHashTable *files = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_autoptr(GPtrArray) line = g_ptr_array_new_with_free_func(g_free);
    QemuOption option = {0};
    guint serials = 0;

    for (char **word = qemu->command_line; word && *word; word++)
        g_ptr_array_add(line, vmm_map_text(*word, qemu->rules));
    g_ptr_array_add(line, NULL);
    while (qemu_option_next((char **)line->pdata, &option)) {
        if (!option.value)
            continue;
        if (g_strcmp0(option.name, "chardev") == 0)
            read_chardev(qemu, &option, files);
        if (g_strcmp0(option.name, "serial") != 0)
            continue;
        if (g_str_has_prefix(option.value, "file:"))
            add_file(qemu, files, g_strdup_printf("serial%u", serials),
                     option.value + strlen("file:"));
        serials++;
    }
    return files;
}

MachineDescription *qemu_describe_neutral(QemuVmm *qemu, json_t *machine, GError **error)
{
    g_autoptr(VmmDescription) description = qemu_describe(qemu, error);
    g_autofree char *architecture = description ? query_architecture(qemu->qmp, error) : NULL;
    g_autoptr(GHashTable) files = list_files(qemu);
    QemuNeutralFacts facts = {
        .architecture = architecture, .directory = qemu->working_directory, .files = files};

    if (!architecture)
        return NULL;
    facts.machine_type = description->machine;
    facts.ram_bytes = description->memory_bytes;
    facts.vcpus = description->vcpus;
    facts.tsc_hz = find_tsc_hz(qemu->qmp, description->accelerator);
    return qemu_neutral_machine(machine, &facts, error);
}

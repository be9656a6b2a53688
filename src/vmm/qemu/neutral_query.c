/* Asking a live QEMU for what its machine in the neutral form has beside the devices. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/tsc.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/neutral.h"
#include "vmm/qemu/neutral_machine.h"
#include "vmm/qemu/options.h"
#include "vmm/qemu/ram_blocks.h"
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

/* In parts of a rate: more than two measurements of one counter differ by. */
#define RATE_PARTS 200u

gboolean qemu_check_tsc(QemuVmm *qemu, uint64_t wanted_hz, GError **error)
{
    g_autoptr(json_t) kvm = qmp_execute(qemu->qmp, "query-kvm", NULL, QMP_COMMAND_MS, error);
    uint64_t hz;

    if (!kvm)
        return FALSE;
    hz = find_tsc_hz(qemu->qmp, json_flag_or(kvm, "enabled", FALSE) ? "kvm" : "tcg");
    if (wanted_hz == 0 || hz == 0 ||
        (wanted_hz > hz ? wanted_hz - hz : hz - wanted_hz) <= hz / RATE_PARTS)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "the guest's TSC counts %" G_GUINT64_FORMAT
              " a second, that of QEMU here %" G_GUINT64_FORMAT,
              wanted_hz, hz);
    return FALSE;
}

static char *query_architecture(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-target", NULL, QMP_COMMAND_MS, error);
    const char *name;

    return reply && json_get_text(reply, "arch", &name, error) ? g_strdup(name) : NULL;
}

static char *make_absolute(const QemuVmm *qemu, const char *path)
{
    return g_path_is_absolute(path) || !qemu->working_directory
               ? g_strdup(path)
               : g_build_filename(qemu->working_directory, path, NULL);
}

/* Of a character device that writes into a file: that, by its id. */
static void note_chardev(const QemuVmm *qemu, const char *value, GHashTable *chardevs)
{
    g_autoptr(QemuParameters) parameters = qemu_parameters_parse(value, "backend");
    const char *id = qemu_parameters_get(parameters, "id"),
               *path = qemu_parameters_get(parameters, "path");

    if (id && path && g_strcmp0(qemu_parameters_get(parameters, "backend"), "file") == 0)
        g_hash_table_replace(chardevs, g_strdup(id), make_absolute(qemu, path));
}

/* What "-serial", or "-device isa-serial", says of the next line. */
static void note_serial(const QemuVmm *qemu, const QemuOption *option, GHashTable *chardevs,
                        QemuNeutralFacts *ret, guint *next)
{
    gboolean plain = strcmp(option->name, "serial") == 0;
    g_autoptr(QemuParameters) device =
        plain ? NULL : qemu_parameters_parse(option->value, "driver");
    const char *chardev = plain ? option->value : qemu_parameters_get(device, "chardev");

    if (!plain && g_strcmp0(qemu_parameters_get(device, "driver"), "isa-serial") != 0)
        return;
    if (*next >= G_N_ELEMENTS(ret->serial_files))
        return;
    if (plain && g_str_has_prefix(chardev, "file:"))
        ret->serial_files[*next] = make_absolute(qemu, chardev + strlen("file:"));
    else if (chardev)
        ret->serial_files[*next] = g_strdup(g_hash_table_lookup(
            chardevs, plain && g_str_has_prefix(chardev, "chardev:") ? chardev + strlen("chardev:")
                                                                     : chardev));
    ++*next;
}

/* Into which files its serial lines write, as its command line says: nothing else tells. */
static void find_serial_files(const QemuVmm *qemu, QemuNeutralFacts *ret)
{
    g_autoptr(GHashTable) chardevs = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_autoptr(GPtrArray) line = g_ptr_array_new_with_free_func(g_free);
    QemuOption option = {0};
    guint next = 0;

    for (char **word = qemu->command_line; word && *word; word++)
        g_ptr_array_add(line, vmm_map_text(*word, qemu->rules));
    g_ptr_array_add(line, NULL);
    while (qemu_option_next((char **)line->pdata, &option))
        if (option.value && g_strcmp0(option.name, "chardev") == 0)
            note_chardev(qemu, option.value, chardevs);
    option = (QemuOption){0};
    while (qemu_option_next((char **)line->pdata, &option))
        if (option.value &&
            (g_strcmp0(option.name, "serial") == 0 || g_strcmp0(option.name, "device") == 0))
            note_serial(qemu, &option, chardevs, ret, &next);
}

GArray *qemu_query_memory(QemuVmm *qemu, uint64_t ram_bytes, GError **error)
{
    g_autofree char *main = qemu_neutral_query_main(qemu, error);
    g_autofree char *text =
        main ? qmp_execute_human(qemu->qmp, "info mtree", QMP_COMMAND_MS, error) : NULL;
    g_autoptr(GPtrArray) ranges = text ? qemu_parse_memory_tree(text, error) : NULL;

    return ranges ? qemu_neutral_memory(ranges, main, ram_bytes) : NULL;
}

/* A machine without places for processors has no answer. */
static void find_topology(Qmp *qmp, QemuNeutralFacts *ret)
{
    g_autoptr(json_t) places =
        qmp_execute(qmp, "query-hotpluggable-cpus", NULL, QMP_COMMAND_MS, NULL);

    qemu_neutral_topology(places, &ret->topology, &ret->vcpus_max);
}

MachineDescription *qemu_describe_neutral(QemuVmm *qemu, json_t *machine, GError **error)
{
    g_autoptr(VmmDescription) description = qemu_describe(qemu, error);
    g_autofree char *architecture = description ? query_architecture(qemu->qmp, error) : NULL;
    /* Not each machine tells it. */
    g_autoptr(GArray) memory =
        architecture ? qemu_query_memory(qemu, description->memory_bytes, NULL) : NULL;
    QemuNeutralFacts facts = {
        .architecture = architecture, .directory = qemu->working_directory, .memory = memory};
    MachineDescription *neutral;

    if (!architecture)
        return NULL;
    facts.machine_type = description->machine;
    facts.ram_bytes = description->memory_bytes;
    facts.vcpus = description->vcpus;
    find_topology(qemu->qmp, &facts);
    facts.tsc_hz = find_tsc_hz(qemu->qmp, description->accelerator);
    find_serial_files(qemu, &facts);
    neutral = qemu_neutral_machine(machine, &facts, error);
    for (guint i = 0; i < G_N_ELEMENTS(facts.serial_files); i++)
        g_free(facts.serial_files[i]);
    return neutral;
}

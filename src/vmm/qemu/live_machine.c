/* The live machine of a move: what the source tells, what the destination makes
 * of it, and whether it is still so. */
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "vmm/qemu/cpu_features.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/live_line.h"
#include "vmm/qemu/machine_compare.h"
#include "vmm/qemu/options.h"

#define MAX_CONFIG_BYTES (1u << 20)
#define MAX_SETTINGS 1024u

/* ---- settings of one device or object ---- */

static gboolean is_readable(json_t *property)
{
    static const char *const left_out[] = {
        "type", "realized", "hotplugged", "hotpluggable", "parent_bus", "attached", "busnr", NULL,
    };
    const char *name = json_text_or(property, "name", NULL);
    const char *type = json_text_or(property, "type", "");

    return name && !g_strv_contains(left_out, name) && !g_str_has_prefix(name, "legacy-") &&
           !g_str_has_prefix(type, "child<");
}

/* What a type starts with is told for some properties only.  An empty text
 * means "not set" but for a ROM file, where it means "no ROM". */
static gboolean differs_from_start(const char *name, json_t *value, json_t *start)
{
    const char *text = json_string_value(value);

    if (start)
        return !json_equal(value, start);
    if (json_is_null(value) || json_is_object(value) ||
        (json_is_array(value) && json_array_size(value) == 0))
        return FALSE;
    if (text && !*text)
        return strcmp(name, "romfile") == 0;
    return !(strcmp(name, "bootindex") == 0 && json_integer_value(value) < 0);
}

/* A link to a part of the device itself ("host" of a USB controller). */
static gboolean leads_to(json_t *value, const char *path)
{
    const char *text = json_string_value(value);

    return text && g_str_has_prefix(text, path);
}

static json_t *get_property(Qmp *qmp, const char *path, const char *name)
{
    return qmp_execute(qmp, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", name),
                       QMP_COMMAND_MS, NULL);
}

static json_t *list_properties(Qmp *qmp, const char *path, const char *type, GError **error)
{
    if (g_str_has_prefix(path, "/objects/"))
        return qmp_execute(qmp, "qom-list", json_pack("{s:s}", "path", path), QMP_COMMAND_MS,
                           error);
    return qmp_execute(qmp, "device-list-properties", json_pack("{s:s}", "typename", type),
                       QMP_COMMAND_MS, error);
}

json_t *qemu_read_settings(const char *path, const char *type, gpointer user, GError **error)
{
    Qmp *qmp = user;
    g_autoptr(json_t) properties = list_properties(qmp, path, type, error);
    json_t *settings, *property, *bus;
    size_t i;

    if (!properties)
        return NULL;
    settings = json_object();
    json_array_foreach(properties, i, property)
    {
        const char *name = json_text_or(property, "name", NULL);
        g_autoptr(json_t) value =
            i < MAX_SETTINGS && is_readable(property) ? get_property(qmp, path, name) : NULL;

        if (value && !leads_to(value, path) &&
            differs_from_start(name, value, json_object_get(property, "default-value")))
            json_object_set(settings, name, value);
    }
    bus = get_property(qmp, path, "parent_bus");
    if (json_is_string(bus) && *json_string_value(bus))
        json_object_set(settings, "parent_bus", bus);
    json_decref(bus);
    return settings;
}

/* ---- the source's side ---- */

/* `[device "uhci-1"]` in a file of -readconfig makes a device called uhci-1. */
static void read_config_ids(const char *text, GHashTable *ids)
{
    static const char mark[] = "[device \"";
    const char *at = text;

    while ((at = strstr(at, mark))) {
        at += strlen(mark);
        if (strcspn(at, "\"\n") < 256)
            g_hash_table_add(ids, g_strndup(at, strcspn(at, "\"\n")));
    }
}

static GHashTable *find_configured(pid_t pid, char *const *arguments)
{
    GHashTable *ids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    QemuOption option = {0};

    while (qemu_option_next(arguments, &option)) {
        g_autofree char *path = NULL, *text = NULL;

        if (g_strcmp0(option.name, "readconfig") != 0 || !option.value)
            continue;
        path = g_strdup_printf("/proc/%d/%s%s%s", (int)pid,
                               g_path_is_absolute(option.value) ? "root" : "cwd",
                               g_path_is_absolute(option.value) ? "" : "/", option.value);
        text = file_read(path, MAX_CONFIG_BYTES, NULL, NULL);
        if (text)
            read_config_ids(text, ids);
    }
    return ids;
}

static char **make_line(QemuVmm *qemu, const QemuMachine *machine, char *const *original,
                        GError **error)
{
    g_auto(GStrv) started = process_get_command_line(qemu->pid, error);
    g_auto(GStrv) arguments = started ? qemu_command_line_clean(started) : NULL;
    g_autoptr(GHashTable) configured = arguments ? find_configured(qemu->pid, arguments) : NULL;
    g_autofree char *type = arguments ? qemu_get_machine(qemu, error) : NULL;
    QemuLiveLine job = {
        .arguments = arguments,
        .original = original,
        .machine = machine,
        .machine_type = type,
        .configured = configured,
        .read_settings = qemu_read_settings,
        .user = qemu->qmp,
    };

    return type ? qemu_live_line(&job, error) : NULL;
}

/* What a commit leaves behind (live_nodes.c). */
static gboolean has_node_above_drive(const BlockGraph *graph)
{
    for (guint i = 0; i < graph->nodes->len; i++)
        if (block_graph_is_above_drive(graph, graph->nodes->pdata[i]))
            return TRUE;
    return FALSE;
}

json_t *qemu_read_machine(QemuVmm *qemu, char *const *original, char ***ret_line, GError **error)
{
    g_autoptr(json_t) object = qemu_machine_query(qemu->qmp, qemu->copies, error);
    g_autoptr(QemuMachine) machine = object ? qemu_machine_parse(object, error) : NULL;
    g_autoptr(json_t) cpu = NULL;
    char **line;

    if (!machine || !qemu_machine_check_idle(machine, error))
        return NULL;
    cpu = qemu_query_cpu_features(qemu->qmp, error);
    line = cpu ? make_line(qemu, machine, original, error) : NULL;
    if (!line)
        return NULL;
    qemu->keeps_nodes = has_node_above_drive(machine->block);
    json_object_set(object, VMM_MACHINE_CPU, cpu);
    *ret_line = line;
    return g_steal_pointer(&object);
}

gboolean qemu_check_unchanged(QemuVmm *qemu, json_t *before, GError **error)
{
    g_autoptr(QemuMachine) first = qemu_machine_parse(before, error);
    g_autoptr(json_t) object = first ? qemu_machine_query(qemu->qmp, qemu->copies, error) : NULL;
    g_autoptr(QemuMachine) second = object ? qemu_machine_parse(object, error) : NULL;
    g_autoptr(GPtrArray) found = NULL;
    g_autofree char *text = NULL;

    if (!second || !qemu_machine_check_idle(second, error) || !qemu_check_awake(qemu, error) ||
        !qemu_check_no_migration(qemu->qmp, error))
        return FALSE;
    found = qemu_machine_compare(first, second, MACHINE_COMPARE_LATER, NULL);
    if (found->len == 0)
        return TRUE;
    text = qemu_machine_join(found);
    error_set(error, VMFERRY_ERROR_REFUSED, "the guest was changed during the move: %s", text);
    return FALSE;
}

/* ---- the destination's side ---- */

/* Names that block_set_io_throttle must have in any case. */
static const char *const throttle_keys[] = {"bps",  "bps_rd",  "bps_wr",
                                            "iops", "iops_rd", "iops_wr"};

typedef struct {
    Qmp *qmp;
    guint changed;
    GError *error;
} ThrottleSetter;

static void set_throttle(const QemuDevice *device, const BlockDrive *first,
                         const BlockDrive *second, gpointer user)
{
    ThrottleSetter *setter = user;
    json_t *arguments;

    if (setter->error || !second->root || block_drive_same_throttle(first, second))
        return;
    arguments = first->throttle ? json_deep_copy(first->throttle) : json_object();
    for (guint i = 0; i < G_N_ELEMENTS(throttle_keys); i++)
        if (!json_object_get(arguments, throttle_keys[i]))
            json_object_set_new(arguments, throttle_keys[i], json_integer(0));
    if (*second->name)
        json_object_set_new(arguments, "device", json_string(second->name));
    else
        json_object_set_new(arguments, "id", json_string(second->device ? second->device : ""));
    if (qmp_run(setter->qmp, "block_set_io_throttle", arguments, QMP_COMMAND_MS, &setter->error))
        setter->changed++;
}

/* One that QEMU does not take shows as a difference afterwards. */
static gboolean set_property(Qmp *qmp, const char *name, const char *property, json_t *value,
                             GError **error)
{
    g_autofree char *path = g_strdup_printf("/objects/%s", name);
    g_autoptr(GError) failure = NULL;

    if (qmp_run(qmp, "qom-set",
                json_pack("{s:s, s:s, s:O}", "path", path, "property", property, "value", value),
                QMP_COMMAND_MS, &failure) ||
        error_is(failure, VMFERRY_ERROR_FAILED))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* Only what our own table holds is set, whatever the source names. */
static gboolean set_object(Qmp *qmp, const QemuObject *source, const QemuObject *here,
                           guint *changed, GError **error)
{
    const char *const *properties = qemu_object_settings(source->type);

    for (; properties && *properties; properties++) {
        json_t *wanted = json_object_get(source->settings, *properties);
        json_t *now = json_object_get(here->settings, *properties);

        if (!wanted || !now || json_equal(wanted, now))
            continue;
        if (!set_property(qmp, source->name, *properties, wanted, error))
            return FALSE;
        (*changed)++;
    }
    return TRUE;
}

QemuMachine *qemu_machine_read(Qmp *qmp, const GPtrArray *copies, GError **error)
{
    g_autoptr(json_t) object = qemu_machine_query(qmp, copies, error);

    return object ? qemu_machine_parse(object, error) : NULL;
}

static gboolean look_again(QemuVmm *qemu, QemuMachine **here, GError **error)
{
    qemu_machine_free(*here);
    *here = qemu_machine_read(qemu->qmp, qemu->copies, error);
    return *here != NULL;
}

/* I/O limits are set by a command: -drive has other keys for them than
 * -blockdev, which has none. */
static gboolean set_throttles(QemuVmm *qemu, const QemuMachine *source, QemuMachine **here,
                              GError **error)
{
    ThrottleSetter setter = {.qmp = qemu->qmp};

    qemu_machine_visit_drives(source, *here, set_throttle, &setter);
    if (setter.error) {
        g_propagate_prefixed_error(error, setter.error, "set I/O limits: ");
        return FALSE;
    }
    return setter.changed == 0 || look_again(qemu, here, error);
}

/* Limits of throttle groups and the like, as they are at the source by now. */
static gboolean set_objects(QemuVmm *qemu, const QemuMachine *source, QemuMachine **here,
                            GError **error)
{
    guint changed = 0;

    for (guint i = 0; i < source->objects->len; i++) {
        const QemuObject *object = source->objects->pdata[i];
        const QemuObject *other = qemu_object_find((*here)->objects, object->name);

        if (other && strcmp(object->type, other->type) == 0 &&
            !set_object(qemu->qmp, object, other, &changed, error))
            return FALSE;
    }
    return changed == 0 || look_again(qemu, here, error);
}

/* A guest uses what it found when it booted. */
gboolean qemu_match_cpu(QemuVmm *qemu, json_t *source, GError **error)
{
    g_autoptr(json_t) here = source ? qemu_query_cpu_features(qemu->qmp, error) : json_null();
    g_autoptr(GPtrArray) missing = here ? qemu_list_missing_features(source, here, error) : NULL;
    g_autofree char *names = NULL;

    if (!missing)
        return FALSE;
    if (missing->len == 0)
        return TRUE;
    g_ptr_array_add(missing, NULL);
    names = g_strjoinv(", ", (char **)missing->pdata);
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the CPU there lacks what the guest's has: %s (use another -cpu model; "
              "--allow-cpu-mismatch moves it all the same)",
              names);
    return FALSE;
}

gboolean qemu_match_machine(QemuVmm *qemu, const char *type, json_t *object, GError **error)
{
    g_autoptr(QemuMachine) source =
        qemu_check_machine_type(qemu, type, error) ? qemu_machine_parse(object, error) : NULL;
    g_autoptr(QemuMachine) here = source ? qemu_machine_read(qemu->qmp, qemu->copies, error) : NULL;
    g_autoptr(GPtrArray) found = NULL;
    g_autofree char *text = NULL;

    if (!here || !qemu_match_cpu(qemu, json_object_get(object, VMM_MACHINE_CPU), error) ||
        !set_throttles(qemu, source, &here, error) || !set_objects(qemu, source, &here, error))
        return FALSE;
    found = qemu_machine_compare(
        source, here, qemu->restored ? MACHINE_COMPARE_RESTORED : MACHINE_COMPARE_DESTINATION,
        qemu->rules);
    if (found->len == 0)
        return TRUE;
    text = qemu_machine_join(found);
    error_set(error, VMFERRY_ERROR_REFUSED, "what was started here is not the guest's machine: %s",
              text);
    return FALSE;
}

#include "vmm/qemu/machine.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/hold_traces.h"

/* ---- asking ---- */

static json_t *human_text(const char *line)
{
    return json_pack("{s:s}", "command-line", line);
}

static json_t *qom_path(const char *path)
{
    return json_pack("{s:s}", "path", path);
}

/* Key of our object; command; its argument; its value; may it fail? (microvm
 * has no pluggable CPUs and says so by an error.) */
static const struct {
    const char *key, *command;
    json_t *(*arguments)(const char *value);
    const char *value;
    gboolean optional;
} questions[] = {
    {"devices", "human-monitor-command", human_text, "info qtree", FALSE},
    {"networks", "human-monitor-command", human_text, "info network", FALSE},
    {"named", "qom-list", qom_path, "/machine/peripheral", FALSE},
    {"anonymous", "qom-list", qom_path, "/machine/peripheral-anon", FALSE},
    {"objects", "qom-list", qom_path, "/objects", FALSE},
    {"block", "query-block", NULL, NULL, FALSE},
    {"graph", "x-debug-query-block-graph", NULL, NULL, FALSE},
    {"cpus", "query-hotpluggable-cpus", NULL, NULL, TRUE},
    {"memory", "query-memory-devices", NULL, NULL, FALSE},
    {"chardevs", "query-chardev", NULL, NULL, FALSE},
    {"jobs", "query-jobs", NULL, NULL, FALSE},
    {"exports", "query-block-exports", NULL, NULL, FALSE},
};

/* Details of an image that are not used here; a snapshot list can be long. */
static void drop_image_details(json_t *entries, gboolean inserted)
{
    json_t *entry;
    size_t i;

    json_array_foreach(entries, i, entry)
    {
        json_t *image =
            json_object_get(inserted ? json_object_get(entry, "inserted") : entry, "image");

        json_object_del(image, "format-specific");
        json_object_del(image, "snapshots");
        json_object_del(image, "backing-image");
        json_object_del(image, "actual-size");
    }
}

/* "child<TYPE>" of an entry of qom-list; NULL for other properties. */
static char *get_child_type(json_t *entry)
{
    const char *type = json_text_or(entry, "type", "");

    return g_str_has_prefix(type, "child<") && g_str_has_suffix(type, ">")
               ? g_strndup(type + 6, strlen(type) - 7)
               : NULL;
}

static json_t *query_nodes(Qmp *qmp, GError **error)
{
    return qmp_execute(qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1),
                       QMP_COMMAND_MS, error);
}

/* Not all versions of QEMU have all of them. */
static const struct {
    const char *type;
    const char *properties[7];
} settings[] = {
    {"throttle-group", {"limits"}},
    {"iothread",
     {"poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch", "thread-pool-max",
      "thread-pool-min"}},
};

const char *const *qemu_object_settings(const char *type)
{
    for (guint i = 0; i < G_N_ELEMENTS(settings); i++)
        if (strcmp(settings[i].type, type) == 0)
            return settings[i].properties;
    return NULL;
}

/* {"limits": {…}}: what QEMU tells of these properties of /objects/NAME. */
static json_t *query_object(Qmp *qmp, const char *name, const char *const *properties,
                            GError **error)
{
    g_autofree char *path = g_strdup_printf("/objects/%s", name);
    g_autoptr(json_t) found = json_object();

    for (; *properties; properties++) {
        g_autoptr(GError) failure = NULL;
        json_t *value = qmp_execute(qmp, "qom-get",
                                    json_pack("{s:s, s:s}", "path", path, "property", *properties),
                                    QMP_COMMAND_MS, &failure);

        if (value) {
            json_object_set_new(found, *properties, value);
        } else if (!error_is(failure, VMFERRY_ERROR_FAILED)) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return NULL;
        }
    }
    return g_steal_pointer(&found);
}

/* Name of an object → its settings, for those that have any. */
static json_t *query_settings(Qmp *qmp, json_t *objects, GError **error)
{
    g_autoptr(json_t) found = json_object();
    json_t *entry;
    size_t i;

    json_array_foreach(objects, i, entry)
    {
        const char *name = json_text_or(entry, "name", "");
        g_autofree char *type = get_child_type(entry);
        const char *const *properties = type ? qemu_object_settings(type) : NULL;
        json_t *values = properties ? query_object(qmp, name, properties, error) : NULL;

        if (properties && !values)
            return NULL;
        if (values)
            json_object_set_new(found, name, values);
    }
    return g_steal_pointer(&found);
}

json_t *qemu_machine_query(Qmp *qmp, const GPtrArray *copies, GError **error)
{
    g_autoptr(json_t) object = json_object();
    json_t *nodes, *set;

    for (guint i = 0; i < G_N_ELEMENTS(questions); i++) {
        g_autoptr(GError) failure = NULL;
        json_t *arguments =
            questions[i].arguments ? questions[i].arguments(questions[i].value) : NULL;
        json_t *answer =
            qmp_execute(qmp, questions[i].command, arguments, QMP_COMMAND_MS, &failure);

        if (!answer && questions[i].optional &&
            (error_is(failure, VMFERRY_ERROR_FAILED) ||
             error_is(failure, VMFERRY_ERROR_UNSUPPORTED)))
            answer = json_array();
        if (!answer) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return NULL;
        }
        json_object_set_new(object, questions[i].key, answer);
    }
    nodes = query_nodes(qmp, error);
    if (!nodes)
        return NULL;
    drop_image_details(nodes, FALSE);
    drop_image_details(json_object_get(object, "block"), TRUE);
    json_object_set_new(object, "nodes", nodes);
    qemu_copies_hide(object, copies);
    qemu_holds_hide(object);
    set = query_settings(qmp, json_object_get(object, "objects"), error);
    if (!set)
        return NULL;
    json_object_set_new(object, "settings", set);
    return g_steal_pointer(&object);
}

/* ---- reading ---- */

static void object_free(QemuObject *object)
{
    g_free(object->name);
    g_free(object->type);
    json_decref(object->settings);
    g_free(object);
}

static void cpu_free(QemuCpu *cpu)
{
    g_free(cpu->type);
    json_decref(cpu->place);
    g_free(cpu->path);
    g_free(cpu);
}

static void network_free(QemuNetwork *network)
{
    g_free(network->id);
    g_free(network->type);
    g_free(network->detail);
    g_free(network);
}

static void chardev_free(QemuChardev *chardev)
{
    g_free(chardev->label);
    g_free(chardev->filename);
    g_free(chardev);
}

static void job_free(QemuJob *job)
{
    g_free(job->id);
    g_free(job->type);
    g_free(job->status);
    g_free(job);
}

void qemu_machine_free(QemuMachine *machine)
{
    GPtrArray *lists[] = {machine ? machine->named : NULL,    machine ? machine->anonymous : NULL,
                          machine ? machine->objects : NULL,  machine ? machine->cpus : NULL,
                          machine ? machine->networks : NULL, machine ? machine->chardevs : NULL,
                          machine ? machine->jobs : NULL,     machine ? machine->exports : NULL};

    if (!machine)
        return;
    device_tree_free(machine->devices);
    block_graph_free(machine->block);
    json_decref(machine->memory);
    for (guint i = 0; i < G_N_ELEMENTS(lists); i++)
        if (lists[i])
            g_ptr_array_unref(lists[i]);
    g_free(machine);
}

/* One entry of a list, or NULL for one that is left out. */
typedef gpointer (*EntryReader)(json_t *entry, gboolean *ret_valid);

static GPtrArray *read_list(json_t *object, const char *key, EntryReader reader,
                            GDestroyNotify free_entry, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(free_entry);
    json_t *array, *entry;
    size_t i;

    if (!json_get_array(object, key, QEMU_MACHINE_MAX_ENTRIES, &array, error))
        return NULL;
    json_array_foreach(array, i, entry)
    {
        gboolean valid = TRUE;
        gpointer item = reader(entry, &valid);

        if (!valid) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%s\": entry %zu cannot be read", key, i);
            return NULL;
        }
        if (item)
            g_ptr_array_add(list, item);
    }
    return g_steal_pointer(&list);
}

/* {"name": "mem1", "type": "child<memory-backend-ram>"}; other properties of
 * the container are left out. */
static gpointer read_object(json_t *entry, gboolean *ret_valid)
{
    const char *name = json_text_or(entry, "name", NULL);
    g_autofree char *type = get_child_type(entry);
    QemuObject *object;

    *ret_valid = name != NULL;
    if (!name || !type)
        return NULL;
    object = g_new0(QemuObject, 1);
    object->name = g_strdup(name);
    object->type = g_steal_pointer(&type);
    return object;
}

static gpointer read_cpu(json_t *entry, gboolean *ret_valid)
{
    const char *type = json_text_or(entry, "type", NULL);
    json_t *place = json_object_get(entry, "props");
    QemuCpu *cpu;

    *ret_valid = type && json_is_object(place);
    if (!*ret_valid)
        return NULL;
    cpu = g_new(QemuCpu, 1);
    *cpu = (QemuCpu){g_strdup(type), json_deep_copy(place),
                     g_strdup(json_text_or(entry, "qom-path", NULL))};
    return cpu;
}

static gpointer read_chardev(json_t *entry, gboolean *ret_valid)
{
    const char *label = json_text_or(entry, "label", NULL);
    QemuChardev *chardev;

    *ret_valid = label != NULL;
    if (!label)
        return NULL;
    chardev = g_new(QemuChardev, 1);
    *chardev = (QemuChardev){g_strdup(label), g_strdup(json_text_or(entry, "filename", ""))};
    return chardev;
}

/* A job that has ended waits only to be dismissed. */
static gpointer read_job(json_t *entry, gboolean *ret_valid)
{
    const char *id = json_text_or(entry, "id", NULL), *status = json_text_or(entry, "status", "");
    QemuJob *job;

    *ret_valid = id != NULL;
    if (!id || strcmp(status, "concluded") == 0 || strcmp(status, "null") == 0)
        return NULL;
    job = g_new(QemuJob, 1);
    *job =
        (QemuJob){g_strdup(id), g_strdup(json_text_or(entry, "type", "block")), g_strdup(status)};
    return job;
}

static gpointer read_export(json_t *entry, gboolean *ret_valid)
{
    const char *id = json_text_or(entry, "id", NULL);

    *ret_valid = id != NULL;
    return g_strdup(id);
}

/* "net0: index=0,type=tap,ifname=tap0,…"; NULL for other texts. */
static QemuNetwork *read_client(const char *text)
{
    static const char mark[] = ",type=";
    const char *colon = strstr(text, ": index=");
    const char *type = colon ? strstr(colon, mark) : NULL;
    QemuNetwork *network;

    if (!type || colon == text)
        return NULL;
    type += strlen(mark);
    network = g_new0(QemuNetwork, 1);
    network->id = g_strndup(text, (gsize)(colon - text));
    network->type = g_strndup(type, strcspn(type, ","));
    type += strlen(network->type);
    network->detail = g_strdup(*type == ',' ? type + 1 : type);
    if (strcmp(network->type, "nic") != 0)
        return network;
    network_free(network);
    return NULL;
}

/* "hub 0" comes before its ports' lines. */
static gboolean is_hub_line(const char *line)
{
    return g_str_has_prefix(line, "hub ") && line[4 + strspn(line + 4, "0123456789")] == '\0';
}

/* " \ h0" or " \ h0: " with what is connected to the port: adds the port, and returns the rest. */
static const char *read_hub_port(const char *line, GPtrArray *networks)
{
    const char *start = line + strspn(line, " \\");
    gsize length = strcspn(start, ":");
    QemuNetwork *port = g_new0(QemuNetwork, 1);

    port->id = g_strndup(start, length);
    port->type = g_strdup("hubport");
    port->detail = g_strdup("");
    g_ptr_array_add(networks, port);
    start += length;
    return *start == ':' ? start + 1 + strspn(start + 1, " ") : start;
}

/* Its lines are indented below a card's, where there is one, or below a hub's; those of a hub begin with its port. */
GPtrArray *qemu_networks_parse(const char *text)
{
    GPtrArray *networks = g_ptr_array_new_with_free_func((GDestroyNotify)network_free);
    g_auto(GStrv) lines = g_strsplit_set(text, "\r\n", QEMU_MACHINE_MAX_ENTRIES);
    gboolean in_hub = FALSE;

    for (guint i = 0; lines[i]; i++) {
        const char *line = lines[i];
        gboolean indented = g_str_has_prefix(line, " \\ ");
        QemuNetwork *network;

        if (!*line)
            continue;
        in_hub = is_hub_line(line) || (in_hub && indented);
        line = in_hub && indented ? read_hub_port(line, networks) : line + strspn(line, " \\");
        network = read_client(line);
        if (network)
            g_ptr_array_add(networks, network);
    }
    return networks;
}

char *qemu_network_setting(const QemuNetwork *network, const char *key)
{
    g_autofree char *wanted = g_strconcat(key, "=", NULL);
    g_auto(GStrv) pieces = g_strsplit(network->detail, ",", 64);

    for (guint i = 0; pieces[i]; i++)
        if (g_str_has_prefix(pieces[i], wanted))
            return g_strdup(pieces[i] + strlen(wanted));
    return NULL;
}

static GPtrArray *read_networks(json_t *object, GError **error)
{
    const char *text;

    return json_get_text(object, "networks", &text, error) ? qemu_networks_parse(text) : NULL;
}

static QemuBus *read_devices(json_t *object, GError **error)
{
    const char *text;

    return json_get_text(object, "devices", &text, error) ? device_tree_parse(text, error) : NULL;
}

static gboolean read_memory(QemuMachine *machine, json_t *object, GError **error)
{
    json_t *memory;

    if (!json_get_array(object, "memory", QEMU_MACHINE_MAX_ENTRIES, &memory, error))
        return FALSE;
    machine->memory = json_deep_copy(memory);
    return TRUE;
}

static void read_settings(GPtrArray *objects, json_t *all)
{
    for (guint i = 0; i < objects->len; i++) {
        QemuObject *object = objects->pdata[i];
        json_t *values = json_object_get(all, object->name);

        if (json_is_object(values) && qemu_object_settings(object->type))
            object->settings = json_deep_copy(values);
    }
}

QemuMachine *qemu_machine_parse(json_t *object, GError **error)
{
    g_autoptr(QemuMachine) machine = g_new0(QemuMachine, 1);
    GDestroyNotify free_object = (GDestroyNotify)object_free;

    if ((machine->devices = read_devices(object, error)) &&
        (machine->block =
             block_graph_parse(json_object_get(object, "block"), json_object_get(object, "nodes"),
                               json_object_get(object, "graph"), error)) &&
        (machine->named = read_list(object, "named", read_object, free_object, error)) &&
        (machine->anonymous = read_list(object, "anonymous", read_object, free_object, error)) &&
        (machine->objects = read_list(object, "objects", read_object, free_object, error)) &&
        (machine->cpus = read_list(object, "cpus", read_cpu, (GDestroyNotify)cpu_free, error)) &&
        (machine->chardevs =
             read_list(object, "chardevs", read_chardev, (GDestroyNotify)chardev_free, error)) &&
        (machine->jobs = read_list(object, "jobs", read_job, (GDestroyNotify)job_free, error)) &&
        (machine->exports = read_list(object, "exports", read_export, g_free, error)) &&
        (machine->networks = read_networks(object, error)) && read_memory(machine, object, error)) {
        read_settings(machine->objects, json_object_get(object, "settings"));
        return g_steal_pointer(&machine);
    }
    return NULL;
}

/* ---- looking ---- */

const QemuObject *qemu_object_find(const GPtrArray *objects, const char *name)
{
    for (guint i = 0; i < objects->len; i++) {
        const QemuObject *object = objects->pdata[i];

        if (strcmp(object->name, name) == 0)
            return object;
    }
    return NULL;
}

const QemuNetwork *qemu_network_find(const QemuMachine *machine, const char *id)
{
    for (guint i = 0; i < machine->networks->len; i++) {
        const QemuNetwork *network = machine->networks->pdata[i];

        if (strcmp(network->id, id) == 0)
            return network;
    }
    return NULL;
}

const QemuChardev *qemu_chardev_find(const QemuMachine *machine, const char *label)
{
    for (guint i = 0; i < machine->chardevs->len; i++) {
        const QemuChardev *chardev = machine->chardevs->pdata[i];

        if (strcmp(chardev->label, label) == 0)
            return chardev;
    }
    return NULL;
}

static const BlockNode *find_unsaved_bitmap(const QemuMachine *machine)
{
    for (guint i = 0; i < machine->block->nodes->len; i++) {
        const BlockNode *node = machine->block->nodes->pdata[i];

        if (node->unsaved_bitmap)
            return node;
    }
    return NULL;
}

gboolean qemu_machine_check_idle(const QemuMachine *machine, GError **error)
{
    const BlockNode *node = find_unsaved_bitmap(machine);

    if (machine->jobs->len > 0) {
        const QemuJob *job = machine->jobs->pdata[0];

        error_set(error, VMFERRY_ERROR_BUSY,
                  "block job \"%s\" (%s, %s) is under way; wait for its end or cancel it first",
                  job->id, job->type, job->status);
    } else if (machine->exports->len > 0) {
        error_set(error, VMFERRY_ERROR_BUSY,
                  "a disk is exported as \"%s\" (block-export-add), and its clients would be cut "
                  "off; remove the export first",
                  (const char *)machine->exports->pdata[0]);
    } else if (node) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "dirty bitmap \"%s\" of node %s is not stored in the image and would be lost; "
                  "remove it, or make it persistent",
                  node->unsaved_bitmap, node->name);
    } else {
        return TRUE;
    }
    return FALSE;
}

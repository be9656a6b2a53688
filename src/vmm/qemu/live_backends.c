/* -object, -netdev and -chardev: what is gone is left out, and what an added
 * device refers to is made. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/live_line_private.h"

/* ---- objects ---- */

/* The types that are carried over, and their settings that can be read back. */
static const struct {
    const char *type;
    const char *settings[16];
} object_types[] = {
    {"memory-backend-ram",
     {"size", "share", "merge", "dump", "prealloc", "policy", "host-nodes",
      "x-use-canonical-path-for-ramblock-id"}},
    {"memory-backend-memfd",
     {"size", "share", "merge", "dump", "prealloc", "policy", "host-nodes", "hugetlb",
      "hugetlbsize", "seal", "x-use-canonical-path-for-ramblock-id"}},
    {"memory-backend-file",
     {"size", "share", "merge", "dump", "prealloc", "policy", "host-nodes", "mem-path", "align",
      "offset", "pmem", "readonly", "discard-data", "x-use-canonical-path-for-ramblock-id"}},
    {"iothread",
     {"poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch", "thread-pool-min",
      "thread-pool-max"}},
    {"rng-random", {"filename"}},
    {"rng-builtin", {NULL}},
    {"throttle-group", {"limits"}},
};

static gboolean is_setting(const char *type, const char *key)
{
    for (guint i = 0; i < G_N_ELEMENTS(object_types); i++)
        if (strcmp(object_types[i].type, type) == 0)
            for (guint k = 0; k < G_N_ELEMENTS(object_types[i].settings); k++)
                if (g_strcmp0(object_types[i].settings[k], key) == 0)
                    return TRUE;
    return FALSE;
}

static gboolean is_carried(const char *type)
{
    for (guint i = 0; i < G_N_ELEMENTS(object_types); i++)
        if (strcmp(object_types[i].type, type) == 0)
            return TRUE;
    return FALSE;
}

static json_t *object_options(LivePlan *plan, const QemuObject *object, GError **error)
{
    g_autofree char *path = g_strconcat("/objects/", object->name, NULL);
    g_autoptr(json_t) settings =
        plan->job->read_settings(path, object->type, plan->job->user, error);
    json_t *options, *value;
    const char *key;

    if (!settings)
        return NULL;
    options = json_pack("{s:s, s:s}", "qom-type", object->type, "id", object->name);
    json_object_foreach(settings, key, value)
    {
        gboolean empty = (json_is_integer(value) && json_integer_value(value) == 0) ||
                         (json_is_array(value) && json_array_size(value) == 0);

        if (is_setting(object->type, key) && !empty)
            json_object_set(options, key, value);
    }
    return options;
}

static gboolean add_object(LivePlan *plan, const QemuObject *object, GError **error)
{
    json_t *options;

    if (!is_carried(object->type)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "object \"%s\" of type %s was added since the start and cannot be carried over",
                  object->name, object->type);
        return FALSE;
    }
    options = object_options(plan, object, error);
    if (options)
        live_plan_add_json(plan, "object", options);
    return options != NULL;
}

static gboolean is_added(const LivePlan *plan, const char *option, const char *key,
                         const char *value)
{
    for (guint i = 0; i + 1 < plan->added->len; i += 2) {
        g_autoptr(QemuParameters) parameters = NULL;
        const char *name = plan->added->pdata[i];

        if (strcmp(name + 1, option) != 0)
            continue;
        parameters = qemu_parameters_parse(plan->added->pdata[i + 1], NULL);
        if (g_strcmp0(qemu_parameters_get(parameters, key), value) == 0)
            return TRUE;
    }
    return FALSE;
}

gboolean live_need_object(LivePlan *plan, const char *name, GError **error)
{
    const QemuObject *object = qemu_object_find(plan->machine->objects, name);

    if (!object || live_plan_find(plan, "object", "id", name) ||
        is_added(plan, "object", "id", name))
        return TRUE;
    return add_object(plan, object, error);
}

/* RAM that QEMU makes for -m is an object, too ("pc.ram"), as is its main loop. */
static gboolean stands_alone(const QemuObject *object)
{
    return strcmp(object->type, "iothread") == 0 || strcmp(object->type, "throttle-group") == 0 ||
           g_str_has_prefix(object->type, "rng-");
}

static gboolean update_objects(LivePlan *plan, GError **error)
{
    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);
        const char *id =
            line->parameters && line_option_is(line, "object") ? line_option_get(line, "id") : NULL;

        if (id && !qemu_object_find(plan->machine->objects, id))
            line->dropped = TRUE;
    }
    for (guint i = 0; i < plan->machine->objects->len; i++) {
        const QemuObject *object = plan->machine->objects->pdata[i];

        if (stands_alone(object) && !live_need_object(plan, object->name, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- network back ends ---- */

/* What `info network` says of a tap is all that it takes; of user networking it
 * leaves out forwarded ports, which would be lost. */
static json_t *network_options(const QemuNetwork *network, GError **error)
{
    g_autofree char *interface = qemu_network_setting(network, "ifname");
    g_autofree char *net = qemu_network_setting(network, "net");
    g_autofree char *restricted = qemu_network_setting(network, "restrict");

    if (strcmp(network->type, "tap") == 0 && interface)
        return json_pack("{s:s, s:s, s:s, s:s, s:s}", "type", "tap", "id", network->id, "ifname",
                         interface, "script", "no", "downscript", "no");
    if (strcmp(network->type, "user") == 0 && net && g_strcmp0(restricted, "off") == 0)
        return json_pack("{s:s, s:s}", "type", "user", "id", network->id);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "network back end \"%s\" (%s) was added since the start, and QEMU does not tell its "
              "settings: it cannot be carried over",
              network->id, network->type);
    return NULL;
}

gboolean live_need_network(LivePlan *plan, const char *id, GError **error)
{
    const QemuNetwork *network = qemu_network_find(plan->machine, id);
    json_t *options;

    if (!network || live_plan_find(plan, "netdev", "id", id) || is_added(plan, "netdev", "id", id))
        return TRUE;
    options = network_options(network, error);
    if (options)
        live_plan_add_json(plan, "netdev", options);
    return options != NULL;
}

/* A back end that was deleted and made anew under its old name. */
static gboolean is_other_network(const LineOption *line, const QemuNetwork *network)
{
    g_autofree char *interface = qemu_network_setting(network, "ifname");
    const char *type = line_option_get(line, "type");
    const char *named = line_option_get(line, "ifname");

    if (g_strcmp0(type, "bridge") == 0 || g_strcmp0(type, "vhost-vdpa") == 0)
        return FALSE;
    if (type && strcmp(type, network->type) != 0)
        return TRUE;
    return named && interface && !strchr(named, '%') && strcmp(named, interface) != 0;
}

static gboolean update_networks(LivePlan *plan, GError **error)
{
    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);
        const char *id =
            line->parameters && line_option_is(line, "netdev") ? line_option_get(line, "id") : NULL;
        const QemuNetwork *network = id ? qemu_network_find(plan->machine, id) : NULL;

        if (!id)
            continue;
        line->dropped = !network || is_other_network(line, network);
        if (network && !live_need_network(plan, id, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- character devices ---- */

/* "unix:/run/x.sock,server=on", perhaps "disconnected:unix:…". */
static json_t *chardev_options(const QemuChardev *chardev, GError **error)
{
    const char *name = chardev->filename;
    gboolean server;

    if (g_str_has_prefix(name, "disconnected:"))
        name += strlen("disconnected:");
    server = strstr(name, ",server") != NULL;
    if (g_str_has_prefix(name, "unix:")) {
        g_autofree char *path = g_strndup(name + 5, strcspn(name + 5, ","));

        return server ? json_pack("{s:s, s:s, s:s, s:s, s:s}", "backend", "socket", "id",
                                  chardev->label, "path", path, "server", "on", "wait", "off")
                      : json_pack("{s:s, s:s, s:s}", "backend", "socket", "id", chardev->label,
                                  "path", path);
    }
    if (strcmp(name, "null") == 0 || strcmp(name, "pty") == 0 || g_str_has_prefix(name, "pty:"))
        return json_pack("{s:s, s:s}", "backend", *name == 'n' ? "null" : "pty", "id",
                         chardev->label);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "character device \"%s\" (%s) was added since the start and cannot be carried over",
              chardev->label, chardev->filename);
    return NULL;
}

/* -chardev takes no JSON. */
static void add_chardev(LivePlan *plan, json_t *options)
{
    g_autoptr(QemuParameters) parameters = qemu_parameters_parse("", NULL);
    const char *key;
    json_t *value;

    json_object_foreach(options, key, value)
        qemu_parameters_set(parameters, key, json_incref(value));
    json_decref(options);
    live_plan_add(plan, "chardev", qemu_parameters_to_text(parameters));
}

gboolean live_need_chardev(LivePlan *plan, const char *label, GError **error)
{
    const QemuChardev *chardev = qemu_chardev_find(plan->machine, label);
    json_t *options;

    if (!chardev || live_plan_find(plan, "chardev", "id", label) ||
        is_added(plan, "chardev", "id", label))
        return TRUE;
    options = chardev_options(chardev, error);
    if (options)
        add_chardev(plan, options);
    return options != NULL;
}

static void update_chardevs(LivePlan *plan)
{
    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);
        const char *id = line->parameters && line_option_is(line, "chardev")
                             ? line_option_get(line, "id")
                             : NULL;

        if (id && !qemu_chardev_find(plan->machine, id))
            line->dropped = TRUE;
    }
}

gboolean live_backends(LivePlan *plan, GError **error)
{
    update_chardevs(plan);
    return update_objects(plan, error) && update_networks(plan, error);
}

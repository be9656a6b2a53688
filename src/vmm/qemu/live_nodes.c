/*
 * -blockdev: nodes that have names
 *
 * A device is attached to the node at the top of what it has.  Snapshots,
 * mirrors and changed media put other nodes there; commits and streams take
 * nodes out from below.  Nodes whose names QEMU made up are written inside of
 * the nodes above them, or get a name where a device needs one.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/live_line_private.h"

#define MAX_DEPTH 64
#define MAX_INVENTED 4096

typedef enum { NODE_FILE, NODE_FORMAT } NodeKind;

/* The drivers whose nodes can be made from what QEMU tells of them. */
static const struct {
    const char *driver;
    NodeKind kind;
    gboolean has_backing;
} node_drivers[] = {
    {"file", NODE_FILE, FALSE},           {"host_device", NODE_FILE, FALSE},
    {"host_cdrom", NODE_FILE, FALSE},     {"raw", NODE_FORMAT, FALSE},
    {"qcow2", NODE_FORMAT, TRUE},         {"qcow", NODE_FORMAT, TRUE},
    {"qed", NODE_FORMAT, TRUE},           {"vmdk", NODE_FORMAT, TRUE},
    {"vdi", NODE_FORMAT, FALSE},          {"vhdx", NODE_FORMAT, FALSE},
    {"vpc", NODE_FORMAT, FALSE},          {"parallels", NODE_FORMAT, FALSE},
    {"copy-on-read", NODE_FORMAT, FALSE},
};

static gboolean refuse(const BlockNode *node, GError **error)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "block node %s (driver %s%s) was added since the start and cannot be carried over",
              node->name, node->driver, node->encrypted ? ", encrypted" : "");
    return FALSE;
}

static json_t *child_reference(LivePlan *plan, const BlockNode *child, guint depth, GError **error);

/* What a "json:{…}" file name tells is all that the node was opened with. */
static json_t *options_from_json(const BlockNode *node)
{
    json_t *options =
        g_str_has_prefix(node->file, "json:") ? json_loads(node->file + 5, 0, NULL) : NULL;

    if (json_is_object(options))
        return options;
    json_decref(options);
    return NULL;
}

/* "nbd://host:port/export" and "nbd+unix:///export?socket=path" */
static json_t *options_from_nbd(const char *url)
{
    g_autoptr(GUri) uri = g_uri_parse(url, G_URI_FLAGS_NONE, NULL);
    const char *scheme = uri ? g_uri_get_scheme(uri) : NULL, *name;
    g_autoptr(GHashTable) query = NULL;
    g_autofree char *port = NULL;
    json_t *server;

    if (!scheme || !g_str_has_prefix(scheme, "nbd"))
        return NULL;
    if (g_uri_get_query(uri))
        query = g_uri_parse_params(g_uri_get_query(uri), -1, "&", G_URI_PARAMS_NONE, NULL);
    port = g_strdup_printf("%d", g_uri_get_port(uri) > 0 ? g_uri_get_port(uri) : 10809);
    if (query && g_hash_table_lookup(query, "socket"))
        server = json_pack("{s:s, s:s?}", "type", "unix", "path",
                           (const char *)g_hash_table_lookup(query, "socket"));
    else
        server = json_pack("{s:s, s:s?, s:s}", "type", "inet", "host", g_uri_get_host(uri), "port",
                           port);
    name = g_uri_get_path(uri);
    name += *name == '/';
    return *name ? json_pack("{s:s, s:o, s:s}", "driver", "nbd", "server", server, "export", name)
                 : json_pack("{s:s, s:o}", "driver", "nbd", "server", server);
}

static json_t *base_options(LivePlan *plan, const BlockNode *node, guint depth, GError **error)
{
    json_t *options = options_from_json(node);
    const BlockNode *file, *backing;
    guint at = 0;
    json_t *child;

    while (at < G_N_ELEMENTS(node_drivers) && strcmp(node_drivers[at].driver, node->driver) != 0)
        at++;
    if (!options && strcmp(node->driver, "nbd") == 0)
        options = options_from_nbd(node->file);
    if (node->encrypted || (at == G_N_ELEMENTS(node_drivers) && !options) || depth > MAX_DEPTH) {
        json_decref(options);
        refuse(node, error);
        return NULL;
    }
    if (!options)
        options = json_pack("{s:s}", "driver", node->driver);
    if (at == G_N_ELEMENTS(node_drivers))
        return options;
    if (node_drivers[at].kind == NODE_FILE) {
        if (!json_object_get(options, "filename"))
            json_object_set_new(options, "filename", json_string(node->file));
        return options;
    }
    file = block_node_get_child(plan->machine->block, node, "file");
    backing = block_node_get_child(plan->machine->block, node, "backing");
    child = file ? child_reference(plan, file, depth, error) : NULL;
    if (!child) {
        json_decref(options);
        if (!file)
            refuse(node, error);
        return NULL;
    }
    /* As it is by itself below a read-only node: a commit makes both writable. */
    if (json_is_object(child) && file->read_only && node->read_only)
        json_object_del(child, "read-only");
    json_object_set_new(options, "file", child);
    if (!node_drivers[at].has_backing)
        return options;
    child = backing ? child_reference(plan, backing, depth, error) : json_null();
    if (!child) {
        json_decref(options);
        return NULL;
    }
    json_object_set_new(options, "backing", child);
    return options;
}

static json_t *node_options(LivePlan *plan, const BlockNode *node, guint depth, GError **error)
{
    json_t *options = base_options(plan, node, depth, error);

    if (!options)
        return NULL;
    json_object_set_new(options, "read-only", json_boolean(node->read_only));
    json_object_set_new(
        options, "cache",
        json_pack("{s:b, s:b}", "direct", node->cache.direct, "no-flush", node->cache.no_flush));
    if (strcmp(node->detect_zeroes, "off") != 0)
        json_object_set_new(options, "detect-zeroes", json_string(node->detect_zeroes));
    return options;
}

/* TRUE where some option of the line makes a node of this name. */
static gboolean makes_node(json_t *value, const char *name)
{
    const char *key;
    json_t *below;

    if (!json_is_object(value))
        return FALSE;
    if (g_strcmp0(json_text_or(value, "node-name", NULL), name) == 0)
        return TRUE;
    json_object_foreach(value, key, below) if (makes_node(below, name)) return TRUE;
    return FALSE;
}

static gboolean is_made_by_line(const LivePlan *plan, const char *name)
{
    for (guint i = 0; i < plan->options->len; i++) {
        const LineOption *line = live_plan_option(plan, i);
        gboolean makes = line->parameters &&
                         (line_option_is(line, "blockdev") || line_option_is(line, "drive")) &&
                         (g_strcmp0(line_option_get(line, "node-name"), name) == 0 ||
                          makes_node(qemu_parameters_get_json(line->parameters), name));

        if (makes && !line->dropped)
            return TRUE;
    }
    return FALSE;
}

static char *invent_name(const LivePlan *plan)
{
    for (guint i = 0; i < MAX_INVENTED; i++) {
        g_autofree char *name = g_strdup_printf("moved%u", i);
        GHashTableIter iter;
        gpointer used;
        gboolean free_name =
            !block_graph_find(plan->machine->block, name) && !is_made_by_line(plan, name);

        g_hash_table_iter_init(&iter, plan->node_names);
        while (free_name && g_hash_table_iter_next(&iter, NULL, &used))
            free_name = strcmp(used, name) != 0;
        if (free_name)
            return g_steal_pointer(&name);
    }
    return NULL;
}

/* Discard and AIO are not told by QEMU: what is put on top of a node of the
 * line goes on as that was opened. */
static void inherit(const LivePlan *plan, const BlockNode *node, json_t *options)
{
    static const char *const keys[] = {"discard", "aio"};
    const BlockNode *below = node;
    const LineOption *line = NULL;

    for (guint i = 0; below && !line && i < MAX_DEPTH; i++) {
        below = block_node_get_child(plan->machine->block, below, "backing");
        line = below ? live_plan_find(plan, "blockdev", "node-name", below->name) : NULL;
    }
    for (guint i = 0; line && i < G_N_ELEMENTS(keys); i++) {
        const char *value = line_option_get(line, keys[i]);
        json_t *file = json_object_get(options, "file");

        if (!value)
            continue;
        if (strcmp(keys[i], "discard") == 0)
            json_object_set_new(options, keys[i], json_string(value));
        if (json_is_object(file))
            json_object_set_new(file, keys[i], json_string(value));
    }
}

/* Makes an option for a node; returns its name, NULL with *error*. */
static const char *add_node(LivePlan *plan, const BlockNode *node, guint depth, GError **error)
{
    char *name = block_node_is_unnamed(node) ? invent_name(plan) : g_strdup(node->name);
    json_t *options;

    if (!name) {
        refuse(node, error);
        return NULL;
    }
    g_hash_table_insert(plan->node_names, g_strdup(node->name), name);
    options = node_options(plan, node, depth, error);
    if (!options)
        return NULL;
    json_object_set_new(options, "node-name", json_string(name));
    inherit(plan, node, options);
    live_plan_add_json(plan, "blockdev", options);
    return name;
}

static const char *need_node(LivePlan *plan, const BlockNode *node, guint depth, GError **error)
{
    const char *known = g_hash_table_lookup(plan->node_names, node->name);

    if (known)
        return known;
    if (!block_node_is_unnamed(node) && is_made_by_line(plan, node->name))
        return node->name;
    return add_node(plan, node, depth, error);
}

static json_t *child_reference(LivePlan *plan, const BlockNode *child, guint depth, GError **error)
{
    const char *name;

    if (block_node_is_unnamed(child))
        return node_options(plan, child, depth + 1, error);
    name = need_node(plan, child, depth + 1, error);
    return name ? json_string(name) : NULL;
}

const char *live_need_drive(LivePlan *plan, const char *drive, GError **error)
{
    const BlockDrive *found = block_graph_find_drive(plan->machine->block, drive);
    const BlockNode *root;

    if (!found)
        return "";
    /* live_drives() has seen to those that have a name. */
    if (*found->name)
        return found->name;
    root = found->root ? block_graph_find(plan->machine->block, found->root) : NULL;
    return root ? need_node(plan, root, 0, error) : "";
}

/* ---- options of the line ---- */

/* A child that the option names, or leaves to the image's header. */
static gboolean update_child(LivePlan *plan, LineOption *line, const BlockNode *node,
                             const char *role, GError **error)
{
    const BlockNode *child = block_node_get_child(plan->machine->block, node, role);
    json_t *json = qemu_parameters_get_json(line->parameters);
    const char *named = line_option_get(line, role);
    json_t *value;

    /* Written inside of it, or taken from the header: compared at the end. */
    if (json && json_is_object(json_object_get(json, role)))
        return TRUE;
    if (!named && (!child || block_node_is_unnamed(child)))
        return TRUE;
    if (child && g_strcmp0(named, child->name) == 0)
        return TRUE;
    if (json && json_is_null(json_object_get(json, role)) && !child)
        return TRUE;
    value = child ? child_reference(plan, child, 0, error) : json_null();
    if (!value)
        return FALSE;
    line->edited = TRUE;
    if (json || json_is_string(value))
        qemu_parameters_set(line->parameters, role, value);
    else
        json_decref(value);
    return TRUE;
}

static void update_read_only(LineOption *line, const BlockNode *node)
{
    gboolean now = qemu_parameters_flag(line->parameters, "read-only");

    /* Read-only by itself where the file is: QEMU decides again. */
    if (now == node->read_only || qemu_parameters_flag(line->parameters, "auto-read-only"))
        return;
    line->edited = TRUE;
    qemu_parameters_set(line->parameters, "read-only",
                        qemu_parameters_get_json(line->parameters)
                            ? json_boolean(node->read_only)
                            : json_string(node->read_only ? "on" : "off"));
}

static gboolean update_node(LivePlan *plan, LineOption *line, GError **error)
{
    const char *name = line_option_get(line, "node-name");
    const BlockNode *node = name ? block_graph_find(plan->machine->block, name) : NULL;

    if (!node) {
        line->dropped = TRUE;
        return TRUE;
    }
    update_read_only(line, node);
    return update_child(plan, line, node, "file", error) &&
           update_child(plan, line, node, "backing", error);
}

static gboolean is_child_of(const BlockNode *node, const BlockNode *parent)
{
    for (guint i = 0; i < parent->children->len; i++)
        if (strcmp(((const BlockChild *)parent->children->pdata[i])->node, node->name) == 0)
            return TRUE;
    return FALSE;
}

/* By a drive, or by a node that is not left over itself. */
static gboolean is_used(const BlockGraph *graph, const BlockNode *node, GHashTable *left_over)
{
    for (guint i = 0; i < graph->nodes->len; i++) {
        const BlockNode *parent = graph->nodes->pdata[i];

        if (is_child_of(node, parent) && !g_hash_table_contains(left_over, parent->name))
            return TRUE;
    }
    return block_graph_is_root_of_drive(graph, node);
}

/* An overlay that was committed stays in QEMU where it was made by a -blockdev: above a node that a
 * drive uses now, and used by nothing itself.  No command line makes that (the node below counts as
 * busy), so it is left out.  One pass; TRUE where it found some. */
static gboolean drop_left_over(LivePlan *plan, GHashTable *left_over)
{
    const BlockGraph *graph = plan->machine->block;
    guint known = g_hash_table_size(left_over);

    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);
        const char *name = line->parameters && !line->dropped && line_option_is(line, "blockdev")
                               ? line_option_get(line, "node-name")
                               : NULL;
        const BlockNode *node = name ? block_graph_find(graph, name) : NULL;

        if (!node || !block_graph_is_above_drive(graph, node) || is_used(graph, node, left_over))
            continue;
        line->dropped = TRUE;
        g_hash_table_add(left_over, node->name);
    }
    return g_hash_table_size(left_over) > known;
}

/* What is not there any more goes first, so that it does not pass for made. */
gboolean live_nodes(LivePlan *plan, GError **error)
{
    g_autoptr(GHashTable) left_over = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);
        const char *name = line->parameters && line_option_is(line, "blockdev")
                               ? line_option_get(line, "node-name")
                               : NULL;

        if (name && !block_graph_find(plan->machine->block, name))
            line->dropped = TRUE;
    }
    for (guint i = 0; i < MAX_DEPTH && drop_left_over(plan, left_over); i++)
        ;
    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);

        if (!line->dropped && line->parameters && line_option_is(line, "blockdev") &&
            !update_node(plan, line, error))
            return FALSE;
    }
    return TRUE;
}

#include "vmm/qemu/copy_traces.h"

#include <string.h>

#include "base/json.h"

void qemu_copy_free(QemuCopy *copy)
{
    if (!copy)
        return;
    g_free(copy->name);
    g_free(copy->node);
    g_free(copy->filter);
    g_free(copy);
}

QemuCopy *qemu_copy_find(const GPtrArray *copies, const char *name)
{
    for (guint i = 0; copies && i < copies->len; i++) {
        QemuCopy *copy = copies->pdata[i];

        if (strcmp(copy->name, name) == 0)
            return copy;
    }
    return NULL;
}

/* ---- the filter ---- */

/* Number of the vertex of this type and name; G_MAXUINT64 for none. */
static uint64_t find_vertex(json_t *graph, const char *type, const char *name)
{
    json_t *vertex;
    size_t i;

    json_array_foreach(json_object_get(graph, "nodes"), i, vertex)
    {
        if (strcmp(json_text_or(vertex, "type", ""), type) == 0 &&
            strcmp(json_text_or(vertex, "name", ""), name) == 0)
            return json_count_or(vertex, "id", G_MAXUINT64);
    }
    return G_MAXUINT64;
}

static char *copy_vertex_name(json_t *graph, uint64_t number)
{
    json_t *vertex;
    size_t i;

    json_array_foreach(json_object_get(graph, "nodes"), i, vertex)
    {
        if (json_count_or(vertex, "id", G_MAXUINT64) == number)
            return g_strdup(json_text_or(vertex, "name", NULL));
    }
    return NULL;
}

char *qemu_copy_find_filter(json_t *graph, const char *name)
{
    uint64_t job = find_vertex(graph, "block-job", name);
    json_t *edge;
    size_t i;

    if (job == G_MAXUINT64)
        return NULL;
    json_array_foreach(json_object_get(graph, "edges"), i, edge)
    {
        if (json_count_or(edge, "parent", G_MAXUINT64) == job &&
            strcmp(json_text_or(edge, "name", ""), "main node") == 0)
            return copy_vertex_name(graph, json_count_or(edge, "child", G_MAXUINT64 - 1));
    }
    return NULL;
}

static gboolean is_job(json_t *graph, uint64_t number)
{
    json_t *vertex;
    size_t i;

    json_array_foreach(json_object_get(graph, "nodes"), i, vertex)
    {
        if (json_count_or(vertex, "id", G_MAXUINT64) == number)
            return strcmp(json_text_or(vertex, "type", ""), "block-job") == 0;
    }
    return FALSE;
}

char *qemu_copy_find_job(json_t *graph, const char *node)
{
    uint64_t child = find_vertex(graph, "block-driver", node);
    json_t *edge;
    size_t i;

    json_array_foreach(json_object_get(graph, "edges"), i, edge)
    {
        uint64_t parent = json_count_or(edge, "parent", G_MAXUINT64);

        if (json_count_or(edge, "child", G_MAXUINT64 - 1) == child && is_job(graph, parent))
            return copy_vertex_name(graph, parent);
    }
    return NULL;
}

gboolean qemu_copy_is_used(json_t *graph, const char *node)
{
    uint64_t child = find_vertex(graph, "block-driver", node);
    json_t *edge;
    size_t i;

    json_array_foreach(json_object_get(graph, "edges"), i, edge)
    {
        if (json_count_or(edge, "child", G_MAXUINT64 - 1) == child)
            return TRUE;
    }
    return FALSE;
}

/* ---- hiding ---- */

static gboolean is_of_copy(const GPtrArray *copies, const char *name)
{
    for (guint i = 0; i < copies->len; i++) {
        const QemuCopy *copy = copies->pdata[i];

        if (strcmp(copy->name, name) == 0 || g_strcmp0(copy->filter, name) == 0)
            return TRUE;
    }
    return FALSE;
}

/* Entries of the list whose *key* is a name of a copy's. */
static void drop_named(json_t *list, const char *key, const GPtrArray *copies)
{
    for (size_t i = json_array_size(list); i-- > 0;)
        if (is_of_copy(copies, json_text_or(json_array_get(list, i), key, "")))
            json_array_remove(list, i);
}

static gboolean is_end_of(json_t *edge, const char *end, GHashTable *vertices)
{
    int64_t number = (int64_t)json_count_or(edge, end, G_MAXUINT64);

    return g_hash_table_contains(vertices, &number);
}

static void drop_edges(json_t *edges, GHashTable *vertices)
{
    for (size_t i = json_array_size(edges); i-- > 0;) {
        json_t *edge = json_array_get(edges, i);

        if (is_end_of(edge, "parent", vertices) || is_end_of(edge, "child", vertices))
            json_array_remove(edges, i);
    }
}

static void drop_vertices(json_t *graph, const GPtrArray *copies)
{
    g_autoptr(GHashTable) dropped =
        g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    json_t *vertex;
    size_t i;

    json_array_foreach(json_object_get(graph, "nodes"), i, vertex)
    {
        int64_t number = (int64_t)json_count_or(vertex, "id", G_MAXUINT64);

        if (is_of_copy(copies, json_text_or(vertex, "name", "")))
            g_hash_table_add(dropped, g_memdup2(&number, sizeof number));
    }
    drop_named(json_object_get(graph, "nodes"), "name", copies);
    drop_edges(json_object_get(graph, "edges"), dropped);
}

/* A device whose drive has no name of its own is told with the node on top: the filter. */
static void replace_filters(json_t *machine, const GPtrArray *copies)
{
    const char *devices = json_text_or(machine, "devices", NULL);
    GString *text = devices ? g_string_new(devices) : NULL;

    for (guint i = 0; text && i < copies->len; i++) {
        const QemuCopy *copy = copies->pdata[i];
        g_autofree char *shown = g_strdup_printf("drive = \"%s\"", copy->filter);
        g_autofree char *real = g_strdup_printf("drive = \"%s\"", copy->node);

        if (copy->filter)
            g_string_replace(text, shown, real, 0);
    }
    if (!text)
        return;
    json_object_set_new(machine, "devices", json_string(text->str));
    g_string_free(text, TRUE);
}

void qemu_copies_hide(json_t *machine, const GPtrArray *copies)
{
    if (!copies || copies->len == 0)
        return;
    drop_named(json_object_get(machine, "jobs"), "id", copies);
    drop_named(json_object_get(machine, "nodes"), "node-name", copies);
    drop_vertices(json_object_get(machine, "graph"), copies);
    replace_filters(machine, copies);
}

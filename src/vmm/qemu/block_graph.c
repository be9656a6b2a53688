#include "vmm/qemu/block_graph.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/vmm.h"

#define MAX_CHAIN 256 /* nodes on a way down */
#define MAX_DESCRIPTION_BYTES 16384
#define MAX_WORD_BYTES 256 /* names of nodes, drivers and roles */

static void child_free(BlockChild *child)
{
    g_free(child->role);
    g_free(child->node);
    g_free(child);
}

static void node_free(BlockNode *node)
{
    g_free(node->name);
    g_free(node->driver);
    g_free(node->file);
    g_free(node->detect_zeroes);
    g_free(node->unsaved_bitmap);
    g_ptr_array_unref(node->children);
    g_free(node);
}

static void drive_free(BlockDrive *drive)
{
    g_free(drive->name);
    g_free(drive->device);
    g_free(drive->root);
    json_decref(drive->throttle);
    g_free(drive);
}

void block_graph_free(BlockGraph *graph)
{
    if (!graph)
        return;
    g_hash_table_unref(graph->by_name);
    g_ptr_array_unref(graph->nodes);
    g_ptr_array_unref(graph->drives);
    g_free(graph);
}

static gboolean unexpected(const char *what, GError **error)
{
    error_set(error, VMFERRY_ERROR_INVALID, "%s: unexpected answer", what);
    return FALSE;
}

static gboolean is_list(json_t *list, size_t limit)
{
    return json_is_array(list) && json_array_size(list) <= limit;
}

/* ---- nodes ---- */

static BlockCache read_cache(json_t *entry)
{
    json_t *cache = json_object_get(entry, "cache");

    return (BlockCache){json_flag_or(cache, "direct", FALSE),
                        json_flag_or(cache, "no-flush", FALSE),
                        json_flag_or(cache, "writeback", TRUE)};
}

/* A bitmap that is not stored in the image is gone when this QEMU ends; ours may be. */
static char *find_unsaved_bitmap(json_t *entry)
{
    json_t *bitmaps = json_object_get(entry, "dirty-bitmaps");
    json_t *bitmap;
    size_t i;

    json_array_foreach(bitmaps, i, bitmap)
    {
        const char *name = json_text_or(bitmap, "name", NULL);

        if (i >= BLOCK_GRAPH_MAX_BITMAPS)
            break;
        /* Those without a name belong to a job, which is told as such. */
        if (name && !g_str_has_prefix(name, VMM_BITMAP_PREFIX) &&
            !g_str_has_prefix(name, VMM_CHANGES_PREFIX) &&
            !json_flag_or(bitmap, "persistent", FALSE))
            return g_strdup(name);
    }
    return NULL;
}

/* QEMU's own are far shorter; a peer's may be what it likes. */
static const char *get_word(json_t *entry, const char *key)
{
    const char *word = json_text_or(entry, key, NULL);

    return word && strlen(word) <= MAX_WORD_BYTES ? word : NULL;
}

static BlockNode *read_node(json_t *entry)
{
    const char *name = get_word(entry, "node-name");
    const char *driver = get_word(entry, "drv");
    BlockNode *node;

    if (!name || !driver)
        return NULL;
    node = g_new0(BlockNode, 1);
    node->name = g_strdup(name);
    node->driver = g_strdup(driver);
    node->file = g_strdup(json_text_or(entry, "file", ""));
    node->read_only = json_flag_or(entry, "ro", FALSE);
    node->cache = read_cache(entry);
    node->detect_zeroes = g_strdup(json_text_or(entry, "detect_zeroes", "off"));
    node->bytes = json_count_or(json_object_get(entry, "image"), "virtual-size", 0);
    node->encrypted = json_flag_or(entry, "encrypted", FALSE);
    node->unsaved_bitmap = find_unsaved_bitmap(entry);
    node->children = g_ptr_array_new_with_free_func((GDestroyNotify)child_free);
    return node;
}

static gboolean read_nodes(BlockGraph *graph, json_t *nodes, GError **error)
{
    json_t *entry;
    size_t i;

    if (!is_list(nodes, BLOCK_GRAPH_MAX_NODES))
        return unexpected("query-named-block-nodes", error);
    json_array_foreach(nodes, i, entry)
    {
        BlockNode *node = read_node(entry);

        if (!node)
            return unexpected("query-named-block-nodes", error);
        g_ptr_array_add(graph->nodes, node);
        g_hash_table_replace(graph->by_name, node->name, node);
    }
    return TRUE;
}

/* Number of a graph's vertex → its BlockNode; NULL where it is something else. */
static GHashTable *read_vertices(const BlockGraph *graph, json_t *vertices)
{
    GHashTable *by_number = g_hash_table_new(NULL, NULL);
    json_t *vertex;
    size_t i;

    json_array_foreach(vertices, i, vertex)
    {
        guint64 number = json_count_or(vertex, "id", G_MAXUINT64);
        const char *name = json_text_or(vertex, "name", "");

        if (strcmp(json_text_or(vertex, "type", ""), "block-driver") == 0 && number < G_MAXUINT)
            g_hash_table_insert(by_number, GUINT_TO_POINTER((guint)number),
                                g_hash_table_lookup(graph->by_name, name));
    }
    return by_number;
}

static BlockNode *find_vertex(GHashTable *by_number, json_t *edge, const char *end)
{
    guint64 number = json_count_or(edge, end, G_MAXUINT64);

    return number < G_MAXUINT ? g_hash_table_lookup(by_number, GUINT_TO_POINTER((guint)number))
                              : NULL;
}

static gboolean read_edges(BlockGraph *graph, json_t *picture, GError **error)
{
    json_t *vertices = json_object_get(picture, "nodes"),
           *edges = json_object_get(picture, "edges");
    g_autoptr(GHashTable) by_number = NULL;
    json_t *edge;
    size_t i;

    if (!is_list(vertices, BLOCK_GRAPH_MAX_EDGES) || !is_list(edges, BLOCK_GRAPH_MAX_EDGES))
        return unexpected("x-debug-query-block-graph", error);
    by_number = read_vertices(graph, vertices);
    json_array_foreach(edges, i, edge)
    {
        BlockNode *parent = find_vertex(by_number, edge, "parent");
        const BlockNode *child = find_vertex(by_number, edge, "child");
        const char *role = get_word(edge, "name");
        BlockChild *link;

        if (!role)
            return unexpected("x-debug-query-block-graph", error);
        if (!parent || !child)
            continue;
        link = g_new(BlockChild, 1);
        *link = (BlockChild){g_strdup(role), g_strdup(child->name)};
        g_ptr_array_add(parent->children, link);
    }
    return TRUE;
}

/* ---- drives ---- */

/* The keys of query-block's answer as block_set_io_throttle has them. */
static const char *const throttle_keys[] = {
    "bps",
    "bps_rd",
    "bps_wr",
    "iops",
    "iops_rd",
    "iops_wr",
    "bps_max",
    "bps_rd_max",
    "bps_wr_max",
    "iops_max",
    "iops_rd_max",
    "iops_wr_max",
    "bps_max_length",
    "bps_rd_max_length",
    "bps_wr_max_length",
    "iops_max_length",
    "iops_rd_max_length",
    "iops_wr_max_length",
    "iops_size",
};

/* Bursts and their lengths mean nothing without one of the first six. */
#define THROTTLE_LIMITS 6u

static json_t *read_throttle(json_t *inserted)
{
    g_autoptr(json_t) limits = json_object();
    gboolean limited = FALSE;

    for (guint i = 0; i < G_N_ELEMENTS(throttle_keys); i++) {
        json_t *value = json_object_get(inserted, throttle_keys[i]);

        if (!json_is_integer(value) || json_integer_value(value) <= 0)
            continue;
        json_object_set(limits, throttle_keys[i], value);
        limited = limited || i < THROTTLE_LIMITS;
    }
    if (!limited)
        return NULL;
    if (json_is_string(json_object_get(inserted, "group")))
        json_object_set(limits, "group", json_object_get(inserted, "group"));
    return g_steal_pointer(&limits);
}

static BlockDrive *read_drive(json_t *entry)
{
    json_t *inserted = json_object_get(entry, "inserted");
    BlockDrive *drive = g_new0(BlockDrive, 1);

    drive->name = g_strdup(json_text_or(entry, "device", ""));
    drive->device = g_strdup(json_text_or(entry, "qdev", NULL));
    drive->removable = json_flag_or(entry, "removable", FALSE);
    drive->tray_open = json_flag_or(entry, "tray_open", FALSE);
    drive->root = g_strdup(json_text_or(inserted, "node-name", NULL));
    drive->read_only = json_flag_or(inserted, "ro", FALSE);
    drive->writeback = read_cache(inserted).writeback;
    drive->throttle = read_throttle(inserted);
    return drive;
}

static gboolean read_drives(BlockGraph *graph, json_t *block, GError **error)
{
    json_t *entry;
    size_t i;

    if (!is_list(block, BLOCK_GRAPH_MAX_DRIVES))
        return unexpected("query-block", error);
    json_array_foreach(block, i, entry)
    {
        BlockDrive *drive = read_drive(entry);

        g_ptr_array_add(graph->drives, drive);
        if (drive->root && !block_graph_find(graph, drive->root)) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "query-block: drive %s is on unknown node %.64s", block_drive_describe(drive),
                      drive->root);
            return FALSE;
        }
    }
    return TRUE;
}

BlockGraph *block_graph_parse(json_t *block, json_t *nodes, json_t *picture, GError **error)
{
    g_autoptr(BlockGraph) graph = g_new0(BlockGraph, 1);

    graph->drives = g_ptr_array_new_with_free_func((GDestroyNotify)drive_free);
    graph->nodes = g_ptr_array_new_with_free_func((GDestroyNotify)node_free);
    graph->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    if (!read_nodes(graph, nodes, error) || !read_edges(graph, picture, error) ||
        !read_drives(graph, block, error))
        return NULL;
    return g_steal_pointer(&graph);
}

/* ---- looking ---- */

BlockNode *block_graph_find(const BlockGraph *graph, const char *node)
{
    return g_hash_table_lookup(graph->by_name, node);
}

BlockDrive *block_graph_find_drive(const BlockGraph *graph, const char *name)
{
    if (!*name)
        return NULL;
    for (guint i = 0; i < graph->drives->len; i++) {
        BlockDrive *drive = graph->drives->pdata[i];

        if (strcmp(drive->name, name) == 0)
            return drive;
    }
    for (guint i = 0; i < graph->drives->len; i++) {
        BlockDrive *drive = graph->drives->pdata[i];

        if (!*drive->name && g_strcmp0(drive->root, name) == 0)
            return drive;
    }
    return NULL;
}

BlockNode *block_node_get_child(const BlockGraph *graph, const BlockNode *node, const char *role)
{
    for (guint i = 0; i < node->children->len; i++) {
        const BlockChild *child = node->children->pdata[i];

        if (strcmp(child->role, role) == 0)
            return block_graph_find(graph, child->node);
    }
    return NULL;
}

gboolean block_graph_is_root_of_drive(const BlockGraph *graph, const BlockNode *node)
{
    for (guint i = 0; i < graph->drives->len; i++)
        if (g_strcmp0(((const BlockDrive *)graph->drives->pdata[i])->root, node->name) == 0)
            return TRUE;
    return FALSE;
}

gboolean block_graph_is_above_drive(const BlockGraph *graph, const BlockNode *node)
{
    const BlockNode *below = block_node_get_child(graph, node, "backing");

    for (guint i = 0; below && i < MAX_CHAIN; i++) {
        if (block_graph_is_root_of_drive(graph, below))
            return TRUE;
        below = block_node_get_child(graph, below, "backing");
    }
    return FALSE;
}

gboolean block_node_is_unnamed(const BlockNode *node)
{
    return node->name[0] == '#';
}

static int compare_roles(gconstpointer left, gconstpointer right)
{
    return strcmp((*(BlockChild *const *)left)->role, (*(BlockChild *const *)right)->role);
}

static void describe(const BlockGraph *graph, const BlockNode *node, gboolean no_backing,
                     guint depth, GString *text)
{
    g_autoptr(GPtrArray) children = g_ptr_array_new();

    g_string_append(text, node->driver);
    if (node->children->len == 0 || depth >= MAX_CHAIN || text->len > MAX_DESCRIPTION_BYTES)
        return;
    for (guint i = 0; i < node->children->len; i++)
        if (!no_backing ||
            strcmp(((const BlockChild *)node->children->pdata[i])->role, "backing") != 0)
            g_ptr_array_add(children, node->children->pdata[i]);
    g_ptr_array_sort(children, compare_roles);
    g_string_append_c(text, '(');
    for (guint i = 0; i < children->len; i++) {
        const BlockChild *child = children->pdata[i];
        const BlockNode *below = block_graph_find(graph, child->node);

        g_string_append_printf(text, "%s%s: ", i ? ", " : "", child->role);
        if (below)
            describe(graph, below, no_backing, depth + 1, text);
        if (text->len > MAX_DESCRIPTION_BYTES)
            break;
    }
    g_string_append_c(text, ')');
}

char *block_node_describe(const BlockGraph *graph, const BlockNode *node, gboolean no_backing)
{
    GString *text = g_string_new(NULL);

    describe(graph, node, no_backing, 0, text);
    return g_string_free(text, FALSE);
}

typedef struct {
    const BlockGraph *first, *second;
    BlockLeafVisitor visit;
    gpointer user;
    guint leaves;
} LeafWalk;

static gboolean walk_leaves(LeafWalk *walk, const BlockNode *first, const BlockNode *second,
                            guint depth, GError **error)
{
    if (depth > MAX_CHAIN || walk->leaves > BLOCK_GRAPH_MAX_NODES) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "its images are nested too deeply (%u levels) or are too many", depth);
        return FALSE;
    }
    if (first->children->len == 0 && second->children->len == 0) {
        walk->leaves++;
        return walk->visit(first, second, walk->user, error);
    }
    if (first->children->len != second->children->len) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "node %.64s (%.64s) is not built on the same nodes there", first->name,
                  first->driver);
        return FALSE;
    }
    for (guint i = 0; i < first->children->len; i++) {
        const BlockChild *child = first->children->pdata[i];
        const BlockNode *below = block_graph_find(walk->first, child->node);
        const BlockNode *match = block_node_get_child(walk->second, second, child->role);

        if (!below || !match) {
            error_set(error, VMFERRY_ERROR_REFUSED, "node %.64s (%.64s) has no \"%.64s\" there",
                      first->name, first->driver, child->role);
            return FALSE;
        }
        if (!walk_leaves(walk, below, match, depth + 1, error))
            return FALSE;
    }
    return TRUE;
}

gboolean block_graph_visit_leaves(const BlockGraph *graph, const BlockNode *first,
                                  const BlockGraph *other, const BlockNode *second,
                                  BlockLeafVisitor visit, gpointer user, GError **error)
{
    LeafWalk walk = {.first = graph, .second = other, .visit = visit, .user = user};

    return walk_leaves(&walk, first, second, 0, error);
}

const char *block_drive_describe(const BlockDrive *drive)
{
    if (*drive->name)
        return drive->name;
    if (drive->device)
        return drive->device;
    return drive->root ? drive->root : "?";
}

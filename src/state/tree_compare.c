/* What differs between two trees. */
#include <string.h>

#include "state/schema.h"
#include "state/tree_private.h"

static void free_difference(gpointer data)
{
    StateDifference *difference = data;

    g_free(difference->path);
    g_free(difference->left);
    g_free(difference->right);
    g_free(difference);
}

static char *shown(const StateNode *node)
{
    const char *type = node->kind == STATE_GROUP ? state_get_text(node, "type") : NULL;

    return type ? g_strdup(type) : state_leaf_text(node);
}

static void add(GPtrArray *found, const char *path, const StateNode *left, const StateNode *right)
{
    StateDifference *difference = g_new(StateDifference, 1);

    *difference =
        (StateDifference){g_strdup(path), left ? shown(left) : NULL, right ? shown(right) : NULL};
    g_ptr_array_add(found, difference);
}

static gboolean is_leaf(const StateNode *node)
{
    return node->kind != STATE_GROUP && node->kind != STATE_LIST;
}

static gboolean equal_leaves(const StateNode *left, const StateNode *right)
{
    if (left->bytes)
        return g_bytes_equal(left->bytes, right->bytes);
    return left->number == right->number;
}

static void compare(GPtrArray *found, GString *path, const StateNode *left, const StateNode *right);

static void compare_child(GPtrArray *found, GString *path, const char *name, guint index,
                          const StateNode *left, const StateNode *right)
{
    gsize length = path->len;

    if (name)
        g_string_append_printf(path, "%s%s", length ? "." : "", name);
    else
        g_string_append_printf(path, "[%u]", index);
    if (left && right)
        compare(found, path, left, right);
    else
        add(found, path->str, left, right);
    g_string_truncate(path, length);
}

static void compare_groups(GPtrArray *found, GString *path, const StateNode *left,
                           const StateNode *right)
{
    for (guint i = 0; i < left->children->len; i++) {
        const StateNode *child = left->children->pdata[i];

        compare_child(found, path, child->name, 0, child, state_node_child(right, child->name));
    }
    for (guint i = 0; i < right->children->len; i++) {
        const StateNode *child = right->children->pdata[i];

        if (!state_node_child(left, child->name))
            compare_child(found, path, child->name, 0, NULL, child);
    }
}

/* The entry of a list that is the same device as *device*. */
static const StateNode *same_device(const StateNode *list, const StateNode *device)
{
    const char *type = state_get_text(device, "type"), *at = state_get_text(device, "at");

    for (guint i = 0; i < state_length(list); i++) {
        const StateNode *other = state_child(list, i);

        if (g_strcmp0(state_get_text(other, "type"), type) == 0 &&
            g_strcmp0(state_get_text(other, "at"), at) == 0)
            return other;
    }
    return NULL;
}

/* Devices are compared with themselves, wherever they are in their lists; the path is that of the left one. */
static void compare_devices(GPtrArray *found, GString *path, const StateNode *left,
                            const StateNode *right)
{
    for (guint i = 0; i < state_length(left); i++)
        compare_child(found, path, NULL, i, state_child(left, i),
                      same_device(right, state_child(left, i)));
    for (guint i = 0; i < state_length(right); i++)
        if (!same_device(left, state_child(right, i)))
            compare_child(found, path, NULL, i, NULL, state_child(right, i));
}

static gboolean has_devices(const StateNode *list)
{
    return state_length(list) > 0 && state_get_text(state_child(list, 0), "type");
}

static void compare(GPtrArray *found, GString *path, const StateNode *left, const StateNode *right)
{
    if (left->kind != right->kind) {
        add(found, path->str, left, right);
    } else if (is_leaf(left)) {
        if (!equal_leaves(left, right))
            add(found, path->str, left, right);
    } else if (left->kind == STATE_GROUP) {
        compare_groups(found, path, left, right);
    } else if (has_devices(left) && has_devices(right)) {
        compare_devices(found, path, left, right);
    } else {
        for (guint i = 0; i < MAX(state_length(left), state_length(right)); i++)
            compare_child(found, path, NULL, i, state_child(left, i), state_child(right, i));
    }
}

GPtrArray *state_compare(const StateNode *left, const StateNode *right)
{
    GPtrArray *found = g_ptr_array_new_with_free_func(free_difference);
    g_autoptr(GString) path = g_string_new(NULL);

    compare(found, path, left, right);
    return found;
}

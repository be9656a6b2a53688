/* Trees: looking up, building, comparing. */
#include "state/tree.h"

#include <string.h>

#include "state/tree_private.h"

static const char *const kind_names[] = {
    [STATE_GROUP] = "group", [STATE_LIST] = "list",   [STATE_NUMBER] = "number",
    [STATE_TIME] = "time",   [STATE_BYTES] = "bytes", [STATE_TEXT] = "text",
};

const char *state_kind_name(StateKind kind)
{
    return kind_names[kind];
}

static void free_node(gpointer data)
{
    state_free(data);
}

StateNode *state_node_new(StateKind kind, const char *name)
{
    StateNode *node = g_new0(StateNode, 1);

    node->kind = kind;
    node->name = g_strdup(name);
    if (kind == STATE_GROUP || kind == STATE_LIST)
        node->children = g_ptr_array_new_with_free_func(free_node);
    return node;
}

StateNode *state_new(void)
{
    return state_node_new(STATE_GROUP, NULL);
}

void state_free(StateNode *node)
{
    if (!node)
        return;
    g_clear_pointer(&node->children, g_ptr_array_unref);
    g_clear_pointer(&node->bytes, g_bytes_unref);
    g_free(node->name);
    g_free(node);
}

StateNode *state_copy(const StateNode *node)
{
    StateNode *copy = state_node_new(node->kind, node->name);

    copy->number = node->number;
    if (node->bytes)
        copy->bytes = g_bytes_ref(node->bytes);
    for (guint i = 0; i < state_length(node); i++)
        state_node_adopt(copy, state_copy(state_child(node, i)));
    return copy;
}

void state_node_adopt(StateNode *parent, StateNode *child)
{
    g_ptr_array_add(parent->children, child);
}

gboolean state_name_valid(const char *name, size_t length)
{
    if (length == 0 || length > STATE_MAX_NAME)
        return FALSE;
    for (size_t i = 0; i < length; i++)
        if (!g_ascii_islower(name[i]) && !g_ascii_isdigit(name[i]) && name[i] != '_' &&
            name[i] != '-')
            return FALSE;
    return TRUE;
}

gboolean state_text_valid(const char *text, size_t length)
{
    if (!g_utf8_validate(text, (gssize)length, NULL))
        return FALSE;
    for (size_t i = 0; i < length; i++)
        if (g_ascii_iscntrl(text[i]))
            return FALSE;
    return !(length >= 2 && strncmp(text, "0x", 2) == 0) &&
           !(length >= 4 && strncmp(text, "hex:", 4) == 0);
}

/* ---- paths ---- */

typedef struct {
    const char *name; /* NULL: an entry of a list */
    size_t length;
    guint index;
} Step;

/* Takes the first step off *path*.  FALSE at its end, and where it is not a path. */
static gboolean next_step(const char **path, Step *ret)
{
    const char *at = **path == '.' ? *path + 1 : *path;
    char *end;

    if (*at == '[') {
        ret->name = NULL;
        ret->index = (guint)g_ascii_strtoull(at + 1, &end, 10);
        *path = end + 1;
        return *end == ']';
    }
    ret->name = at;
    ret->length = strcspn(at, ".[");
    *path = at + ret->length;
    return ret->length > 0;
}

static StateNode *child_named(const StateNode *group, const char *name, size_t length)
{
    if (group->kind != STATE_GROUP)
        return NULL;
    for (guint i = 0; i < group->children->len; i++) {
        StateNode *child = group->children->pdata[i];

        if (child->name[0] == name[0] && strncmp(child->name, name, length) == 0 &&
            child->name[length] == '\0')
            return child;
    }
    return NULL;
}

StateNode *state_node_child(const StateNode *group, const char *name)
{
    return child_named(group, name, strlen(name));
}

static StateNode *take_step(const StateNode *node, const Step *step)
{
    if (step->name)
        return child_named(node, step->name, step->length);
    if (node->kind != STATE_LIST || step->index >= node->children->len)
        return NULL;
    return node->children->pdata[step->index];
}

StateNode *state_find_mutable(StateNode *node, const char *path)
{
    Step step;

    while (node && *path)
        node = next_step(&path, &step) ? take_step(node, &step) : NULL;
    return node;
}

const StateNode *state_find(const StateNode *node, const char *path)
{
    return state_find_mutable((StateNode *)node, path);
}

StateKind state_kind(const StateNode *node)
{
    return node->kind;
}

guint state_length(const StateNode *node)
{
    return node->children ? node->children->len : 0;
}

const StateNode *state_child(const StateNode *node, guint index)
{
    return index < state_length(node) ? node->children->pdata[index] : NULL;
}

const char *state_name(const StateNode *node)
{
    return node->name ? node->name : "";
}

static const StateNode *find_kind(const StateNode *node, const char *path, StateKind kind)
{
    const StateNode *found = state_find(node, path);

    return found && found->kind == kind ? found : NULL;
}

gboolean state_get_number(const StateNode *node, const char *path, uint64_t *ret)
{
    const StateNode *found = find_kind(node, path, STATE_NUMBER);

    if (found)
        *ret = found->number;
    return found != NULL;
}

gboolean state_get_time(const StateNode *node, const char *path, int64_t *ret_ns)
{
    const StateNode *found = find_kind(node, path, STATE_TIME);

    if (found)
        *ret_ns = (int64_t)found->number;
    return found != NULL;
}

const uint8_t *state_get_bytes(const StateNode *node, const char *path, size_t *ret_length)
{
    const StateNode *found = find_kind(node, path, STATE_BYTES);
    gconstpointer data = found ? g_bytes_get_data(found->bytes, ret_length) : NULL;

    return found && !data ? (const uint8_t *)"" : data;
}

const char *state_get_text(const StateNode *node, const char *path)
{
    const StateNode *found = find_kind(node, path, STATE_TEXT);

    return found ? g_bytes_get_data(found->bytes, NULL) : NULL;
}

uint64_t state_number_or(const StateNode *node, const char *path, uint64_t fallback)
{
    uint64_t value = fallback;

    (void)state_get_number(node, path, &value);
    return value;
}

const StateNode *state_find_device(const StateNode *root, const char *type, const char *at)
{
    const StateNode *devices = state_find(root, "devices");

    for (guint i = 0; devices && i < state_length(devices); i++) {
        const StateNode *device = state_child(devices, i);

        if (g_strcmp0(state_get_text(device, "type"), type) == 0 &&
            (!at || g_strcmp0(state_get_text(device, "at"), at) == 0))
            return device;
    }
    return NULL;
}

/* ---- building ---- */

/* What the rest of a path needs where it begins. */
static StateKind kind_for(const char *rest, StateKind last)
{
    if (*rest == '\0')
        return last;
    return *rest == '[' ? STATE_LIST : STATE_GROUP;
}

static StateNode *make_child(StateNode *node, const Step *step, StateKind kind)
{
    g_autofree char *name = step->name ? g_strndup(step->name, step->length) : NULL;
    StateNode *child;

    g_return_val_if_fail(node->kind == (name ? STATE_GROUP : STATE_LIST), NULL);
    g_return_val_if_fail(!name || state_name_valid(name, step->length), NULL);
    g_return_val_if_fail(name || step->index == node->children->len, NULL);
    child = state_node_new(kind, name);
    state_node_adopt(node, child);
    return child;
}

/* The node of a path, made where it is not there.  NULL where the path is not one of this tree. */
static StateNode *make_path(StateNode *node, const char *path, StateKind last)
{
    Step step = {0};

    while (node && *path) {
        StateNode *child;

        g_return_val_if_fail(next_step(&path, &step), NULL);
        child = take_step(node, &step);
        node = child ? child : make_child(node, &step, kind_for(path, last));
    }
    g_return_val_if_fail(node && node->kind == last, NULL);
    return node;
}

void state_set_number(StateNode *node, const char *path, uint64_t value)
{
    StateNode *leaf = make_path(node, path, STATE_NUMBER);

    if (leaf)
        leaf->number = value;
}

void state_append_number(StateNode *node, const char *path, uint64_t value)
{
    StateNode *list = make_path(node, path, STATE_LIST), *leaf;

    g_return_if_fail(list);
    leaf = state_node_new(STATE_NUMBER, NULL);
    leaf->number = value;
    state_node_adopt(list, leaf);
}

void state_set_time(StateNode *node, const char *path, int64_t ns)
{
    StateNode *leaf = make_path(node, path, STATE_TIME);

    if (leaf)
        leaf->number = (uint64_t)ns;
}

static void set_span(StateNode *leaf, gpointer data, size_t length)
{
    if (!leaf) {
        g_free(data);
        return;
    }
    if (leaf->bytes)
        g_bytes_unref(leaf->bytes);
    leaf->bytes = g_bytes_new_take(data, length);
}

void state_set_bytes(StateNode *node, const char *path, const void *bytes, size_t length)
{
    state_take_bytes(node, path, g_memdup2(bytes, length), length);
}

void state_take_bytes(StateNode *node, const char *path, void *bytes, size_t length)
{
    set_span(make_path(node, path, STATE_BYTES), bytes, length);
}

/* Behind the bytes of a text there is a NUL, which they do not count. */
void state_set_text(StateNode *node, const char *path, const char *text)
{
    g_return_if_fail(state_text_valid(text, strlen(text)));
    set_span(make_path(node, path, STATE_TEXT), g_strdup(text), strlen(text));
}

StateNode *state_set_group(StateNode *node, const char *path)
{
    return make_path(node, path, STATE_GROUP);
}

void state_set_list(StateNode *node, const char *path)
{
    (void)make_path(node, path, STATE_LIST);
}

StateNode *state_append_group(StateNode *node, const char *path)
{
    StateNode *list = make_path(node, path, STATE_LIST);
    StateNode *group;

    g_return_val_if_fail(list, NULL);
    group = state_node_new(STATE_GROUP, NULL);
    state_node_adopt(list, group);
    return group;
}

StateNode *state_add_device(StateNode *root, const char *type, const char *at)
{
    StateNode *device = state_append_group(root, "devices");

    g_return_val_if_fail(device, NULL);
    state_set_text(device, "type", type);
    state_set_text(device, "at", at);
    return device;
}

gboolean state_remove(StateNode *node, const char *path)
{
    StateNode *found = state_find_mutable(node, path);
    const char *last = MAX(strrchr(path, '.'), strrchr(path, '['));
    g_autofree char *above = last ? g_strndup(path, (gsize)(last - path)) : g_strdup("");
    StateNode *parent = state_find_mutable(node, above);

    return found && parent && parent != found && g_ptr_array_remove(parent->children, found);
}

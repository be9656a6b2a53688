/* The JSON form: {"format": "vmferry-state", "version": 1, "digest": …, the root's children}. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "state/schema.h"
#include "state/tree_private.h"

static char *bytes_text(GBytes *bytes)
{
    gsize length;
    const guint8 *data = g_bytes_get_data(bytes, &length);
    static const char digits[] = "0123456789abcdef";
    char *text = g_malloc(strlen("hex:") + 2 * length + 1), *at = g_stpcpy(text, "hex:");

    for (gsize i = 0; i < length; i++) {
        *at++ = digits[data[i] >> 4];
        *at++ = digits[data[i] & 15];
    }
    *at = '\0';
    return text;
}

char *state_leaf_text(const StateNode *leaf)
{
    switch (leaf->kind) {
    case STATE_NUMBER:
        return g_strdup_printf("0x%" G_GINT64_MODIFIER "x", leaf->number);
    case STATE_TIME:
        return g_strdup_printf("%" G_GINT64_FORMAT, (gint64)leaf->number);
    case STATE_BYTES:
        return bytes_text(leaf->bytes);
    case STATE_TEXT:
        return g_strdup(g_bytes_get_data(leaf->bytes, NULL));
    case STATE_GROUP:
    case STATE_LIST:
        break;
    }
    return g_strdup_printf("%s of %u", state_kind_name(leaf->kind), state_length(leaf));
}

static json_t *children_to_json(const StateNode *node, const StateField *field,
                                const StateGroup *schema);

/* *field* is what the schema says of the node, or of the list that it is in; NULL: nothing. */
static json_t *node_to_json(const StateNode *node, const StateField *field)
{
    g_autofree char *text = NULL;

    switch (node->kind) {
    case STATE_GROUP:
        return children_to_json(node, NULL, field ? state_schema_group(field, node) : NULL);
    case STATE_LIST:
        return children_to_json(node, field, NULL);
    case STATE_TIME:
        return json_integer((json_int_t)node->number);
    default:
        text = state_leaf_text(node);
        return json_string(text);
    }
}

static json_t *children_to_json(const StateNode *node, const StateField *field,
                                const StateGroup *schema)
{
    g_autoptr(GPtrArray) children = state_sorted_children(node, schema);
    json_t *json = node->kind == STATE_GROUP ? json_object() : json_array();

    for (guint i = 0; i < children->len; i++) {
        const StateNode *child = children->pdata[i];

        if (node->kind == STATE_LIST) {
            json_array_append_new(json, node_to_json(child, field));
            continue;
        }
        field = schema ? state_schema_field(schema, child->name) : NULL;
        json_object_set_new(json, child->name, node_to_json(child, field));
    }
    return json;
}

json_t *state_to_json(const StateNode *root)
{
    g_autofree char *digest = state_digest(root);
    json_t *json = json_pack("{s:s, s:i, s:s}", "format", STATE_FORMAT, "version", STATE_VERSION,
                             "digest", digest);
    g_autoptr(json_t) children = children_to_json(root, NULL, state_schema_root());

    json_object_update(json, children);
    return json;
}

/* ---- reading ---- */

typedef struct {
    guint nodes;
    GError **error;
} Reading;

static StateNode *refuse(Reading *reading, const char *what, const char *name)
{
    error_set(reading->error, VMFERRY_ERROR_INVALID, "machine state: \"%.64s\" %s", name, what);
    return NULL;
}

static StateNode *number_from_text(Reading *reading, const char *name, const char *text)
{
    StateNode *node;
    char *end;
    guint64 value = g_ascii_strtoull(text + 2, &end, 16);

    if (strlen(text) > 18 || !g_ascii_isxdigit(text[2]) || *end)
        return refuse(reading, "is not a valid number", name);
    node = state_node_new(STATE_NUMBER, name);
    node->number = value;
    return node;
}

static StateNode *bytes_from_text(Reading *reading, const char *name, const char *digits)
{
    gsize length = strlen(digits) / 2;
    g_autofree guint8 *bytes = g_malloc(length + 1);
    StateNode *node;

    if (strlen(digits) % 2 != 0 || digits[strspn(digits, "0123456789abcdef")] != '\0')
        return refuse(reading, "is not valid bytes", name);
    for (gsize i = 0; i < length; i++)
        bytes[i] = (guint8)(g_ascii_xdigit_value(digits[2 * i]) << 4 |
                            g_ascii_xdigit_value(digits[2 * i + 1]));
    node = state_node_new(STATE_BYTES, name);
    node->bytes = g_bytes_new(bytes, length);
    return node;
}

static StateNode *leaf_from_text(Reading *reading, const char *name, const char *text,
                                 size_t length)
{
    StateNode *node;

    if (strlen(text) != length)
        return refuse(reading, "is not a valid text", name);
    if (g_str_has_prefix(text, "0x"))
        return number_from_text(reading, name, text);
    if (g_str_has_prefix(text, "hex:"))
        return bytes_from_text(reading, name, text + 4);
    if (!state_text_valid(text, length))
        return refuse(reading, "is not a valid text", name);
    node = state_node_new(STATE_TEXT, name);
    node->bytes = g_bytes_new_take(g_strdup(text), length);
    return node;
}

static StateNode *node_from_json(Reading *reading, const char *name, json_t *json, guint depth);

static StateNode *group_from_json(Reading *reading, const char *name, json_t *json, guint depth)
{
    g_autoptr(StateNode) group = state_node_new(STATE_GROUP, name);
    const char *key;
    json_t *value;

    json_object_foreach(json, key, value)
    {
        StateNode *child;

        if (!state_name_valid(key, strlen(key)))
            return refuse(reading, "is not a valid name", key);
        child = node_from_json(reading, key, value, depth + 1);
        if (!child)
            return NULL;
        state_node_adopt(group, child);
    }
    return g_steal_pointer(&group);
}

static StateNode *list_from_json(Reading *reading, const char *name, json_t *json, guint depth)
{
    g_autoptr(StateNode) list = state_node_new(STATE_LIST, name);
    json_t *value;
    size_t i;

    json_array_foreach(json, i, value)
    {
        StateNode *child = node_from_json(reading, NULL, value, depth + 1);

        if (!child)
            return NULL;
        state_node_adopt(list, child);
    }
    return g_steal_pointer(&list);
}

static StateNode *node_from_json(Reading *reading, const char *name, json_t *json, guint depth)
{
    const char *shown = name ? name : "an entry";
    StateNode *node;

    if (depth > STATE_MAX_DEPTH)
        return refuse(reading, "is nested too deep", shown);
    if (++reading->nodes > STATE_MAX_NODES)
        return refuse(reading, "is one node too many", shown);
    if (json_is_object(json))
        return group_from_json(reading, name, json, depth);
    if (json_is_array(json))
        return list_from_json(reading, name, json, depth);
    if (json_is_string(json))
        return leaf_from_text(reading, name, json_string_value(json), json_string_length(json));
    if (!json_is_integer(json))
        return refuse(reading, "is of a kind that no node has", shown);
    node = state_node_new(STATE_TIME, name);
    node->number = (uint64_t)json_integer_value(json);
    return node;
}

static gboolean check_format(json_t *json, GError **error)
{
    if (g_strcmp0(json_text_or(json, "format", NULL), STATE_FORMAT) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "not a machine state: no \"format\": \"%s\"",
                  STATE_FORMAT);
        return FALSE;
    }
    if (json_count_or(json, "version", 0) != STATE_VERSION) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "machine state is not of version %u",
                  STATE_VERSION);
        return FALSE;
    }
    return TRUE;
}

static gboolean check_digest(const StateNode *root, const char *expected, GError **error)
{
    g_autofree char *digest = state_digest(root);

    if (!expected || strcmp(digest, expected) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "machine state was changed: its digest is %s", digest);
    return FALSE;
}

StateNode *state_from_json(json_t *json, GError **error)
{
    Reading reading = {.error = error};
    g_autoptr(json_t) body = NULL;
    g_autoptr(StateNode) root = NULL;

    if (!check_format(json, error))
        return NULL;
    body = json_copy(json);
    json_object_del(body, "format");
    json_object_del(body, "version");
    json_object_del(body, "digest");
    root = group_from_json(&reading, NULL, body, 0);
    if (!root || !check_digest(root, json_text_or(json, "digest", NULL), error))
        return NULL;
    return g_steal_pointer(&root);
}

/* Comparing a tree with the schema. */
#include "base/error.h"
#include "state/schema.h"
#include "state/tree_private.h"

/* *path* is that of what is looked at; it is as before when each function returns. */
typedef struct {
    GString *path;
    GError **error;
} Checking;

static gboolean G_GNUC_PRINTF(3, 4)
    refuse(Checking *checking, VmferryErrorCode code, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list arguments;

    va_start(arguments, format);
    text = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    error_set(checking->error, code, "machine state: %s %s",
              checking->path->len ? checking->path->str : "it", text);
    return FALSE;
}

static gboolean check_group(Checking *checking, const StateNode *node, const StateGroup *schema);

static gboolean check_leaf(Checking *checking, const StateNode *node, const StateField *field)
{
    if (node->kind == STATE_NUMBER && field->bits < 64 && node->number >> field->bits != 0)
        return refuse(checking, VMFERRY_ERROR_INVALID,
                      "is 0x%" G_GINT64_MODIFIER "x, and has %u bits", node->number, field->bits);
    if (node->kind == STATE_BYTES && field->bytes > 0 &&
        g_bytes_get_size(node->bytes) != field->bytes)
        return refuse(checking, VMFERRY_ERROR_INVALID, "has %zu bytes instead of %u",
                      g_bytes_get_size(node->bytes), field->bytes);
    return TRUE;
}

static gboolean check_one(Checking *checking, const StateNode *node, const StateField *field)
{
    const StateGroup *group;

    if (node->kind != field->kind)
        return refuse(checking, VMFERRY_ERROR_INVALID, "is a %s instead of a %s",
                      state_kind_name(node->kind), state_kind_name(field->kind));
    if (node->kind != STATE_GROUP)
        return check_leaf(checking, node, field);
    group = state_schema_group(field, node);
    if (!group) {
        const char *type = state_get_text(node, "type");

        return refuse(checking, VMFERRY_ERROR_UNSUPPORTED, "is a device of an unknown type, \"%s\"",
                      type ? type : "");
    }
    return check_group(checking, node, group);
}

static gboolean check_list(Checking *checking, const StateNode *list, const StateField *field)
{
    gsize length = checking->path->len;
    gboolean good = TRUE;

    if (list->kind != STATE_LIST)
        return refuse(checking, VMFERRY_ERROR_INVALID, "is a %s instead of a list",
                      state_kind_name(list->kind));
    if (field->entries > 0 && list->children->len != field->entries)
        return refuse(checking, VMFERRY_ERROR_INVALID, "has %u entries instead of %u",
                      list->children->len, field->entries);
    for (guint i = 0; good && i < list->children->len; i++) {
        g_string_append_printf(checking->path, "[%u]", i);
        good = check_one(checking, list->children->pdata[i], field);
        g_string_truncate(checking->path, length);
    }
    return good;
}

static gboolean check_child(Checking *checking, const StateNode *child, const StateGroup *schema)
{
    const StateField *field = state_schema_field(schema, child->name);
    gsize length = checking->path->len;
    gboolean good;

    g_string_append_printf(checking->path, "%s%s", length ? "." : "", child->name);
    if (!field)
        good = state_name_is_optional(child->name) ||
               refuse(checking, VMFERRY_ERROR_UNSUPPORTED, "is not known here");
    else
        good =
            field->is_list ? check_list(checking, child, field) : check_one(checking, child, field);
    g_string_truncate(checking->path, length);
    return good;
}

static gboolean check_group(Checking *checking, const StateNode *node, const StateGroup *schema)
{
    for (const StateField *field = schema->fields; field->name; field++)
        if (!field->optional && !state_node_child(node, field->name))
            return refuse(checking, VMFERRY_ERROR_INVALID, "lacks \"%s\"", field->name);
    if (schema->place && !state_get_text(node, "at"))
        return refuse(checking, VMFERRY_ERROR_INVALID, "lacks \"at\"");
    for (guint i = 0; i < node->children->len; i++)
        if (!check_child(checking, node->children->pdata[i], schema))
            return FALSE;
    return TRUE;
}

gboolean state_check(const StateNode *root, GError **error)
{
    g_autoptr(GString) path = g_string_new(NULL);
    Checking checking = {path, error};

    return check_group(&checking, root, state_schema_root());
}

/* The order of children in both forms: that of the schema, and unknown ones behind, by name. */
#include <string.h>

#include "state/schema.h"
#include "state/tree_private.h"

static guint place_in_schema(const StateGroup *schema, const char *name)
{
    guint place = 0;

    if (schema && schema->place && strcmp(name, "type") == 0)
        return 0;
    if (schema && schema->place && strcmp(name, "at") == 0)
        return 1;
    while (schema && schema->fields[place].name && strcmp(schema->fields[place].name, name) != 0)
        place++;
    return place + 2;
}

static gint by_schema(gconstpointer left, gconstpointer right, gpointer schema)
{
    const StateNode *a = *(StateNode *const *)left, *b = *(StateNode *const *)right;
    guint place_a = place_in_schema(schema, a->name), place_b = place_in_schema(schema, b->name);

    if (place_a != place_b)
        return place_a < place_b ? -1 : 1;
    return strcmp(a->name, b->name);
}

GPtrArray *state_sorted_children(const StateNode *node, const StateGroup *schema)
{
    GPtrArray *children = g_ptr_array_sized_new(node->children->len);

    for (guint i = 0; i < node->children->len; i++)
        g_ptr_array_add(children, node->children->pdata[i]);
    if (node->kind == STATE_GROUP)
        g_ptr_array_sort_with_data(children, by_schema, (gpointer)schema);
    return children;
}

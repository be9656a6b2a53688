/* The order of children in both forms: that of the schema, and unknown ones behind, by name. */
#include <stdlib.h>
#include <string.h>

#include "state/schema.h"
#include "state/tree_private.h"

/* Of a name that no field has. */
#define LAST G_MAXUINT

typedef struct {
    guint place;
    StateNode *node;
} Placed;

/* *guess*: the place of a name that is the field's; nearly always the one behind the last one's. */
static guint place_in_schema(const StateGroup *schema, const char *name, guint guess)
{
    if (!schema)
        return LAST;
    if (schema->place && strcmp(name, "type") == 0)
        return 0;
    if (schema->place && strcmp(name, "at") == 0)
        return 1;
    for (guint i = guess; schema->fields[i].name; i++)
        if (strcmp(schema->fields[i].name, name) == 0)
            return i + 2;
    for (guint i = 0; i < guess; i++)
        if (strcmp(schema->fields[i].name, name) == 0)
            return i + 2;
    return LAST;
}

static gint by_place(gconstpointer left, gconstpointer right)
{
    const Placed *a = left, *b = right;

    if (a->place != b->place)
        return a->place < b->place ? -1 : 1;
    return strcmp(a->node->name, b->node->name);
}

/* TRUE where they are in order already. */
static gboolean place_children(const StateNode *group, const StateGroup *schema, Placed *ret)
{
    gboolean in_order = TRUE;
    guint guess = 0;

    for (guint i = 0; i < group->children->len; i++) {
        StateNode *child = group->children->pdata[i];

        ret[i] = (Placed){place_in_schema(schema, child->name, guess), child};
        if (ret[i].place >= 2 && ret[i].place != LAST)
            guess = ret[i].place - 1;
        in_order = in_order && (i == 0 || by_place(&ret[i - 1], &ret[i]) <= 0);
    }
    return in_order;
}

GPtrArray *state_sorted_children(const StateNode *node, const StateGroup *schema)
{
    guint count = node->children->len;
    GPtrArray *children = g_ptr_array_sized_new(count);
    g_autofree Placed *placed = node->kind == STATE_GROUP ? g_new(Placed, count) : NULL;

    if (placed && !place_children(node, schema, placed))
        qsort(placed, count, sizeof *placed, by_place);
    for (guint i = 0; i < count; i++)
        g_ptr_array_add(children, placed ? placed[i].node : node->children->pdata[i]);
    return children;
}

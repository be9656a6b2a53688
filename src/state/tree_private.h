/* What the files of the tree share. */
#pragma once

#include "state/schema.h"

struct StateNode {
    StateKind kind;
    char *name;          /* NULL: none */
    GPtrArray *children; /* of groups and lists */
    uint64_t number;     /* of numbers; of times, as two's complement */
    GBytes *bytes;       /* of bytes, and of texts (without a NUL) */
};

StateNode *state_node_new(StateKind kind, const char *name);
/* Takes *child*. */
void state_node_adopt(StateNode *parent, StateNode *child);
/* The child of a group with that name, or NULL. */
StateNode *state_node_child(const StateNode *group, const char *name);
gboolean state_name_valid(const char *name, size_t length);
/* Texts are UTF-8 without control characters, and do not begin as JSON's numbers and bytes do. */
gboolean state_text_valid(const char *text, size_t length);

/* The children of a group of that schema (NULL: it has none), or of a list, in the order of both forms; borrowed. */
GPtrArray *state_sorted_children(const StateNode *node, const StateGroup *schema);

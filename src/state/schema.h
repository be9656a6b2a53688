/*
 * The schema of the neutral state: what may be in a tree, and what it means
 *
 * Theory of operation: constant tables (schema_*.c), one a group.  From them come the checks
 * (state_check()), the order of children in the binary form, and the tables of
 * docs/state-format.md (schema_document.c).  What is not in them is not known.
 *
 * A device's group follows from its "type": a vendor and a part, as its manual calls it.
 *
 * A change: what a reader has to know gets a plain name, and older readers refuse it by that name;
 * what it can do without gets one that begins with "x-".
 */
#pragma once

#include "state/tree.h"

typedef struct StateGroup StateGroup;

typedef struct {
    const char *name;
    StateKind kind; /* of lists: of their entries */
    gboolean is_list, optional;
    guint bits;    /* of numbers: the most they have */
    guint bytes;   /* of bytes: as many; 0: any */
    guint entries; /* of lists: as many; 0: any */
    const StateGroup *group;
    const char *what;
} StateField;

struct StateGroup {
    const char *name;         /* of a device: its type */
    const char *what;         /* with the manual that has the words */
    const char *place;        /* of a device: what its "at" looks like */
    const StateField *fields; /* up to one without a name */
};

const StateGroup *state_schema_root(void);

/* NULL where the type is not known. */
const StateGroup *state_schema_device(const char *type);

/* All of them, up to NULL. */
const StateGroup *const *state_schema_devices(void);

/* The field of that name, or NULL. */
const StateField *state_schema_field(const StateGroup *group, const char *name);

/* The group of a node: that of the field, or of a device its type's.  NULL: it is not known. */
const StateGroup *state_schema_group(const StateField *field, const StateNode *node);

/* An unknown child that may be carried along. */
gboolean state_name_is_optional(const char *name);

/* The tables of docs/state-format.md; g_free(). */
char *state_schema_document(void);

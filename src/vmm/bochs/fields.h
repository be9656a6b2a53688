/*
 * Tables: numbers of the neutral state and parameters of Bochs
 *
 * Theory of operation: a BochsField says which bits of a number of the neutral state (state/schema.h)
 * are which parameter of Bochs.  Several rows may have one number (a register's bits are parameters of their
 * own in Bochs), and one row works both ways.  What needs more than bits has code of its own
 * (state_*.c).
 */
#pragma once

#include "state/tree.h"
#include "vmm/bochs/tree.h"

typedef struct {
    const char *neutral; /* path below a group */
    const char *bochs;   /* path below a list of parameters */
    BochsNodeKind kind;
    guint shift, bits; /* which of the number; bits 0: all from *shift* on */
    gboolean derived;  /* Bochs has it twice: it is not read */
    gboolean optional; /* 0 is not told, where the state does not have it already */
} BochsField;

/* Rows of tables; each table ends with {NULL}. */
#define BOCHS_HEX(neutral, bochs)                                                                  \
    {                                                                                              \
        neutral, bochs, BOCHS_NODE_HEX, 0, 0, FALSE                                                \
    }
#define BOCHS_DECIMAL(neutral, bochs)                                                              \
    {                                                                                              \
        neutral, bochs, BOCHS_NODE_DECIMAL, 0, 0, FALSE                                            \
    }
#define BOCHS_FLAG(neutral, bochs, shift)                                                          \
    {                                                                                              \
        neutral, bochs, BOCHS_NODE_BOOLEAN, shift, 1, FALSE                                        \
    }
#define BOCHS_BITS(neutral, bochs, shift, bits)                                                    \
    {                                                                                              \
        neutral, bochs, BOCHS_NODE_HEX, shift, bits, FALSE                                         \
    }
#define BOCHS_DERIVED(neutral, bochs, shift, bits)                                                 \
    {                                                                                              \
        neutral, bochs, BOCHS_NODE_HEX, shift, bits, TRUE                                          \
    }
#define BOCHS_OPTIONAL(neutral, bochs)                                                             \
    {                                                                                              \
        neutral, bochs, BOCHS_NODE_HEX, 0, 0, FALSE, TRUE                                          \
    }
/* No rows. */
#define BOCHS_END                                                                                  \
    {                                                                                              \
        NULL, NULL, BOCHS_NODE_HEX, 0, 0, FALSE                                                    \
    }

/* Sets all parameters of a table in *wanted*, below the path *under* ("" or "counter.0"), from the group *group*.  A number
 * that is not there is 0. */
void bochs_fields_write(const BochsField *table, const StateNode *group, BochsNode *wanted,
                        const char *under);

/* Sets the numbers of a table in *group* from what Bochs shows; FALSE with the path of a parameter
 * that it does not show. */
gboolean bochs_fields_read(const BochsField *table, const BochsNode *shown, const char *under,
                           StateNode *group, GError **error);

/* "UNDER.NAME", or NAME where *under* is empty.  Free with g_free(). */
char *bochs_path(const char *under, const char *name);

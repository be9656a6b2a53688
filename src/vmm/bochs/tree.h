/*
 * Bochs's state as its debugger shows it
 *
 * Theory of operation: each device of Bochs has a tree of parameters.  The debugger command
 * `show "NAME"` prints one, and `restore "NAME" "FOLDER"` reads one from the file FOLDER/NAME, in one
 * syntax (found with Bochs 2.7):
 *
 *     pit = {
 *       irq_enabled = true
 *       counter = {
 *         0 = {
 *           count = 65536
 *         }
 *       }
 *     }
 *     cmos = {
 *       ram = 'binary data size=128'
 *     }
 *
 * Numbers are decimal (with a sign) or hexadecimal (0x).  Of byte arrays only the size is shown; short ones
 * are set by "NAME = [", numbers with blanks between, and "]" (a text here); long ones would be read from
 * a file that is named.  Whoever prints this may be a Bochs that its
 * guest has taken over: depth, names and the number of nodes are limited, and what is not in this
 * syntax is refused.
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

#define BOCHS_TREE_MAX_DEPTH 16u
#define BOCHS_TREE_MAX_NODES 65536u
#define BOCHS_TREE_MAX_NAME 63u
#define BOCHS_TREE_MAX_TEXT 511u

typedef enum {
    BOCHS_NODE_LIST,
    BOCHS_NODE_DECIMAL, /* *number*, two's complement where it is *negative* */
    BOCHS_NODE_HEX,     /* *number* */
    BOCHS_NODE_BOOLEAN, /* *number* is 0 or 1 */
    BOCHS_NODE_BINARY,  /* bytes that are not shown; *number* is their size */
    BOCHS_NODE_TEXT,    /* *text*: anything else */
} BochsNodeKind;

typedef struct {
    char *name;
    BochsNodeKind kind;
    uint64_t number;
    gboolean negative;
    char *text;
    GPtrArray *children; /* of BochsNode, in their order; of a list only */
} BochsNode;

void bochs_node_free(BochsNode *node);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BochsNode, bochs_node_free)

/* Exactly one tree, of *length* bytes; NULL with INVALID and the number of the line. */
BochsNode *bochs_tree_parse(const char *text, size_t length, GError **error);

/* The node below *root* with this path ("counter.0.count"); "" is *root*.  NULL where there is none. */
BochsNode *bochs_tree_find(const BochsNode *root, const char *path);

/* The number, boolean or size of that node; NOT_FOUND where there is none, INVALID where it is
 * something else. */
gboolean bochs_tree_get(const BochsNode *root, const char *path, uint64_t *ret, GError **error);

/* An empty list.  Free with bochs_node_free(). */
BochsNode *bochs_tree_new(const char *name);

/* Sets a leaf, and makes the lists on its way: there is none yet, or it is replaced.  Never by bytes
 * (BINARY): what is shown of them cannot be read again. */
void bochs_tree_set(BochsNode *root, const char *path, BochsNodeKind kind, uint64_t number);
void bochs_tree_set_text(BochsNode *root, const char *path, const char *text);

/* FALSE with the path of a leaf of *wanted* that is not in *shown*, or is not of a kind that takes
 * it.  Bochs ends itself when it reads a name that it does not know. */
gboolean bochs_tree_check_known(const BochsNode *wanted, const BochsNode *shown, GError **error);

/* In the syntax above; bytes are left out.  Free with g_free(). */
char *bochs_tree_format(const BochsNode *root);

/*
 * The block devices of a live machine
 *
 * Theory of operation: three answers of QMP are read into one picture:
 * `query-block` (what the guest's drives hold now, their limits and trays),
 * `query-named-block-nodes` (every node with its driver, file and flags) and
 * `x-debug-query-block-graph` (which node is built on which, and what else uses
 * them; marked unstable by QEMU, the same from 4.0 to 10.0).  After snapshots,
 * mirrors, commits or changed media this picture, and not the command line, is
 * what the guest runs on.
 *
 * Limits: QEMU does not tell some options of a node (discard, aio, cache sizes
 * of qcow2); they change no content.
 *
 * All of it comes from a process that a guest may have taken over, or from a
 * peer: every list is bounded.  Pure.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>

#define BLOCK_GRAPH_MAX_DRIVES 1024
#define BLOCK_GRAPH_MAX_NODES 8192
#define BLOCK_GRAPH_MAX_EDGES 32768
#define BLOCK_GRAPH_MAX_BITMAPS 65536

typedef struct {
    gboolean direct, no_flush, writeback;
} BlockCache;

typedef struct {
    char *role; /* "file", "backing", … */
    char *node;
} BlockChild;

typedef struct {
    char *name; /* "#block123" where QEMU made it up */
    char *driver;
    char *file; /* as QEMU opened it; "json:{…}" where no plain name tells all */
    gboolean read_only;
    BlockCache cache;
    char *detect_zeroes;
    uint64_t bytes; /* virtual size */
    gboolean encrypted;
    GPtrArray *children;  /* of BlockChild */
    char *unsaved_bitmap; /* a dirty bitmap that ends with this QEMU, or NULL */
} BlockNode;

typedef struct {
    char *name;   /* of the block backend (-drive id=…), "" where it has none */
    char *device; /* id or QOM path of the device that uses it; NULL for none */
    gboolean removable, tray_open;
    char *root; /* its node; NULL: no medium */
    gboolean read_only, writeback;
    json_t *throttle; /* the limits that are set, as block_set_io_throttle takes them;
                         with "group"; NULL for none */
} BlockDrive;

typedef struct {
    GPtrArray *drives;   /* of BlockDrive */
    GPtrArray *nodes;    /* of BlockNode */
    GHashTable *by_name; /* node name → BlockNode, borrowed */
} BlockGraph;

/* Reads the three answers; NULL with *error*. */
BlockGraph *block_graph_parse(json_t *block, json_t *nodes, json_t *graph, GError **error);
void block_graph_free(BlockGraph *graph);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockGraph, block_graph_free)

BlockNode *block_graph_find(const BlockGraph *graph, const char *node);

/* By the name of the block backend, or else of the node at its root: what a
 * device's property "drive" holds.  NULL where there is none. */
BlockDrive *block_graph_find_drive(const BlockGraph *graph, const char *name);

/* The child in this role, NULL for none. */
BlockNode *block_node_get_child(const BlockGraph *graph, const BlockNode *node, const char *role);

/* TRUE where a drive holds this node; where it holds one of the backing files below it. */
gboolean block_graph_is_root_of_drive(const BlockGraph *graph, const BlockNode *node);
gboolean block_graph_is_above_drive(const BlockGraph *graph, const BlockNode *node);

/* TRUE for a node whose name QEMU made up. */
gboolean block_node_is_unnamed(const BlockNode *node);

/* The nodes below a node, as a text to compare: "qcow2(file: file, backing:
 * raw(file: file))"; *no_backing*: without backing files.  Free with g_free(). */
char *block_node_describe(const BlockGraph *graph, const BlockNode *node, gboolean no_backing);

/* Calls *visit* for each node without children below *first* and the one in the
 * same place below *second*, from the top down; FALSE with *error* where they are
 * not built on children of the same roles, or where there are more than a picture can have. */
typedef gboolean (*BlockLeafVisitor)(const BlockNode *first, const BlockNode *second, gpointer user,
                                     GError **error);
gboolean block_graph_visit_leaves(const BlockGraph *graph, const BlockNode *first,
                                  const BlockGraph *other, const BlockNode *second,
                                  BlockLeafVisitor visit, gpointer user, GError **error);

/* For messages: the backend's name, or its device, or its node. */
const char *block_drive_describe(const BlockDrive *drive);

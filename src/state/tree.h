/*
 * The neutral state of a virtual machine: a tree that no VMM owns
 *
 * Theory of operation: each VMM keeps the state of its devices in a form of its own.  A reader turns
 * such a form into this tree, a writer makes another VMM's form of it.  Names, numbers and units are
 * those of the hardware's manuals; what they are, the schema says (schema.h), and
 * docs/state-format.md, which is made from it.
 *
 * A tree has groups (children with names), lists (children without), and leaves: numbers (up to 64
 * bits), times (signed, ns), bytes (in the order of their addresses) and texts.
 *
 * Times are ns of the guest's clock, counted from the pause: how long ago something was, or how long
 * until it will be.  So no VMM's own clock is in the tree.
 *
 * A place in the tree is named by a path: names with "." between them, entries of lists by [n], from
 * 0 on ("cpus[0].local_apic.svr", "devices[2].channels[1].mode").
 *
 * What a reader does not know: a child whose name begins with "x-" is optional, it is carried along.
 * Every other unknown one makes the tree refused, by its path (state_check()).
 *
 * Limits: those below.  Setters are for our own code: a wrong path or kind there is a mistake of the
 * program (g_return_if_fail).  Bytes of strangers become a tree by state_decode() and
 * state_from_json() only.
 *
 * Threads: a tree is used by one at a time.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define STATE_FORMAT "vmferry-state"
#define STATE_VERSION 1u

#define STATE_MAX_BYTES (64u << 20) /* encoded, in both forms */
#define STATE_MAX_NODES (1u << 19)
#define STATE_MAX_DEPTH 12u
#define STATE_MAX_NAME 63u /* of a-z 0-9 "_" "-" */

typedef enum {
    STATE_GROUP,
    STATE_LIST,
    STATE_NUMBER,
    STATE_TIME,
    STATE_BYTES,
    STATE_TEXT,
} StateKind;

const char *state_kind_name(StateKind kind);

typedef struct StateNode StateNode;

/* An empty group: the root of a new tree.  state_free() frees a root with all below; NULL-safe. */
StateNode *state_new(void);
void state_free(StateNode *root);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StateNode, state_free)
StateNode *state_copy(const StateNode *node);

/* ---- looking things up; what is returned is borrowed from the tree ---- */

/* NULL where there is no such node.  An empty path is the node itself. */
const StateNode *state_find(const StateNode *node, const char *path);
StateNode *state_find_mutable(StateNode *node, const char *path);

StateKind state_kind(const StateNode *node);
/* Of groups and lists; 0 for leaves.  Children are in the order in which they were added. */
guint state_length(const StateNode *node);
const StateNode *state_child(const StateNode *node, guint index);
const char *state_name(const StateNode *node); /* "" in a list and at the root */

/* FALSE, or NULL, where there is no such node, or it is of another kind. */
gboolean state_get_number(const StateNode *node, const char *path, uint64_t *ret);
gboolean state_get_time(const StateNode *node, const char *path, int64_t *ret_ns);
const uint8_t *state_get_bytes(const StateNode *node, const char *path, size_t *ret_length);
const char *state_get_text(const StateNode *node, const char *path);
uint64_t state_number_or(const StateNode *node, const char *path, uint64_t fallback);

/* The device of that type ("intel,8259a") at that place ("io:20"; NULL: the first one). */
const StateNode *state_find_device(const StateNode *root, const char *type, const char *at);

/* ---- building; groups and lists on the way are made ---- */

/* The entry of a list that a path names is there, or the next one. */
void state_set_number(StateNode *node, const char *path, uint64_t value);
/* One more number at the end of a list. */
void state_append_number(StateNode *node, const char *path, uint64_t value);
void state_set_time(StateNode *node, const char *path, int64_t ns);
void state_set_bytes(StateNode *node, const char *path, const void *bytes, size_t length);
/* The same without a copy: takes *bytes*, which g_free() frees. */
void state_take_bytes(StateNode *node, const char *path, void *bytes, size_t length);
void state_set_text(StateNode *node, const char *path, const char *text);
/* Makes the group where it is not there. */
StateNode *state_set_group(StateNode *node, const char *path);
/* Makes the list where it is not there: for lists that may be empty. */
void state_set_list(StateNode *node, const char *path);
/* A new group at the end of the list *path*. */
StateNode *state_append_group(StateNode *node, const char *path);
/* A new device at the end of "devices". */
StateNode *state_add_device(StateNode *root, const char *type, const char *at);
/* TRUE where there was one. */
gboolean state_remove(StateNode *node, const char *path);

/* ---- as a whole ---- */

/* Is it a machine's state as the schema has it?  Every required leaf is there, all are of their
 * kinds and widths, and nothing unknown is critical.  INVALID or UNSUPPORTED, with the path. */
gboolean state_check(const StateNode *root, GError **error);

/* The binary form: children in the schema's order, so that equal states are equal bytes. */
GBytes *state_encode(const StateNode *root);
/* Reads it, with its digest; does not call state_check(). */
StateNode *state_decode(const void *data, size_t length, GError **error);

/* SHA-256 over the binary form, 64 hexadecimal digits. */
char *state_digest(const StateNode *root);

/* The JSON form.  Numbers are texts "0x…", bytes "hex:…", times integers.  state_from_json() compares
 * the digest where there is one, and does not call state_check(). */
json_t *state_to_json(const StateNode *root);
StateNode *state_from_json(json_t *json, GError **error);

/* ---- comparing ---- */

typedef struct {
    char *path;
    char *left, *right; /* as the JSON form has it (of a device, its type); NULL: is not there */
} StateDifference;

/* All leaves that differ, in the order of *left*; empty: they are equal.  g_ptr_array_unref(). */
GPtrArray *state_compare(const StateNode *left, const StateNode *right);

/* A leaf as the JSON form has it; g_free(). */
char *state_leaf_text(const StateNode *leaf);

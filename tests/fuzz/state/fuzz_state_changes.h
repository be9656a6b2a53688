/*
 * Neutral states that differ from a real one
 *
 * An input is records of 11 bytes: le16 which leaf, u8 how, le64 value.  What they change is put back after use, since
 * making a whole state anew takes longer than what is tried with it.
 */
#pragma once

#include <string.h>

#include "base/bytes.h"
#include "state/tree_private.h"

#define CHANGES_MAX 64u

typedef struct {
    StateNode *leaf;
    uint64_t number;
    GBytes *bytes;
    StateKind kind;
} Change;

typedef struct {
    GPtrArray *leaves;
    Change changes[CHANGES_MAX];
    guint count;
} Changes;

static inline void collect_leaves(StateNode *node, GPtrArray *leaves)
{
    for (guint i = 0; node->children && i < node->children->len; i++)
        collect_leaves(node->children->pdata[i], leaves);
    if (!node->children)
        g_ptr_array_add(leaves, node);
}

/* Texts are what finds devices: they become other texts, and a few names that are known. */
static inline GBytes *other_text(uint64_t value)
{
    static const char *const texts[] = {
        "",      "intel,82540em", "bochs,vbe", "x-note", "pci:00:1f.7",
        "io:40", "intel,8259a",   "rocket"};

    return g_bytes_new_static(texts[value % G_N_ELEMENTS(texts)],
                              strlen(texts[value % G_N_ELEMENTS(texts)]));
}

static inline GBytes *other_bytes(const StateNode *leaf, uint8_t how, uint64_t value)
{
    gsize length = g_bytes_get_size(leaf->bytes);
    g_autofree guint8 *bytes = g_malloc0(length + 0x10000);

    if (length)
        memcpy(bytes, g_bytes_get_data(leaf->bytes, NULL), length);
    if (how & 1)
        length = value % 0x10000;
    else if (length)
        bytes[value % length] = (guint8)(value >> 32);
    return g_bytes_new(bytes, length);
}

static inline void change_leaf(Changes *changes, StateNode *leaf, uint8_t how, uint64_t value)
{
    changes->changes[changes->count++] = (Change){leaf, leaf->number, leaf->bytes, leaf->kind};
    if (leaf->kind == STATE_TEXT)
        leaf->bytes = other_text(value);
    else if (leaf->kind == STATE_BYTES)
        leaf->bytes = other_bytes(leaf, how, value);
    else if (how & 2)
        leaf->number = value;
    else
        leaf->number ^= (uint64_t)1 << (value & 63);
    if (leaf->kind == STATE_NUMBER && how == 0xff)
        leaf->kind = STATE_TIME;
}

static inline void apply_changes(Changes *changes, const uint8_t *data, size_t size)
{
    ByteReader reader = byte_reader_make(data, size);

    changes->count = 0;
    while (reader.left >= 11 && changes->count < CHANGES_MAX) {
        guint which = byte_read_le16(&reader);
        uint8_t how = byte_read_u8(&reader);
        uint64_t value = byte_read_le64(&reader);

        change_leaf(changes, changes->leaves->pdata[which % changes->leaves->len], how, value);
    }
}

/* The last one first: a leaf may have been changed twice. */
static inline void undo_changes(Changes *changes)
{
    while (changes->count > 0) {
        Change *change = &changes->changes[--changes->count];

        if (change->leaf->bytes != change->bytes)
            g_bytes_unref(change->leaf->bytes);
        change->leaf->bytes = change->bytes;
        change->leaf->number = change->number;
        change->leaf->kind = change->kind;
    }
}

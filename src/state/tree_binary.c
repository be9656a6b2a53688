/*
 * The binary form:
 *
 *     8 bytes "VMFSTATE", le32 version, le32 0,
 *     the root's children,
 *     32 bytes: SHA-256 of all before
 *
 * Children are a varint, how many, and each: u8 kind; in a group varint length and bytes of its name; then
 * of a group or a list its children, of a number a varint, of a time a varint (its sign in bit 0), of
 * bytes and texts a varint length and the bytes.
 */
#include <string.h>

#include <openssl/sha.h>

#include "base/bytes.h"
#include "base/error.h"
#include "state/schema.h"
#include "state/tree_private.h"

static const char magic[8] = "VMFSTATE";

#define HEAD_BYTES 16u
#define DIGEST_BYTES 32u

/* ---- writing ---- */

static uint64_t zigzag(uint64_t value)
{
    return (value << 1) ^ (0 - (value >> 63));
}

static uint64_t unzigzag(uint64_t value)
{
    return (value >> 1) ^ (0 - (value & 1));
}

static void write_span(GByteArray *out, const void *bytes, size_t length)
{
    byte_write_varint(out, length);
    byte_write_span(out, bytes, length);
}

static void write_children(GByteArray *out, const StateNode *node, const StateField *field,
                           const StateGroup *schema);

/* *field* is what the schema says of the node, or of the list that it is in; NULL: nothing. */
static void write_payload(GByteArray *out, const StateNode *node, const StateField *field)
{
    gsize length;
    gconstpointer bytes;

    switch (node->kind) {
    case STATE_GROUP:
        write_children(out, node, NULL, field ? state_schema_group(field, node) : NULL);
        break;
    case STATE_LIST:
        write_children(out, node, field, NULL);
        break;
    case STATE_NUMBER:
        byte_write_varint(out, node->number);
        break;
    case STATE_TIME:
        byte_write_varint(out, zigzag(node->number));
        break;
    case STATE_BYTES:
    case STATE_TEXT:
        bytes = g_bytes_get_data(node->bytes, &length);
        write_span(out, bytes, length);
        break;
    }
}

static void write_children(GByteArray *out, const StateNode *node, const StateField *field,
                           const StateGroup *schema)
{
    g_autoptr(GPtrArray) children = state_sorted_children(node, schema);

    byte_write_varint(out, children->len);
    for (guint i = 0; i < children->len; i++) {
        const StateNode *child = children->pdata[i];

        byte_write_u8(out, (uint8_t)child->kind);
        if (node->kind == STATE_GROUP) {
            write_span(out, child->name, strlen(child->name));
            field = schema ? state_schema_field(schema, child->name) : NULL;
        }
        write_payload(out, child, field);
    }
}

static void add_digest(GByteArray *out, const void *data, size_t length)
{
    guint8 digest[DIGEST_BYTES];

    SHA256(data, length, digest);
    byte_write_span(out, digest, sizeof digest);
}

GBytes *state_encode(const StateNode *root)
{
    GByteArray *out = g_byte_array_new();

    byte_write_span(out, magic, sizeof magic);
    byte_write_le32(out, STATE_VERSION);
    byte_write_le32(out, 0);
    write_children(out, root, NULL, state_schema_root());
    add_digest(out, out->data, out->len);
    return g_byte_array_free_to_bytes(out);
}

char *state_digest(const StateNode *root)
{
    g_autoptr(GBytes) encoded = state_encode(root);
    gsize length;
    const guint8 *data = g_bytes_get_data(encoded, &length);
    GString *text = g_string_new(NULL);

    for (gsize i = length - DIGEST_BYTES; i < length; i++)
        g_string_append_printf(text, "%02x", data[i]);
    return g_string_free(text, FALSE);
}

/* ---- reading ---- */

typedef struct {
    ByteReader reader;
    guint nodes, depth;
    GError **error;
} Decoder;

static gboolean refuse(Decoder *decoder, const char *what, const char *name)
{
    error_set(decoder->error, VMFERRY_ERROR_INVALID, "machine state: %s%s%s", what, name ? " " : "",
              name ? name : "");
    return FALSE;
}

static gboolean read_children(Decoder *decoder, StateNode *node);

static gboolean read_span(Decoder *decoder, StateNode *node)
{
    uint64_t length = byte_read_varint(&decoder->reader);
    const uint8_t *bytes = NULL;

    if (length <= decoder->reader.left)
        bytes = byte_read_span(&decoder->reader, length);
    if (!bytes)
        return refuse(decoder, "ends within", state_name(node));
    if (node->kind == STATE_TEXT && !state_text_valid((const char *)bytes, length))
        return refuse(decoder, "not a valid text:", state_name(node));
    node->bytes = node->kind == STATE_TEXT
                      ? g_bytes_new_take(g_strndup((const char *)bytes, length), length)
                      : g_bytes_new(bytes, length);
    return TRUE;
}

static gboolean read_payload(Decoder *decoder, StateNode *node)
{
    switch (node->kind) {
    case STATE_GROUP:
    case STATE_LIST:
        return read_children(decoder, node);
    case STATE_NUMBER:
        node->number = byte_read_varint(&decoder->reader);
        break;
    case STATE_TIME:
        node->number = unzigzag(byte_read_varint(&decoder->reader));
        break;
    case STATE_BYTES:
    case STATE_TEXT:
        return read_span(decoder, node);
    }
    return byte_reader_ok(&decoder->reader) || refuse(decoder, "ends within", state_name(node));
}

/* The name of a group's child; g_free(). */
static char *read_name(Decoder *decoder, const StateNode *group)
{
    uint64_t length = byte_read_varint(&decoder->reader);
    const uint8_t *bytes =
        length <= STATE_MAX_NAME ? byte_read_span(&decoder->reader, length) : NULL;
    g_autofree char *name = NULL;

    if (!bytes || !state_name_valid((const char *)bytes, length)) {
        (void)refuse(decoder, "not a valid name in", state_name(group));
        return NULL;
    }
    name = g_strndup((const char *)bytes, length);
    if (state_node_child(group, name)) {
        (void)refuse(decoder, "has twice", name);
        return NULL;
    }
    return g_steal_pointer(&name);
}

static gboolean read_child(Decoder *decoder, StateNode *parent)
{
    uint8_t kind = byte_read_u8(&decoder->reader);
    g_autofree char *name = NULL;
    StateNode *child;

    if (!byte_reader_ok(&decoder->reader) || kind > STATE_TEXT)
        return refuse(decoder, "not a valid kind of node in", state_name(parent));
    if (++decoder->nodes > STATE_MAX_NODES)
        return refuse(decoder, "has too many nodes", NULL);
    if (parent->kind == STATE_GROUP) {
        name = read_name(decoder, parent);
        if (!name)
            return FALSE;
    }
    child = state_node_new((StateKind)kind, name);
    /* What its parent has is freed with it; so a child without its payload needs one all the same. */
    if (kind == STATE_BYTES || kind == STATE_TEXT) {
        g_autoptr(StateNode) owned = child;

        if (!read_payload(decoder, child))
            return FALSE;
        state_node_adopt(parent, g_steal_pointer(&owned));
        return TRUE;
    }
    state_node_adopt(parent, child);
    return read_payload(decoder, child);
}

static gboolean read_children(Decoder *decoder, StateNode *node)
{
    uint64_t count = byte_read_varint(&decoder->reader);
    gboolean read = TRUE;

    if (++decoder->depth > STATE_MAX_DEPTH)
        return refuse(decoder, "is nested too deep", NULL);
    for (uint64_t i = 0; i < count && read; i++)
        read = read_child(decoder, node);
    decoder->depth--;
    return read;
}

static gboolean check_frame(const uint8_t *data, size_t length, GError **error)
{
    ByteReader reader = byte_reader_make(data, length);
    const uint8_t *start = byte_read_span(&reader, sizeof magic);
    uint32_t version = byte_read_le32(&reader), zero = byte_read_le32(&reader);
    g_autoptr(GByteArray) digest = g_byte_array_new();

    if (!start || memcmp(start, magic, sizeof magic) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "not a machine state: does not start with VMFSTATE");
        return FALSE;
    }
    if (byte_reader_ok(&reader) && version != STATE_VERSION) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "machine state of version %u, only %u is known",
                  version, STATE_VERSION);
        return FALSE;
    }
    if (reader.left < DIGEST_BYTES || zero != 0 || length > STATE_MAX_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "machine state of %zu bytes: its head is damaged",
                  length);
        return FALSE;
    }
    add_digest(digest, data, length - DIGEST_BYTES);
    if (memcmp(digest->data, data + length - DIGEST_BYTES, DIGEST_BYTES) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "machine state is damaged: its digest differs");
    return FALSE;
}

StateNode *state_decode(const void *data, size_t length, GError **error)
{
    Decoder decoder = {.error = error};
    g_autoptr(StateNode) root = NULL;

    if (!check_frame(data, length, error))
        return NULL;
    root = state_new();
    decoder.reader =
        byte_reader_make((const uint8_t *)data + HEAD_BYTES, length - HEAD_BYTES - DIGEST_BYTES);
    if (!read_children(&decoder, root))
        return NULL;
    if (decoder.reader.left > 0) {
        (void)refuse(&decoder, "goes on behind its end", NULL);
        return NULL;
    }
    return g_steal_pointer(&root);
}

/* Reading and writing by rows. */
#include "state/qemu_map.h"

#include <string.h>

#include "base/error.h"

#define INTX_LINES 4u

gboolean qemu_map_refuse(QemuMapContext *context, const char *what, const char *place)
{
    error_set(context->error, VMFERRY_ERROR_UNSUPPORTED, "%s %s", place, what);
    return FALSE;
}

uint64_t qemu_map_number(const QemuRecord *record, const char *path)
{
    uint64_t value = 0;

    (void)qemu_get_number(record, path, &value);
    return value;
}

gboolean qemu_map_put(QemuMapContext *context, QemuRecord *record, const char *path, uint64_t value)
{
    return qemu_set_number(record, path, value) ||
           qemu_map_refuse(context, "cannot be set in QEMU's state", path);
}

void qemu_map_span(const QemuRecord *record, const char *const *paths, guint bytes_each,
                   guint8 *out)
{
    for (; *paths; paths++) {
        uint64_t value = qemu_map_number(record, *paths);

        for (guint i = 0; i < bytes_each; i++)
            *out++ = (guint8)(value >> (8 * i));
    }
}

gboolean qemu_map_put_span(QemuMapContext *context, QemuRecord *record, const char *const *paths,
                           guint bytes_each, const guint8 *bytes)
{
    for (; *paths; paths++, bytes += bytes_each) {
        uint64_t value = 0;

        for (guint i = bytes_each; i-- > 0;)
            value = value << 8 | bytes[i];
        if (!qemu_map_put(context, record, *paths, value))
            return FALSE;
    }
    return TRUE;
}

/* ---- numbers ---- */

/* All bits of the field: 32 or 64. */
static uint64_t all_bits(uint64_t own)
{
    return own <= G_MAXUINT32 ? G_MAXUINT32 : G_MAXUINT64;
}

static gboolean read_number(QemuMapContext *context, const QemuMapRow *row,
                            const QemuRecord *record, StateNode *node)
{
    uint64_t own;

    if (!qemu_get_number(record, row->own, &own))
        return row->kind == QEMU_MAP_OPTIONAL ||
               qemu_map_refuse(context, "is not in QEMU's state", row->own);
    if (row->kind == QEMU_MAP_NONE && own == all_bits(own))
        return TRUE;
    if (row->kind == QEMU_MAP_BITS)
        own = own >> row->shift & row->mask;
    state_set_number(node, row->neutral, own);
    return TRUE;
}

static gboolean write_number(QemuMapContext *context, const QemuMapRow *row, QemuRecord *record,
                             const StateNode *node)
{
    uint64_t own = 0, value = row->value;
    gboolean there = qemu_get_number(record, row->own, &own),
             given = state_get_number(node, row->neutral, &value);

    if (row->kind == QEMU_MAP_OPTIONAL && !there && value == row->value)
        return TRUE;
    if (row->kind == QEMU_MAP_NONE && !given)
        value = G_MAXUINT32;
    if (row->kind == QEMU_MAP_BITS)
        value = (own & ~(row->mask << row->shift)) | (value & row->mask) << row->shift;
    if (row->kind == QEMU_MAP_NUMBER && !given)
        return qemu_map_refuse(context, "is missing", row->neutral);
    return qemu_map_put(context, record, row->own, value);
}

/* ---- lists and bytes ---- */

static gboolean read_numbers(QemuMapContext *context, const QemuMapRow *row,
                             const QemuRecord *record, StateNode *node)
{
    guint count = qemu_count(record, row->own);

    if (count == 0)
        return row->value || qemu_map_refuse(context, "is not in QEMU's state", row->own);
    for (guint i = 0; i < count; i++) {
        uint64_t own = 0;

        (void)qemu_get_element(record, row->own, i, &own);
        state_append_number(node, row->neutral, own);
    }
    return TRUE;
}

/* Of a subsection, a list may be missing: all zero. */
static gboolean write_numbers(QemuMapContext *context, const QemuMapRow *row, QemuRecord *record,
                              const StateNode *node)
{
    guint count = row->value ? (guint)row->value : qemu_count(record, row->own);
    const StateNode *list = state_find(node, row->neutral);

    if (!(list && state_length(list) == count) && !(row->value && !list))
        return qemu_map_refuse(context, "has another number of entries in QEMU", row->neutral);
    for (guint i = 0; i < count; i++) {
        const StateNode *leaf = list ? state_child(list, i) : NULL;

        if (!qemu_set_element(record, row->own, i, leaf ? state_number_or(leaf, "", 0) : 0))
            return qemu_map_refuse(context, "does not fit into QEMU's state", row->neutral);
    }
    return TRUE;
}

static gboolean read_bytes(QemuMapContext *context, const QemuMapRow *row, const QemuRecord *record,
                           StateNode *node)
{
    size_t length;
    const guint8 *bytes = qemu_get_bytes(record, row->own, &length);

    if (bytes)
        state_set_bytes(node, row->neutral, bytes, length);
    return TRUE;
}

/* Without a leaf, the template's stay. */
static gboolean write_bytes(QemuMapContext *context, const QemuMapRow *row, QemuRecord *record,
                            const StateNode *node)
{
    size_t length;
    const uint8_t *bytes = state_get_bytes(node, row->neutral, &length);

    return !bytes || qemu_set_bytes(record, row->own, bytes, length) ||
           qemu_map_refuse(context, "does not fit into QEMU's state", row->neutral);
}

static gboolean read_intx(QemuMapContext *context, const QemuMapRow *row, const QemuRecord *record,
                          StateNode *node)
{
    size_t length;
    const guint8 *bytes = qemu_get_bytes(record, row->own, &length);

    for (guint i = 0; bytes && i < INTX_LINES; i++) {
        g_autofree char *path = g_strdup_printf("%s[%u]", row->neutral, i);

        state_set_number(node, path, bytes[4 * i + 3] != 0);
    }
    return bytes || qemu_map_refuse(context, "is not in QEMU's state", row->own);
}

gboolean qemu_map_intx(const QemuRecord *record, const QemuMapRow *row, guint line)
{
    size_t length = 0;
    const guint8 *bytes = qemu_get_bytes(record, row->own, &length);

    return bytes && length > 4 * line + 3 && bytes[4 * line + 3] != 0;
}

static gboolean write_intx(QemuMapContext *context, const QemuMapRow *row, QemuRecord *record,
                           const StateNode *node)
{
    guint8 bytes[4 * INTX_LINES] = {0};

    for (guint i = 0; i < INTX_LINES; i++) {
        g_autofree char *path = g_strdup_printf("%s[%u]", row->neutral, i);

        bytes[4 * i + 3] = (guint8)state_number_or(node, path, 0);
    }
    return qemu_set_bytes(record, row->own, bytes, sizeof bytes) ||
           qemu_map_refuse(context, "does not fit into QEMU's state", row->neutral);
}

/* ---- times ---- */

static gboolean read_time(QemuMapContext *context, const QemuMapRow *row, const QemuRecord *record,
                          StateNode *node)
{
    uint64_t own;

    if (!qemu_get_number(record, row->own, &own))
        return qemu_map_refuse(context, "is not in QEMU's state", row->own);
    if (row->kind == QEMU_MAP_SINCE)
        state_set_time(node, row->neutral, (int64_t)(context->now - own));
    else if (own != G_MAXUINT64)
        state_set_time(node, row->neutral, (int64_t)(own - context->now));
    return TRUE;
}

static gboolean write_time(QemuMapContext *context, const QemuMapRow *row, QemuRecord *record,
                           const StateNode *node)
{
    int64_t time = 0;
    gboolean given = state_get_time(node, row->neutral, &time);
    uint64_t own = context->now + (uint64_t)time;

    if (row->kind == QEMU_MAP_SINCE)
        own = context->now - (uint64_t)time;
    else if (!given)
        own = G_MAXUINT64;
    if (row->kind == QEMU_MAP_SINCE && !given)
        return qemu_map_refuse(context, "is missing", row->neutral);
    return qemu_map_put(context, record, row->own, own);
}

/* ---- groups ---- */

static gboolean read_group(QemuMapContext *context, const QemuMapRow *row, const QemuRecord *record,
                           StateNode *node)
{
    const QemuRecord *inner = qemu_get_record(record, row->own);

    if (!inner)
        return qemu_map_refuse(context, "is not in QEMU's state", row->own);
    return qemu_map_read_rows(context, row->rows, inner, state_set_group(node, row->neutral));
}

static gboolean write_group(QemuMapContext *context, const QemuMapRow *row, QemuRecord *record,
                            const StateNode *node)
{
    QemuRecord *inner = qemu_get_record(record, row->own);
    const StateNode *group = state_find(node, row->neutral);

    if (!inner)
        return qemu_map_refuse(context, "is not in QEMU's state", row->own);
    if (!group)
        return qemu_map_refuse(context, "is missing", row->neutral);
    return qemu_map_write_rows(context, row->rows, inner, group);
}

static gboolean read_groups(QemuMapContext *context, const QemuMapRow *row,
                            const QemuRecord *record, StateNode *node)
{
    guint count = qemu_count(record, row->own);

    state_set_list(node, row->neutral);
    for (guint i = 0; i < count; i++) {
        g_autofree char *own = g_strdup_printf("%s[%u]", row->own, i);

        if (!qemu_map_read_rows(context, row->rows, qemu_get_record(record, own),
                                state_append_group(node, row->neutral)))
            return FALSE;
    }
    return TRUE;
}

static gboolean write_groups(QemuMapContext *context, const QemuMapRow *row, QemuRecord *record,
                             const StateNode *node)
{
    const StateNode *list = state_find(node, row->neutral);

    if (!list || state_length(list) != qemu_count(record, row->own))
        return qemu_map_refuse(context, "has another number of entries in QEMU", row->neutral);
    for (guint i = 0; i < state_length(list); i++) {
        g_autofree char *own = g_strdup_printf("%s[%u]", row->own, i);

        if (!qemu_map_write_rows(context, row->rows, qemu_get_record(record, own),
                                 state_child(list, i)))
            return FALSE;
    }
    return TRUE;
}

/* ---- rows ---- */

typedef gboolean (*ReadRow)(QemuMapContext *context, const QemuMapRow *row,
                            const QemuRecord *record, StateNode *node);
typedef gboolean (*WriteRow)(QemuMapContext *context, const QemuMapRow *row, QemuRecord *record,
                             const StateNode *node);

static const struct {
    ReadRow read;
    WriteRow write;
} kinds[] = {
    [QEMU_MAP_NUMBER] = {read_number, write_number},
    [QEMU_MAP_OPTIONAL] = {read_number, write_number},
    [QEMU_MAP_BITS] = {read_number, write_number},
    [QEMU_MAP_NONE] = {read_number, write_number},
    [QEMU_MAP_NUMBERS] = {read_numbers, write_numbers},
    [QEMU_MAP_BYTES] = {read_bytes, write_bytes},
    [QEMU_MAP_INTX] = {read_intx, write_intx},
    [QEMU_MAP_SINCE] = {read_time, write_time},
    [QEMU_MAP_UNTIL] = {read_time, write_time},
    [QEMU_MAP_GROUP] = {read_group, write_group},
    [QEMU_MAP_GROUPS] = {read_groups, write_groups},
};

static gboolean read_row(QemuMapContext *context, const QemuMapRow *row, const QemuRecord *record,
                         StateNode *node)
{
    if (row->kind == QEMU_MAP_LEFT_OUT)
        return TRUE;
    if (row->kind == QEMU_MAP_CODE)
        return !row->read || row->read(context, record, node);
    return kinds[row->kind].read(context, row, record, node);
}

static gboolean write_row(QemuMapContext *context, const QemuMapRow *row, QemuRecord *record,
                          const StateNode *node)
{
    if (row->kind == QEMU_MAP_LEFT_OUT)
        return TRUE;
    if (row->kind == QEMU_MAP_CODE)
        return !row->write || row->write(context, record, node);
    return kinds[row->kind].write(context, row, record, node);
}

gboolean qemu_map_read_rows(QemuMapContext *context, const QemuMapRow *rows,
                            const QemuRecord *record, StateNode *node)
{
    for (; rows->own; rows++)
        if (!read_row(context, rows, record, node))
            return FALSE;
    return TRUE;
}

gboolean qemu_map_write_rows(QemuMapContext *context, const QemuMapRow *rows, QemuRecord *record,
                             const StateNode *node)
{
    for (; rows->own; rows++)
        if (!write_row(context, rows, record, node))
            return FALSE;
    return TRUE;
}

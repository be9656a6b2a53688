/* Fields of records by their paths. */
#include <string.h>

#include "state/qemu_form_private.h"

typedef struct {
    const QemuField *field;
    QemuValue *value;
    gboolean is_element; /* of an array; *index* says which */
    guint index;
} Place;

static const QemuLayout *subsection_layout(const QemuLayout *layout, const char *name,
                                           size_t length)
{
    for (guint i = 0; layout->subsections && layout->subsections[i]; i++) {
        const char *known = layout->subsections[i]->name;

        if (strlen(known) == length && strncmp(known, name, length) == 0)
            return layout->subsections[i];
    }
    return NULL;
}

static QemuRecord *subsection_of(const QemuRecord *record, const char *name, size_t length)
{
    for (guint i = 0; i < record->subsections->len; i++) {
        QemuRecord *subsection = record->subsections->pdata[i];

        if (strlen(subsection->layout->name) == length &&
            strncmp(subsection->layout->name, name, length) == 0)
            return subsection;
    }
    return NULL;
}

/* A field whose name is the whole step comes first ("mac_reg[0]"), then an element ("phy_reg[0]"). */
static gboolean find_field(const QemuRecord *record, const char *name, size_t length, Place *ret)
{
    const char *bracket = memrchr(name, '[', length);
    guint place;

    ret->is_element = FALSE;
    ret->index = 0;
    ret->field = qemu_record_field(record, name, length, &place);
    if (!ret->field && bracket && name[length - 1] == ']') {
        ret->field = qemu_record_field(record, name, (size_t)(bracket - name), &place);
        ret->is_element = TRUE;
        ret->index = (guint)g_ascii_strtoull(bracket + 1, NULL, 10);
    }
    if (!ret->field || !record->values[place].present)
        return FALSE;
    ret->value = &record->values[place];
    return ret->index < MAX(qemu_value_elements(ret->field, ret->value), 1);
}

static QemuRecord *step_into(const QemuRecord *record, const char *name, size_t length)
{
    QemuRecord *subsection = subsection_of(record, name, length);
    Place place;

    if (subsection)
        return subsection;
    if (!find_field(record, name, length, &place) || !place.value->records ||
        place.index >= place.value->records->len)
        return NULL;
    return place.value->records->pdata[place.index];
}

QemuRecord *qemu_get_record(const QemuRecord *record, const char *path)
{
    while (record && *path) {
        size_t length = strcspn(path, "|");

        record = step_into(record, path, length);
        path += length + (path[length] == '|');
    }
    return (QemuRecord *)record;
}

static gboolean find_place(const QemuRecord *record, const char *path, Place *ret)
{
    size_t length;

    while (record && path[length = strcspn(path, "|")] == '|') {
        record = step_into(record, path, length);
        path += length + 1;
    }
    return record && find_field(record, path, length, ret);
}

static uint64_t decode(const QemuField *field, const guint8 *bytes)
{
    uint64_t value = 0;

    for (guint i = 0; i < qemu_type_bytes(field->type); i++)
        value = value << 8 | bytes[i];
    return field->type == QEMU_INT32_LE ? GUINT32_SWAP_LE_BE((guint32)value) : value;
}

static gboolean is_number(const Place *place)
{
    return place->value->bytes && place->field->type < QEMU_BUFFER &&
           (place->is_element || qemu_value_elements(place->field, place->value) == 1);
}

static uint64_t get_at(const Place *place, guint index)
{
    return decode(place->field, place->value->bytes + index * qemu_type_bytes(place->field->type));
}

gboolean qemu_get_number(const QemuRecord *record, const char *path, uint64_t *ret)
{
    Place place;

    if (!find_place(record, path, &place) || !is_number(&place))
        return FALSE;
    *ret = get_at(&place, place.index);
    return TRUE;
}

static gboolean has_element(const Place *place, guint index)
{
    return place->value->bytes && place->field->type < QEMU_BUFFER && !place->is_element &&
           index < qemu_value_elements(place->field, place->value);
}

gboolean qemu_get_element(const QemuRecord *record, const char *path, guint index, uint64_t *ret)
{
    Place place;

    if (!find_place(record, path, &place) || !has_element(&place, index))
        return FALSE;
    *ret = get_at(&place, index);
    return TRUE;
}

/* The subsection that a path begins with, made where it is not there. */
static gboolean add_subsection(QemuRecord *record, const char *path)
{
    while (*path) {
        size_t length = strcspn(path, "|");
        const QemuLayout *layout = subsection_layout(record->layout, path, length);
        QemuRecord *next = step_into(record, path, length);

        if (!next && layout) {
            next = qemu_record_new_zero(layout, layout->version);
            if (next)
                g_ptr_array_add(record->subsections, next);
        }
        path += length + (path[length] == '|');
        if (!next || !strchr(path, '|'))
            return next != NULL;
        record = next;
    }
    return FALSE;
}

static gboolean set_at(const Place *place, guint index, uint64_t value)
{
    guint bytes = (guint)qemu_type_bytes(place->field->type);

    if (bytes < 8 && value >> (8 * bytes) != 0)
        return FALSE;
    if (place->field->type == QEMU_INT32_LE)
        value = GUINT32_SWAP_LE_BE((guint32)value);
    for (guint i = 0; i < bytes; i++)
        place->value->bytes[index * bytes + i] = (guint8)(value >> (8 * (bytes - 1 - i)));
    return TRUE;
}

/* TRUE also where nothing has to be there: *ret_needed says whether something has. */
static gboolean find_or_add(QemuRecord *record, const char *path, uint64_t value, Place *ret,
                            gboolean *ret_needed)
{
    *ret_needed = TRUE;
    if (find_place(record, path, ret))
        return TRUE;
    *ret_needed = value != 0 || !strchr(path, '|');
    return !*ret_needed || (add_subsection(record, path) && find_place(record, path, ret));
}

gboolean qemu_set_number(QemuRecord *record, const char *path, uint64_t value)
{
    gboolean needed;
    Place place;

    if (!find_or_add(record, path, value, &place, &needed))
        return FALSE;
    return !needed || (is_number(&place) && set_at(&place, place.index, value));
}

gboolean qemu_set_element(QemuRecord *record, const char *path, guint index, uint64_t value)
{
    gboolean needed;
    Place place;

    if (!find_or_add(record, path, value, &place, &needed))
        return FALSE;
    return !needed || (has_element(&place, index) && set_at(&place, index, value));
}

guint8 *qemu_edit_bytes(QemuRecord *record, const char *path, size_t *ret_length)
{
    return (guint8 *)qemu_get_bytes(record, path, ret_length);
}

const guint8 *qemu_get_bytes(const QemuRecord *record, const char *path, size_t *ret_length)
{
    Place place;

    if (!find_place(record, path, &place) || place.is_element || !place.value->bytes)
        return NULL;
    *ret_length = place.value->length;
    return place.value->bytes;
}

gboolean qemu_set_bytes(QemuRecord *record, const char *path, const void *bytes, size_t length)
{
    Place place;

    if (!find_place(record, path, &place) &&
        (!add_subsection(record, path) || !find_place(record, path, &place)))
        return FALSE;
    if (place.is_element || !place.value->bytes || place.value->length != length)
        return FALSE;
    memcpy(place.value->bytes, bytes, length);
    return TRUE;
}

guint qemu_count(const QemuRecord *record, const char *path)
{
    Place place;

    return find_place(record, path, &place) ? qemu_value_elements(place.field, place.value) : 0;
}

gboolean qemu_set_conditional_bytes(QemuRecord *record, const char *name, const void *bytes,
                                    size_t length)
{
    guint place;
    const QemuField *field = qemu_record_field(record, name, strlen(name), &place);
    QemuValue *value = field ? &record->values[place] : NULL;

    if (!value || field->type != QEMU_BUFFER || !field->when || (bytes && length != field->count))
        return FALSE;
    g_clear_pointer(&value->bytes, g_free);
    value->present = bytes != NULL;
    value->length = bytes ? length : 0;
    if (bytes)
        value->bytes = g_memdup2(bytes, length);
    return TRUE;
}

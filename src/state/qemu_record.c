/* Records of fields: read, written, made, freed. */
#include <string.h>

#include "state/qemu_form_private.h"

static void free_record(gpointer data)
{
    qemu_record_free(data);
}

static guint count_fields(const QemuLayout *layout)
{
    guint count = 0;

    while (layout->fields && layout->fields[count].name)
        count++;
    return count;
}

static QemuRecord *record_new(const QemuLayout *layout, uint32_t version)
{
    QemuRecord *record = g_new0(QemuRecord, 1);

    record->layout = layout;
    record->version = version;
    record->values = g_new0(QemuValue, count_fields(layout) + 1);
    record->subsections = g_ptr_array_new_with_free_func(free_record);
    record->recent = g_new0(guint, 1);
    return record;
}

void qemu_record_free(QemuRecord *record)
{
    if (!record)
        return;
    for (guint i = 0, count = count_fields(record->layout); i < count; i++) {
        g_free(record->values[i].bytes);
        if (record->values[i].records)
            g_ptr_array_unref(record->values[i].records);
    }
    g_free(record->values);
    g_free(record->recent);
    g_ptr_array_unref(record->subsections);
    g_free(record);
}

const QemuField *qemu_record_field(const QemuRecord *record, const char *name, size_t length,
                                   guint *ret_place)
{
    const QemuField *fields = record->layout->fields;
    guint count = count_fields(record->layout), first = *record->recent;

    for (guint i = 0; i < count; i++) {
        guint place = (first + i) % count;

        if (qemu_field_has_name(&fields[place], name, length)) {
            *ret_place = *record->recent = place;
            return &fields[place];
        }
    }
    return NULL;
}

static gboolean is_struct(const QemuField *field)
{
    return field->type == QEMU_STRUCT || field->type == QEMU_TEMPORARY;
}

guint qemu_value_elements(const QemuField *field, const QemuValue *value)
{
    if (value->records)
        return value->records->len;
    return (guint)(value->length / qemu_type_bytes(field->type));
}

/* ---- reading ---- */

/* A number that came before, in this record or, where it is not one of its fields, around it. */
static uint64_t number_before(const QemuRecord *record, const QemuRecord *around, const char *name)
{
    uint64_t value = 0;

    if (!qemu_get_number(record, name, &value) && around)
        (void)qemu_get_number(around, name, &value);
    return value;
}

static gboolean field_is_there(const QemuField *field, const QemuRecord *record,
                               const QemuRecord *around)
{
    return !field->when || (number_before(record, around, field->when) & field->when_mask) != 0;
}

/* FALSE: more than there can be. */
static gboolean count_elements(QemuReading *reading, const QemuField *field,
                               const QemuRecord *record, const QemuRecord *around,
                               uint64_t *ret_count)
{
    *ret_count = MAX(field->count, 1);
    if (field->count == QEMU_COUNT_FITS) {
        reading->has_fits = TRUE;
        *ret_count = reading->fits;
    } else if (field->count_from) {
        *ret_count =
            number_before(record, around, field->count_from) * (uint64_t)MAX(field->count_bytes, 1);
        return *ret_count <= field->count;
    }
    return TRUE;
}

static gboolean read_structs(QemuReading *reading, const QemuField *field, QemuRecord *record,
                             QemuValue *value, uint64_t count)
{
    value->records = g_ptr_array_new_with_free_func(free_record);
    for (uint64_t i = 0; i < count; i++) {
        QemuRecord *inner =
            qemu_record_read(reading, field->layout, field->layout->version, record);

        if (!inner)
            return FALSE;
        g_ptr_array_add(value->records, inner);
    }
    return TRUE;
}

static gboolean read_value(QemuReading *reading, const QemuField *field, QemuRecord *record,
                           const QemuRecord *around, QemuValue *value)
{
    const uint8_t *bytes;
    uint64_t count;

    value->present = field_is_there(field, record, around);
    if (!value->present)
        return TRUE;
    if (!count_elements(reading, field, record, around, &count))
        return FALSE;
    if (is_struct(field))
        return read_structs(reading, field, record, value, count);
    value->length = count * qemu_type_bytes(field->type);
    bytes = byte_read_span(&reading->reader, value->length);
    if (bytes)
        value->bytes = g_memdup2(bytes, value->length);
    return bytes != NULL;
}

/* The subsection that begins here, or NULL; it is looked at, and not taken. */
static const QemuLayout *next_subsection(ByteReader reader, const QemuLayout *layout)
{
    const uint8_t *name;
    uint8_t type = byte_read_u8(&reader), length = byte_read_u8(&reader);

    name = byte_read_span(&reader, length);
    if (!name || type != QEMU_SUBSECTION || !layout->subsections)
        return NULL;
    for (const QemuLayout *const *known = layout->subsections; *known; known++)
        if (strlen((*known)->name) == length && memcmp((*known)->name, name, length) == 0)
            return *known;
    return NULL;
}

static gboolean read_subsections(QemuReading *reading, QemuRecord *record)
{
    const QemuLayout *layout;

    while ((layout = next_subsection(reading->reader, record->layout))) {
        uint32_t version;
        QemuRecord *subsection;

        (void)byte_read_span(&reading->reader, 2 + strlen(layout->name));
        version = byte_read_be32(&reading->reader);
        if (version != layout->version)
            return FALSE;
        subsection = qemu_record_read(reading, layout, version, record);
        if (!subsection)
            return FALSE;
        g_ptr_array_add(record->subsections, subsection);
    }
    return TRUE;
}

QemuRecord *qemu_record_read(QemuReading *reading, const QemuLayout *layout, uint32_t version,
                             const QemuRecord *around)
{
    g_autoptr(QemuRecord) record = record_new(layout, version);
    gboolean good = ++reading->nesting <= QEMU_MAX_NESTING;

    for (guint i = 0, count = count_fields(layout); good && i < count; i++)
        good = read_value(reading, &layout->fields[i], record, around, &record->values[i]);
    good = good && read_subsections(reading, record);
    reading->nesting--;
    return good && byte_reader_ok(&reading->reader) ? g_steal_pointer(&record) : NULL;
}

/* ---- writing ---- */

static void write_value(GByteArray *out, const QemuValue *value)
{
    if (value->bytes)
        byte_write_span(out, value->bytes, value->length);
    for (guint i = 0; value->records && i < value->records->len; i++)
        qemu_record_write(out, value->records->pdata[i]);
}

void qemu_record_write(GByteArray *out, const QemuRecord *record)
{
    for (guint i = 0, count = count_fields(record->layout); i < count; i++)
        write_value(out, &record->values[i]);
    for (guint i = 0; i < record->subsections->len; i++) {
        const QemuRecord *subsection = record->subsections->pdata[i];
        const char *name = subsection->layout->name;

        byte_write_u8(out, QEMU_SUBSECTION);
        byte_write_u8(out, (uint8_t)strlen(name));
        byte_write_span(out, name, strlen(name));
        byte_write_be32(out, subsection->version);
        qemu_record_write(out, subsection);
    }
}

/* ---- making ---- */

static gboolean make_zero(const QemuField *field, QemuValue *value)
{
    value->present = TRUE;
    if (!is_struct(field)) {
        value->length = MAX(field->count, 1) * qemu_type_bytes(field->type);
        value->bytes = g_malloc0(value->length);
        return TRUE;
    }
    value->records = g_ptr_array_new_with_free_func(free_record);
    for (guint i = 0; i < MAX(field->count, 1); i++) {
        QemuRecord *inner = qemu_record_new_zero(field->layout, field->layout->version);

        if (!inner)
            return FALSE;
        g_ptr_array_add(value->records, inner);
    }
    return TRUE;
}

QemuRecord *qemu_record_new_zero(const QemuLayout *layout, uint32_t version)
{
    g_autoptr(QemuRecord) record = record_new(layout, version);

    for (guint i = 0; i < count_fields(layout); i++) {
        const QemuField *field = &layout->fields[i];

        if (field->when || field->count_from || field->count == QEMU_COUNT_FITS ||
            !make_zero(field, &record->values[i]))
            return NULL;
    }
    return g_steal_pointer(&record);
}

/*
 * Prints what the reader of QEMU's streams finds in a file that xen-save-devices-state wrote, as one
 * JSON object: a list of sections, each with its fields in order (name, type, bytes), or "opaque".
 * Fails where the stream, written again, is not the same.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/json.h"
#include "state/qemu_form.h"

static json_t *record_json(const QemuRecord *record);

static json_t *field_json(const QemuField *field, const QemuValue *value)
{
    json_t *json =
        json_pack("{s:s, s:s}", "name", field->name, "type", qemu_type_name(field->type));

    if (!value->records) {
        json_object_set_new(json, "bytes", json_integer((json_int_t)value->length));
        return json;
    }
    json_object_set_new(json, "records", json_array());
    for (guint i = 0; i < value->records->len; i++)
        json_array_append_new(json_object_get(json, "records"),
                              record_json(value->records->pdata[i]));
    return json;
}

static json_t *record_json(const QemuRecord *record)
{
    json_t *fields = json_array(), *subsections = json_array();
    const QemuField *field = record->layout->fields;

    for (guint i = 0; field && field[i].name; i++)
        if (record->values[i].present)
            json_array_append_new(fields, field_json(&field[i], &record->values[i]));
    for (guint i = 0; i < record->subsections->len; i++)
        json_array_append_new(subsections, record_json(record->subsections->pdata[i]));
    return json_pack("{s:s, s:i, s:o, s:o}", "layout", record->layout->name, "version",
                     record->version, "fields", fields, "subsections", subsections);
}

static json_t *section_json(const QemuSection *section)
{
    json_t *json = json_pack("{s:s, s:i}", "name", section->name, "instance", section->instance);

    if (section->record)
        json_object_set_new(json, "record", record_json(section->record));
    else
        json_object_set_new(json, "opaque",
                            json_integer((json_int_t)g_bytes_get_size(section->opaque)));
    return json;
}

static gboolean print_form(GBytes *stream, GError **error)
{
    g_autoptr(QemuForm) form =
        qemu_form_read(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), error);
    g_autoptr(json_t) sections = json_array();
    g_autoptr(GBytes) again = NULL;

    if (!form)
        return FALSE;
    again = qemu_form_write(form);
    if (!g_bytes_equal(stream, again)) {
        error_set(error, VMFERRY_ERROR_FAILED, "written again, the stream is not the same");
        return FALSE;
    }
    for (guint i = 0; i < form->sections->len; i++)
        json_array_append_new(sections, section_json(form->sections->pdata[i]));
    return json_dumpf(sections, stdout, JSON_COMPACT) == 0;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *data = NULL;
    g_autoptr(GBytes) stream = NULL;
    gsize length;

    if (argc != 2)
        return 2;
    if (g_file_get_contents(argv[1], &data, &length, &error)) {
        stream = g_bytes_new_take(g_steal_pointer(&data), length);
        if (print_form(stream, &error))
            return EXIT_SUCCESS;
    }
    fprintf(stderr, "%s: %s\n", argv[1], error->message);
    return EXIT_FAILURE;
}

/* The tables of docs/state-format.md. */
#include <string.h>

#include "state/schema.h"

static void add_kind(GString *out, const StateField *field)
{
    if (field->is_list && field->entries)
        g_string_append_printf(out, "%u of: ", field->entries);
    else if (field->is_list)
        g_string_append(out, "list of: ");
    if (field->kind == STATE_NUMBER)
        g_string_append_printf(out, "number, %u bit%s", field->bits, field->bits > 1 ? "s" : "");
    else if (field->kind == STATE_BYTES && field->bytes)
        g_string_append_printf(out, "%u bytes", field->bytes);
    else if (field->kind == STATE_GROUP)
        g_string_append_printf(out, "[%s](#%s)", field->group->name, field->group->name);
    else
        g_string_append(out, state_kind_name(field->kind));
}

/* Of an optional one, what is behind the last ";" is what it is without. */
static void add_row(GString *out, const StateField *field)
{
    g_string_append_printf(out, "| `%s`%s | ", field->name, field->optional ? " ?" : "");
    add_kind(out, field);
    g_string_append_printf(out, " | %s |\n", field->what);
}

static void add_group(GString *out, GHashTable *done, const StateGroup *group)
{
    if (!g_hash_table_add(done, (gpointer)group))
        return;
    g_string_append_printf(out, "\n### %s\n\n%s%s%s\n\n", group->name, group->what,
                           group->place ? " At " : "", group->place ? group->place : "");
    g_string_append(out, "| name | kind | what it is |\n|---|---|---|\n");
    for (const StateField *field = group->fields; field->name; field++)
        add_row(out, field);
    for (const StateField *field = group->fields; field->name; field++)
        if (field->group)
            add_group(out, done, field->group);
}

char *state_schema_document(void)
{
    GString *out = g_string_new("## The schema\n");
    g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);

    add_group(out, done, state_schema_root());
    for (const StateGroup *const *device = state_schema_devices(); *device; device++)
        add_group(out, done, *device);
    return g_string_free(out, FALSE);
}

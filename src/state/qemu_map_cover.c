/* Which fields a table of rows says something about. */
#include <string.h>

#include "state/qemu_map.h"

/* Without what is in brackets: places of elements, and names of registers. */
static char *without_indexes(const char *path)
{
    GString *out = g_string_new(NULL);

    for (const char *at = path; *at; at++) {
        const char *end = *at == '[' ? strchr(at, ']') : NULL;

        if (end)
            at = end;
        else
            g_string_append_c(out, *at);
    }
    return g_string_free(out, FALSE);
}

static gboolean is_below(const char *path, const char *above)
{
    size_t length = strlen(above);

    return strncmp(path, above, length) == 0 && (path[length] == '\0' || path[length] == '|');
}

/* A conversion by code, or a reason, is of all that is below, too. */
static gboolean name_covers(const QemuMapRow *row, const char *name, const char *path)
{
    g_autofree char *own = without_indexes(name);

    if ((row->kind == QEMU_MAP_CODE || row->kind == QEMU_MAP_LEFT_OUT) && is_below(path, own))
        return TRUE;
    return is_below(own, path);
}

static gboolean row_covers(const QemuMapRow *row, const char *path)
{
    g_autofree char *own = without_indexes(row->own);
    g_auto(GStrv) names = NULL;

    if (row->rows)
        return strcmp(path, own) == 0 ||
               (is_below(path, own) && qemu_map_covers(row->rows, path + strlen(own) + 1));
    if (row->kind != QEMU_MAP_CODE)
        return name_covers(row, row->own, path);
    names = g_strsplit(row->own, " ", -1);
    for (char **name = names; *name; name++)
        if (name_covers(row, *name, path))
            return TRUE;
    return FALSE;
}

gboolean qemu_map_covers(const QemuMapRow *rows, const char *path)
{
    g_autofree char *plain = without_indexes(path);

    for (; rows->own; rows++)
        if (row_covers(rows, plain))
            return TRUE;
    return FALSE;
}

/* ---- subsections without a row ---- */

static char *join(const char *above, const char *name)
{
    return *above ? g_strdup_printf("%s|%s", above, name) : g_strdup(name);
}

static void visit_record(const QemuMapRow *rows, const QemuRecord *record, const char *path,
                         QemuMapVisit visit, void *context);

static void visit_inner(const QemuMapRow *rows, const QemuRecord *record, const char *path,
                        QemuMapVisit visit, void *context)
{
    for (guint i = 0; record->layout->fields && record->layout->fields[i].name; i++) {
        const GPtrArray *records = record->values[i].records;
        g_autofree char *below = records ? join(path, record->layout->fields[i].name) : NULL;

        for (guint j = 0; records && j < records->len; j++)
            visit_record(rows, records->pdata[j], below, visit, context);
    }
}

static void visit_record(const QemuMapRow *rows, const QemuRecord *record, const char *path,
                         QemuMapVisit visit, void *context)
{
    visit_inner(rows, record, path, visit, context);
    for (guint i = 0; i < record->subsections->len; i++) {
        const QemuRecord *subsection = record->subsections->pdata[i];
        g_autofree char *below = join(path, subsection->layout->name);

        if (qemu_map_covers(rows, below))
            visit_record(rows, subsection, below, visit, context);
        else
            visit(subsection, context);
    }
}

void qemu_map_visit_unmapped(const QemuMapRow *rows, const QemuRecord *record, QemuMapVisit visit,
                             void *context)
{
    visit_record(rows, record, "", visit, context);
}

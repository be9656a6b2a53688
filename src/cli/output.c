#include "cli/output.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct Table {
    guint columns;
    GPtrArray *cells; /* row by row, the titles first */
};

Table *table_new(const char *const *titles)
{
    Table *table = g_new0(Table, 1);

    table->cells = g_ptr_array_new_with_free_func(g_free);
    for (; titles[table->columns]; table->columns++)
        g_ptr_array_add(table->cells, g_strdup(titles[table->columns]));
    return table;
}

void table_add(Table *table, const char *first, ...)
{
    va_list args;

    va_start(args, first);
    g_ptr_array_add(table->cells, g_strdup(first ? first : "-"));
    for (guint i = 1; i < table->columns; i++) {
        const char *text = va_arg(args, const char *);

        g_ptr_array_add(table->cells, g_strdup(text ? text : "-"));
    }
    va_end(args);
}

static guint get_width(Table *table, guint column)
{
    glong width = 0;

    for (guint i = column; i < table->cells->len; i += table->columns)
        width = MAX(width, g_utf8_strlen(table->cells->pdata[i], -1));
    return (guint)width;
}

static void print_row(Table *table, guint row, const guint *widths)
{
    for (guint column = 0; column < table->columns; column++) {
        const char *text = table->cells->pdata[row * table->columns + column];
        int padding = (int)widths[column] - (int)g_utf8_strlen(text, -1) + 2;

        /* No blanks behind the last column. */
        printf("%s%*s", text, column + 1 < table->columns ? padding : 0, "");
    }
    printf("\n");
}

void table_print(Table *table)
{
    g_autofree guint *widths = g_new(guint, table->columns);
    const char *title = table->cells->pdata[0];

    for (guint column = 0; column < table->columns; column++)
        widths[column] = get_width(table, column);
    for (guint row = *title ? 0 : 1; row < table->cells->len / table->columns; row++)
        print_row(table, row, widths);
}

void table_free(Table *table)
{
    if (!table)
        return;
    g_ptr_array_unref(table->cells);
    g_free(table);
}

char *format_age(int64_t seconds)
{
    if (seconds < 0)
        seconds = 0;
    if (seconds < 120)
        return g_strdup_printf("%d s", (int)seconds);
    if (seconds < 120 * 60)
        return g_strdup_printf("%d min", (int)(seconds / 60));
    if (seconds < 48 * 3600)
        return g_strdup_printf("%d h", (int)(seconds / 3600));
    return g_strdup_printf("%" G_GINT64_FORMAT " days", (gint64)(seconds / 86400));
}

char *format_ms(double ms)
{
    if (ms < 99.95)
        return g_strdup_printf("%.1f ms", ms);
    if (ms < 999.5)
        return g_strdup_printf("%.0f ms", ms);
    if (ms < 99950)
        return g_strdup_printf("%.1f s", ms / 1000);
    return g_strdup_printf("%.0f min %.0f s", floor(ms / 60000), fmod(ms / 1000, 60));
}

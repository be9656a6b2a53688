/* What users read. */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>

/* A table whose columns are as wide as they must be. */
typedef struct Table Table;

/* *titles*: NULL-terminated; "" titles make a table without a head line. */
Table *table_new(const char *const *titles);

/* One row; as many texts as there are columns (NULL: "-"). */
void table_add(Table *table, const char *first, ...) G_GNUC_NULL_TERMINATED;
void table_print(Table *table);
void table_free(Table *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Table, table_free)

/* "3 s", "12 min", "5 h", "3 days"; free with g_free(). */
char *format_age(int64_t seconds);

/* "12.3 ms", "1.5 s", "2 min 5 s"; free with g_free(). */
char *format_ms(double ms);

/*
 * Names of an enum's values
 *
 * One table of strings, indexed by value, gives both directions:
 *
 *     static const char *const names[] = {[TRACKER_AUTO] = "auto", …};
 *     NAMES_DEFINE(tracker_kind, TrackerKind, names)
 *
 * defines tracker_kind_name(), of a value that is in the table, and tracker_kind_from_name(), FALSE
 * where no value has that name.
 */
#pragma once

#include <glib.h>
#include <string.h>

/* The place of *name* in *names*, or *count*. */
static inline guint names_find(const char *const *names, guint count, const char *name)
{
    guint i = 0;

    while (i < count && g_strcmp0(names[i], name) != 0)
        i++;
    return i;
}

#define NAMES_DEFINE(prefix, Type, table)                                                          \
    const char *prefix##_name(Type value)                                                          \
    {                                                                                              \
        return (table)[value];                                                                     \
    }                                                                                              \
                                                                                                   \
    gboolean prefix##_from_name(const char *name, Type *ret)                                       \
    {                                                                                              \
        guint found = names_find(table, G_N_ELEMENTS(table), name);                                \
                                                                                                   \
        if (found < G_N_ELEMENTS(table))                                                           \
            *ret = (Type)found;                                                                    \
        return found < G_N_ELEMENTS(table);                                                        \
    }

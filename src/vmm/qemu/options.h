/*
 * QEMU's command line as options
 *
 * Pure helpers: walking over argv by QEMU's rules (which options take a
 * value), and reading "key=value,key=value" lists, whose values write a comma
 * as ",,", or the JSON objects that newer command lines hold instead.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

typedef struct {
    const char *name;  /* without dashes; NULL for a word that is not an option */
    const char *value; /* NULL for options without one (or cut command lines) */
    guint first;       /* index in argv */
    guint words;       /* 1 or 2 */
} QemuOption;

/* Steps through argv; start with {0}; FALSE at the end.  The program (word 0)
 * is skipped. */
gboolean qemu_option_next(char *const *argv, QemuOption *option);

/* One value's parameters; every text is owned. */
typedef struct QemuParameters QemuParameters;

/* *implied* is the key of a first parameter without "="; NULL: there is none.
 * A value that starts with "{" is read as JSON; nested keys become "a.b". */
QemuParameters *qemu_parameters_parse(const char *value, const char *implied);
void qemu_parameters_free(QemuParameters *parameters);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuParameters, qemu_parameters_free)

/* The last value of *key* (QEMU's rule), NULL where it is not given. */
const char *qemu_parameters_get(const QemuParameters *parameters, const char *key);

/* TRUE for "key", "key=on", "key=yes", "key=true" and JSON true. */
gboolean qemu_parameters_flag(const QemuParameters *parameters, const char *key);

/* TRUE where the last component of some key (behind ".") is *key*. */
gboolean qemu_parameters_has_leaf(const QemuParameters *parameters, const char *key);

/* Changing them.  A value is a text, an integer or a boolean (taken); keys of
 * nested JSON objects are written "a.b".  Setting replaces all that *key* had;
 * removing takes "key.…" along. */
void qemu_parameters_set(QemuParameters *parameters, const char *key, json_t *value);
void qemu_parameters_remove(QemuParameters *parameters, const char *key);

/* The JSON object that was read, borrowed; NULL for a list. */
json_t *qemu_parameters_get_json(const QemuParameters *parameters);

/* As an option's value again: JSON if it was JSON.  Free with g_free(). */
char *qemu_parameters_to_text(const QemuParameters *parameters);

/* *text* with every comma doubled; free with g_free(). */
char *qemu_escape_commas(const char *text);

/* The same command line with a new id in each "-device vmgenid" (generation.c); free with g_strfreev(). */
char **qemu_renew_generation(char *const *command_line);

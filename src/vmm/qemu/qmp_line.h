/* Pure parts of QMP: splitting bytes into messages, reading error replies. */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stddef.h>

typedef struct QmpLines QmpLines;

/* A splitter that gives up on lines longer than *max_line*. */
QmpLines *qmp_lines_new(size_t max_line);
void qmp_lines_free(QmpLines *lines);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QmpLines, qmp_lines_free)

/* Adds bytes as they came. */
gboolean qmp_lines_add(QmpLines *lines, const char *data, size_t length, GError **error);

/* Takes the next whole message; *ret_message is NULL where there is none yet.
 * FALSE with *error* where a line is not a JSON object. */
gboolean qmp_lines_next(QmpLines *lines, json_t **ret_message, GError **error);

/* Turns an error reply into *error* with QEMU's description. */
void qmp_set_reply_error(json_t *reply, GError **error);

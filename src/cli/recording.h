/*
 * The file of `vmferry migrate --record`
 *
 * The agent sends the lines of a move's trace; this writes them down.  A
 * recording that cannot be written any more never stops the move: it ends, and
 * the user hears of it afterwards.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

typedef struct {
    const char *path; /* borrowed; NULL: nothing is recorded */
    int fd;
    char *problem; /* why the file is not whole, or NULL */
} Recording;

/* Creates or empties the file (mode 0600).  *path* NULL: an idle recording. */
gboolean recording_open(Recording *recording, const char *path, GError **error);

/* Takes what is for the recording; FALSE where *object* is something else. */
gboolean recording_take(Recording *recording, json_t *object);

/* Ends the file; FALSE with *error* where it is not whole. */
gboolean recording_close(Recording *recording, GError **error);

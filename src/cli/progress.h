/*
 * The progress of a move on standard error
 *
 * On a terminal one line that is drawn again and again; otherwise one line
 * for each phase and each round, and where the guest begins or ends to be slowed
 * down, so that a log stays readable.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

typedef struct {
    gboolean terminal;
    guint width;    /* of what was drawn last */
    char phase[16]; /* shown last */
    guint round;
    gboolean slowed;
} Progress;

void progress_init(Progress *progress);
void progress_show(Progress *progress, json_t *object);

/* Removes the bar. */
void progress_end(Progress *progress);

/* "copying, round 2, 117 MB, 117 MB/s, left 1.2 s"; free with g_free(). */
char *progress_describe(json_t *object);

/* "[#####     ] 50 %" without a terminal's help, for tests; free with g_free(). */
char *progress_format_bar(double share, guint width);

/* Figures of an agent's guests in the text format of Prometheus (version 0.0.4,
 * https://prometheus.io/docs/instrumenting/exposition_formats/).
 *
 * They are made from what GET /v1/guests shows, so that the two cannot differ: a figure is a key of a guest's
 * `activity.progress`, in base units (seconds, bytes).  A guest that has no such key has no such sample. */
#pragma once

#include "base/json.h"
#include "collect/load_report.h"

#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* *guests*: an array of guests as guest_view_short() makes them.  *load*: adds what host and guests use; may
 * be NULL.  Free with g_free(). */
char *metrics_write(json_t *guests, const LoadReport *load);

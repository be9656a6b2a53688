/*
 * The lines of an activity's trace on their way to its reader
 *
 * The thread that carries it out adds, the API's stream takes; neither waits for the other.
 * What a slow reader leaves here is bounded: lines that do not fit are dropped
 * and counted, and a line at that place says so.
 */
#pragma once

#include <glib.h>

typedef struct TraceQueue TraceQueue;

/* Keeps about *limit_bytes* at most. */
TraceQueue *trace_queue_new(gsize limit_bytes);
void trace_queue_free(TraceQueue *queue);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TraceQueue, trace_queue_free)

/* Any thread; copies *line*. */
void trace_queue_add(TraceQueue *queue, const char *line);

/* What is there, as lines of the API ({"type": "trace", …}, each with its
 * end), up to about 256 KiB; NULL where nothing is.  Free with g_free(). */
char *trace_queue_take(TraceQueue *queue);

/* No reader is left: drops all, now and later. */
void trace_queue_close(TraceQueue *queue);

/*
 * What happened to the guests
 *
 * Theory of operation: a ring of the newest EVENT_RING_SIZE events in memory,
 * each with a number that only grows.  Every event is also appended to
 * events.ndjson in the state directory, so that the ring survives a restart;
 * at EVENT_FILE_LIMIT bytes the file becomes events.ndjson.1 and a new one
 * begins.  Events inform, they decide nothing: where the disk is full they
 * are kept in memory only.
 *
 * Readers hold no place in the ring: they ask for what came after the last
 * number they saw.  A reader that is too slow sees a gap in the numbers.
 *
 * May be used from any thread; the listener is called with no lock held, in
 * the thread that added the event.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/json.h"

#define EVENT_RING_SIZE 4096u
#define EVENT_FILE_LIMIT (1u << 20)

typedef struct EventLog EventLog;

/* Reads back what is on disk.  *directory* NULL: in memory only. */
EventLog *event_log_open(const char *directory);
void event_log_close(EventLog *log);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EventLog, event_log_close)

/* Adds an event.  *guest* and *data* may be NULL; takes *data*. */
void event_log_add(EventLog *log, const char *guest, const char *type, json_t *data,
                   const char *format, ...) G_GNUC_PRINTF(5, 6);

/* At most *limit* events with numbers above *since*, oldest first, one JSON
 * text each.  Free with g_ptr_array_unref(). *ret_last*: number of the last
 * one in it, or *since*. */
GPtrArray *event_log_read(EventLog *log, uint64_t since, guint limit, uint64_t *ret_last);

/* Number of the newest event, 0 for none. */
uint64_t event_log_get_last(EventLog *log);

/* Called after each new event; NULL for none. */
void event_log_set_listener(EventLog *log, void (*listener)(gpointer user), gpointer user);

/*
 * Where guests have gone
 *
 * Theory of operation: when a guest has moved away, its name, where it went and
 * when are written down (departed/NAME.json in the state directory), so that
 * its old host can say where to ask for it.  An entry goes when
 * a guest of that name is managed here again, or when DEPARTURES_MAX younger
 * ones have come.
 *
 * Entries inform, they decide nothing: one that cannot be written (a full disk)
 * is kept in memory only, one that cannot be read is put aside.
 *
 * May be used from any thread.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "agent/record.h"
#include "agent/store.h"

#define DEPARTURES_MAX 256u

typedef struct {
    char *guest;
    char *destination; /* as the user named it */
    char *transaction; /* of the move */
    int64_t time;      /* wall clock, seconds */
} Departure;

void departure_free(Departure *departure);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Departure, departure_free)

/* "web1 moved to hostb 3 minutes ago"; free with g_free(). */
char *departure_describe(const Departure *departure, int64_t now);

json_t *departure_to_json(const Departure *departure);

/* Checks every field and every limit. */
Departure *departure_from_json(json_t *object, GError **error);

typedef struct DepartureLog DepartureLog;

/* Reads what is on disk.  *store* must outlive the log. */
DepartureLog *departure_log_open(StateStore *store, GError **error);
void departure_log_close(DepartureLog *log);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DepartureLog, departure_log_close)

/* The guest has just left to where its record says: does nothing where that
 * names no destination. */
void departure_log_add(DepartureLog *log, const GuestRecord *record);

/* A guest of this name is here. */
void departure_log_forget(DepartureLog *log, const char *guest);

/* Where a guest has gone, or NULL; free with departure_free(). */
Departure *departure_log_find(DepartureLog *log, const char *guest);

/* All of them, the latest first; free with g_ptr_array_unref(). */
GPtrArray *departure_log_list(DepartureLog *log);

#include "agent/departures.h"

#include <string.h>

#include "base/name.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"

#define DEPARTURE_FORMAT 1
#define DEPARTURE_MAX_DESTINATION_BYTES 512

struct DepartureLog {
    StateStore *store;
    GMutex lock;          /* protects all below, and the order of writes */
    GHashTable *by_guest; /* of Departure */
};

void departure_free(Departure *departure)
{
    if (!departure)
        return;
    g_free(departure->guest);
    g_free(departure->destination);
    g_free(departure->transaction);
    g_free(departure);
}

static Departure *departure_copy(const Departure *departure)
{
    Departure *copy = g_memdup2(departure, sizeof *departure);

    copy->guest = g_strdup(departure->guest);
    copy->destination = g_strdup(departure->destination);
    copy->transaction = g_strdup(departure->transaction);
    return copy;
}

/* ---- as text and as JSON ---- */

static char *describe_age(int64_t seconds)
{
    static const struct {
        int64_t seconds;
        const char *name;
    } units[] = {{86400, "day"}, {3600, "hour"}, {60, "minute"}, {1, "second"}};

    for (guint i = 0; i < G_N_ELEMENTS(units); i++) {
        int64_t count = seconds / units[i].seconds;

        if (count > 0)
            return g_strdup_printf("%" G_GINT64_FORMAT " %s%s ago", (gint64)count, units[i].name,
                                   count == 1 ? "" : "s");
    }
    return g_strdup("just now"); /* or the clock was set back since */
}

char *departure_describe(const Departure *departure, int64_t now)
{
    g_autofree char *age = describe_age(now - departure->time);

    return g_strdup_printf("%s moved to %s %s", departure->guest, departure->destination, age);
}

json_t *departure_to_json(const Departure *departure)
{
    return json_pack("{s:i, s:s, s:s, s:s, s:I}", "format", DEPARTURE_FORMAT, "name",
                     departure->guest, "destination", departure->destination, "transaction",
                     departure->transaction, "moved_at", (json_int_t)departure->time);
}

static gboolean check_destination(const char *destination, GError **error)
{
    size_t length = strlen(destination);

    if (length > 0 && length <= DEPARTURE_MAX_DESTINATION_BYTES)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"destination\" has %zu bytes, 1 to %d are allowed",
              length, DEPARTURE_MAX_DESTINATION_BYTES);
    return FALSE;
}

Departure *departure_from_json(json_t *object, GError **error)
{
    const char *guest, *destination, *transaction;
    uint64_t format, time;
    Departure *departure;

    if (!json_get_count(object, "format", DEPARTURE_FORMAT, &format, error) ||
        !json_get_text(object, "name", &guest, error) || !guest_name_check(guest, error) ||
        !json_get_text(object, "destination", &destination, error) ||
        !check_destination(destination, error) ||
        !json_get_text(object, "transaction", &transaction, error) ||
        !transaction_id_check(transaction, error) ||
        !json_get_count(object, "moved_at", G_MAXINT64, &time, error))
        return NULL;
    departure = g_new0(Departure, 1);
    departure->guest = g_strdup(guest);
    departure->destination = g_strdup(destination);
    departure->transaction = g_strdup(transaction);
    departure->time = (int64_t)time;
    return departure;
}

/* ---- the log ---- */

/* With the lock held. */
static void drop(DepartureLog *log, const char *guest)
{
    state_store_remove(log->store, STORE_DEPARTURE, guest);
    g_hash_table_remove(log->by_guest, guest);
}

static gint compare_times(gconstpointer a, gconstpointer b)
{
    const Departure *one = *(Departure *const *)a, *other = *(Departure *const *)b;

    if (one->time != other->time)
        return one->time > other->time ? -1 : 1;
    return strcmp(one->guest, other->guest);
}

/* With the lock held: the log's own entries, the latest first. */
static GPtrArray *sort(DepartureLog *log)
{
    GPtrArray *list = g_ptr_array_new();
    GHashTableIter iter;
    gpointer departure;

    g_hash_table_iter_init(&iter, log->by_guest);
    while (g_hash_table_iter_next(&iter, NULL, &departure))
        g_ptr_array_add(list, departure);
    g_ptr_array_sort(list, compare_times);
    return list;
}

/* With the lock held. */
static void prune(DepartureLog *log)
{
    g_autoptr(GPtrArray) list = NULL;

    if (g_hash_table_size(log->by_guest) <= DEPARTURES_MAX)
        return;
    list = sort(log);
    for (guint i = DEPARTURES_MAX; i < list->len; i++)
        drop(log, ((Departure *)list->pdata[i])->guest);
}

static Departure *load_one(DepartureLog *log, const char *guest, GError **error)
{
    g_autoptr(json_t) object = state_store_read(log->store, STORE_DEPARTURE, guest, error);
    g_autoptr(Departure) departure = object ? departure_from_json(object, error) : NULL;

    if (departure && strcmp(departure->guest, guest) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "it is of guest \"%s\"", departure->guest);
        return NULL;
    }
    return g_steal_pointer(&departure);
}

DepartureLog *departure_log_open(StateStore *store, GError **error)
{
    g_autoptr(GPtrArray) names = state_store_list(store, STORE_DEPARTURE, error);
    DepartureLog *log;

    if (!names)
        return NULL;
    log = g_new0(DepartureLog, 1);
    log->store = store;
    g_mutex_init(&log->lock);
    log->by_guest =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)departure_free);
    for (guint i = 0; i < names->len; i++) {
        g_autoptr(GError) problem = NULL;
        Departure *departure = load_one(log, names->pdata[i], &problem);

        if (departure)
            g_hash_table_replace(log->by_guest, departure->guest, departure);
        else
            state_store_reject(store, STORE_DEPARTURE, names->pdata[i], problem);
    }
    prune(log);
    return log;
}

void departure_log_close(DepartureLog *log)
{
    if (!log)
        return;
    g_hash_table_unref(log->by_guest);
    g_mutex_clear(&log->lock);
    g_free(log);
}

void departure_log_add(DepartureLog *log, const GuestRecord *record)
{
    Departure seen = {record->name, record->destination, record->transaction,
                      g_get_real_time() / G_USEC_PER_SEC};
    g_autoptr(json_t) object = NULL;
    g_autoptr(GError) problem = NULL;
    Departure *departure;

    if (!record->destination || !record->transaction)
        return;
    object = departure_to_json(&seen);
    departure = departure_copy(&seen);
    g_mutex_lock(&log->lock);
    if (!state_store_write(log->store, STORE_DEPARTURE, seen.guest, object, FALSE, &problem))
        log_warning("where guest %s has gone: %s", seen.guest, problem->message);
    g_hash_table_replace(log->by_guest, departure->guest, departure);
    prune(log);
    g_mutex_unlock(&log->lock);
}

void departure_log_forget(DepartureLog *log, const char *guest)
{
    lock_guard(&log->lock);

    if (g_hash_table_contains(log->by_guest, guest))
        drop(log, guest);
}

Departure *departure_log_find(DepartureLog *log, const char *guest)
{
    lock_guard(&log->lock);
    const Departure *departure = g_hash_table_lookup(log->by_guest, guest);

    return departure ? departure_copy(departure) : NULL;
}

GPtrArray *departure_log_list(DepartureLog *log)
{
    GPtrArray *copies = g_ptr_array_new_with_free_func((GDestroyNotify)departure_free);
    lock_guard(&log->lock);
    g_autoptr(GPtrArray) list = sort(log);

    for (guint i = 0; i < list->len; i++)
        g_ptr_array_add(copies, departure_copy(list->pdata[i]));
    return copies;
}

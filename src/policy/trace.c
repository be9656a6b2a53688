#include "policy/trace.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/page.h"

/* jansson's text, as GLib's allocator knows it. */
static char *line_of(json_t *object)
{
    char *text = json_dumps(object, JSON_LINE);
    char *line = g_strdup(text);

    free(text);
    return line;
}

char *trace_header_line(const guint16 *pages, guint group_count, double bytes_per_ms,
                        const char *guest)
{
    g_autoptr(json_t) object =
        json_pack("{s:i, s:i, s:i, s:o, s:f, s:s}", "trace", TRACE_VERSION, "groups",
                  (int)group_count, "group_pages", (int)GROUP_PAGES, "pages", json_array(),
                  "bytes_per_ms", bytes_per_ms, "guest", guest);

    for (guint i = 0; i < group_count; i++)
        json_array_append_new(json_object_get(object, "pages"), json_integer(pages[i]));
    return line_of(object);
}

char *trace_sync_line(double ms, const TraceDirty *dirty, guint count)
{
    g_autoptr(json_t) object = json_pack("{s:f, s:o}", "ms", ms, "dirty", json_array());

    for (guint i = 0; i < count; i++)
        json_array_append_new(
            json_object_get(object, "dirty"),
            json_pack("[i, i, i]", (int)dirty[i].group, (int)dirty[i].pages, (int)dirty[i].fresh));
    return line_of(object);
}

char *trace_round_line(const TraceRound *round)
{
    g_autoptr(json_t) object = json_pack(
        "{s:f, s:i, s:f, s:f, s:f}", "ms", round->ms, "round", (int)round->round, "sent",
        round->sent_bytes, "wire_per_page", round->wire_per_page, "left", round->left_bytes);

    return line_of(object);
}

char *trace_end_line(double total_ms, double downtime_ms, const char *reason)
{
    g_autoptr(json_t) object = json_pack("{s:f, s:f, s:s}", "total_ms", total_ms, "downtime_ms",
                                         downtime_ms, "reason", reason);

    return line_of(object);
}

static gboolean get_number(json_t *object, const char *key, double max, double *ret, GError **error)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_number(value) || !(json_number_value(value) >= 0) ||
        !(json_number_value(value) <= max)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is missing or no number up to %g", key,
                  max);
        return FALSE;
    }
    *ret = json_number_value(value);
    return TRUE;
}

static gboolean get_exactly(json_t *object, const char *key, uint64_t expected, GError **error)
{
    uint64_t value;

    if (!json_get_count(object, key, G_MAXINT64, &value, error))
        return FALSE;
    if (value != expected) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is %" G_GUINT64_FORMAT ", known is %" G_GUINT64_FORMAT " only", key,
                  (guint64)value, (guint64)expected);
        return FALSE;
    }
    return TRUE;
}

static gboolean parse_header(Trace *trace, json_t *object, GError **error)
{
    uint64_t groups;
    json_t *pages;
    const char *guest;

    if (!get_exactly(object, "trace", TRACE_VERSION, error) ||
        !get_exactly(object, "group_pages", GROUP_PAGES, error) ||
        !json_get_count(object, "groups", TRACE_MAX_GROUPS, &groups, error) ||
        !json_get_array(object, "pages", TRACE_MAX_GROUPS, &pages, error) ||
        !get_number(object, "bytes_per_ms", TRACE_MAX_BYTES, &trace->bytes_per_ms, error) ||
        !json_get_text(object, "guest", &guest, error))
        return FALSE;
    if (groups != json_array_size(pages)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"pages\" has %zu entries, not one of each group",
                  json_array_size(pages));
        return FALSE;
    }
    trace->group_count = (guint)groups;
    trace->guest = g_strdup(guest);
    trace->pages = g_new0(guint16, MAX(groups, 1));
    for (guint i = 0; i < groups; i++) {
        json_t *count = json_array_get(pages, i);

        if (!json_is_integer(count) || json_integer_value(count) < 0 ||
            json_integer_value(count) > GROUP_PAGES) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"pages\": entry %u is no count up to %u", i,
                      GROUP_PAGES);
            return FALSE;
        }
        trace->pages[i] = (guint16)json_integer_value(count);
    }
    return TRUE;
}

/* [group, pages, new], the groups ascending from *least* on. */
static gboolean parse_entry(const Trace *trace, json_t *entry, json_int_t least, TraceDirty *ret,
                            GError **error)
{
    json_int_t values[3] = {-1, -1, -1};

    for (guint i = 0; i < 3 && json_array_size(entry) == 3; i++)
        if (json_is_integer(json_array_get(entry, i)))
            values[i] = json_integer_value(json_array_get(entry, i));
    if (values[0] < least || values[0] >= trace->group_count || values[1] < 1 ||
        values[1] > GROUP_PAGES || values[2] < 0 || values[2] > values[1]) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"dirty\" has what is no [group, pages, new], or is out of order");
        return FALSE;
    }
    *ret = (TraceDirty){(guint32)values[0], (guint16)values[1], (guint16)values[2]};
    return TRUE;
}

static gboolean parse_sync(Trace *trace, json_t *object, double ms, GError **error)
{
    json_int_t least = 0;
    TraceSync sync = {.ms = ms, .first = trace->entries->len};
    json_t *dirty;

    if (!json_get_array(object, "dirty", trace->group_count, &dirty, error))
        return FALSE;
    sync.count = (guint)json_array_size(dirty);
    if (trace->syncs->len >= TRACE_MAX_SYNCS || sync.count > TRACE_MAX_ENTRIES - sync.first) {
        error_set(error, VMFERRY_ERROR_INVALID, "more than %u syncs or %u entries", TRACE_MAX_SYNCS,
                  TRACE_MAX_ENTRIES);
        return FALSE;
    }
    for (guint i = 0; i < sync.count; i++) {
        TraceDirty entry;

        if (!parse_entry(trace, json_array_get(dirty, i), least, &entry, error))
            return FALSE;
        least = entry.group + 1;
        g_array_append_val(trace->entries, entry);
    }
    g_array_append_val(trace->syncs, sync);
    return TRUE;
}

static gboolean parse_round(Trace *trace, json_t *object, double ms, GError **error)
{
    TraceRound round = {.ms = ms, .round = trace->rounds->len};

    if (round.round >= TRACE_MAX_ROUNDS) {
        error_set(error, VMFERRY_ERROR_INVALID, "more than %u rounds", TRACE_MAX_ROUNDS);
        return FALSE;
    }
    if (!get_exactly(object, "round", round.round, error) ||
        !get_number(object, "sent", TRACE_MAX_BYTES, &round.sent_bytes, error) ||
        !get_number(object, "wire_per_page", TRACE_MAX_BYTES, &round.wire_per_page, error) ||
        !get_number(object, "left", TRACE_MAX_BYTES, &round.left_bytes, error))
        return FALSE;
    g_array_append_val(trace->rounds, round);
    return TRUE;
}

static gboolean parse_end(Trace *trace, json_t *object, GError **error)
{
    const char *reason;

    if (!get_number(object, "total_ms", TRACE_MAX_MS, &trace->total_ms, error) ||
        !get_number(object, "downtime_ms", TRACE_MAX_MS, &trace->downtime_ms, error) ||
        !json_get_text(object, "reason", &reason, error))
        return FALSE;
    trace->reason = g_strdup(reason);
    trace->ended = TRUE;
    return TRUE;
}

static gboolean parse_line(Trace *trace, const char *line, size_t length, double *now_ms,
                           GError **error)
{
    g_autoptr(json_t) object = json_parse_object(line, length, TRACE_LINE_LIMIT, error);
    double ms;

    if (!object)
        return FALSE;
    if (!trace->pages)
        return parse_header(trace, object, error);
    if (trace->ended) {
        error_set(error, VMFERRY_ERROR_INVALID, "there is a line behind the last one");
        return FALSE;
    }
    if (json_object_get(object, "total_ms"))
        return parse_end(trace, object, error);
    if (!get_number(object, "ms", TRACE_MAX_MS, &ms, error))
        return FALSE;
    if (ms < *now_ms) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"ms\" is less than before");
        return FALSE;
    }
    *now_ms = ms;
    return json_object_get(object, "round") ? parse_round(trace, object, ms, error)
                                            : parse_sync(trace, object, ms, error);
}

static Trace *trace_new(void)
{
    Trace *trace = g_new0(Trace, 1);

    trace->entries = g_array_new(FALSE, FALSE, sizeof(TraceDirty));
    trace->syncs = g_array_new(FALSE, FALSE, sizeof(TraceSync));
    trace->rounds = g_array_new(FALSE, FALSE, sizeof(TraceRound));
    return trace;
}

Trace *trace_parse(const char *text, size_t length, GError **error)
{
    g_autoptr(Trace) trace = trace_new();
    const char *end = text + length;
    double now_ms = 0;

    for (guint number = 1; text < end; number++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));

        if (!stop)
            stop = end;
        if (!parse_line(trace, text, (size_t)(stop - text), &now_ms, error)) {
            g_prefix_error(error, "line %u: ", number);
            return NULL;
        }
        text = stop < end ? stop + 1 : end;
    }
    if (!trace->pages) {
        error_set(error, VMFERRY_ERROR_INVALID, "no trace: it is empty");
        return NULL;
    }
    return g_steal_pointer(&trace);
}

void trace_free(Trace *trace)
{
    if (!trace)
        return;
    g_free(trace->pages);
    g_free(trace->guest);
    g_free(trace->reason);
    g_array_unref(trace->entries);
    g_array_unref(trace->syncs);
    g_array_unref(trace->rounds);
    g_free(trace);
}

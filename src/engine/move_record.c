#include "engine/move_record.h"

#include "base/names.h"

static const char *const state_names[] = {
    [MOVE_INTENDED] = "intended", [MOVE_ORDERED] = "under-way",   [MOVE_COMPLETED] = "completed",
    [MOVE_FAILED] = "failed",     [MOVE_CANCELLED] = "cancelled", [MOVE_SPLIT] = "split",
    [MOVE_LOST] = "lost",         [MOVE_REFUSED] = "refused",     [MOVE_ABANDONED] = "abandoned",
};
NAMES_DEFINE(move_state, MoveState, state_names)

static const char *const by_names[] = {[MOVE_BY_ENGINE] = "engine",
                                       [MOVE_BY_DRAIN] = "drain",
                                       [MOVE_BY_USER] = "user",
                                       [MOVE_BY_OTHER] = "somebody else"};
NAMES_DEFINE(move_by, MoveBy, by_names)

MoveRecord *move_record_new(const char *guest, const char *from, const char *to, MoveBy by)
{
    MoveRecord *record = g_new0(MoveRecord, 1);

    record->guest = g_strdup(guest);
    record->from = g_strdup(from);
    record->to = g_strdup(to);
    record->by = by;
    record->made_ms = g_get_real_time() / 1000;
    record->hit = -1;
    return record;
}

MoveRecord *move_record_copy(const MoveRecord *record)
{
    MoveRecord *copy = g_memdup2(record, sizeof *record);

    copy->guest = g_strdup(record->guest);
    copy->guest_id = g_strdup(record->guest_id);
    copy->from = g_strdup(record->from);
    copy->to = g_strdup(record->to);
    copy->activity = g_strdup(record->activity);
    copy->problem = g_strdup(record->problem);
    copy->forecast = json_deep_copy(record->forecast);
    copy->outcome = json_deep_copy(record->outcome);
    copy->explanation = json_deep_copy(record->explanation);
    return copy;
}

void move_record_free(MoveRecord *record)
{
    if (!record)
        return;
    g_free(record->guest);
    g_free(record->guest_id);
    g_free(record->from);
    g_free(record->to);
    g_free(record->activity);
    g_free(record->problem);
    json_decref(record->forecast);
    json_decref(record->outcome);
    json_decref(record->explanation);
    g_free(record);
}

static json_t *time_or_null(gint64 ms)
{
    return ms > 0 ? json_real((double)ms / 1e3) : json_null();
}

json_t *move_record_to_json(const MoveRecord *record)
{
    json_t *object = json_pack(
        "{s:I, s:s, s:s?, s:s?, s:s, s:s, s:s?, s:s?, s:O?, s:O?, s:O?}", "id",
        (json_int_t)record->id, "guest", record->guest, "from", record->from, "to", record->to,
        "ordered_by", move_by_name(record->by), "state", move_state_name(record->state), "activity",
        record->activity, "problem", record->problem, "forecast", record->forecast, "outcome",
        record->outcome, "explanation", record->explanation);

    json_object_set_new(object, "made_at", time_or_null(record->made_ms));
    json_object_set_new(object, "ordered_at", time_or_null(record->ordered_ms));
    json_object_set_new(object, "ended_at", time_or_null(record->ended_ms));
    json_object_set_new(object, "progress", json_null());
    json_object_set_new(object, "hit", record->hit < 0 ? json_null() : json_boolean(record->hit));
    return object;
}

/* ---- as a text in a journal ---- */

json_t *move_record_encode(const MoveRecord *m)
{
    return json_pack("{s:I, s:s, s:s?, s:I, s:s?, s:s?, s:s, s:s, s:s?, s:I, s:I, s:I, s:I, s:s?, "
                     "s:O?, s:O?, s:O?, s:i}",
                     "id", (json_int_t)m->id, "guest", m->guest, "guest_id", m->guest_id, "term",
                     (json_int_t)m->term, "from", m->from, "to", m->to, "by", move_by_name(m->by),
                     "state", move_state_name(m->state), "activity", m->activity, "last_event",
                     (json_int_t)m->last_event, "made_ms", (json_int_t)m->made_ms, "ordered_ms",
                     (json_int_t)m->ordered_ms, "ended_ms", (json_int_t)m->ended_ms, "problem",
                     m->problem, "forecast", m->forecast, "outcome", m->outcome, "explanation",
                     m->explanation, "hit", m->hit);
}

static json_t *object_of(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return json_is_object(value) ? json_incref(value) : NULL;
}

static gint64 number_of(json_t *object, const char *key)
{
    return (gint64)MIN(json_count_or(object, key, 0), G_MAXINT64);
}

static int read_hit(json_t *object)
{
    json_t *hit = json_object_get(object, "hit");

    return json_is_integer(hit) ? (int)CLAMP(json_integer_value(hit), -1, 1) : -1;
}

/* What decides whether it is open, and of whom. */
static gboolean read_state(json_t *object, MoveRecord *m, GError **error)
{
    const char *guest, *by, *state;
    uint64_t id;

    if (!json_get_count(object, "id", G_MAXINT64, &id, error) ||
        !json_get_text(object, "guest", &guest, error) ||
        !json_get_text(object, "by", &by, error) || !json_get_text(object, "state", &state, error))
        return FALSE;
    m->id = (gint64)id;
    m->guest = g_strdup(guest);
    if (!move_by_from_name(by, &m->by))
        m->by = MOVE_BY_OTHER;
    /* Of a state that nobody knows nothing is expected any more. */
    if (!move_state_from_name(state, &m->state))
        m->state = MOVE_LOST;
    return TRUE;
}

MoveRecord *move_record_decode(json_t *object, GError **error)
{
    g_autoptr(MoveRecord) m = g_new0(MoveRecord, 1);

    if (!read_state(object, m, error))
        return NULL;
    m->guest_id = g_strdup(json_text_or(object, "guest_id", NULL));
    m->term = number_of(object, "term");
    m->from = g_strdup(json_text_or(object, "from", NULL));
    m->to = g_strdup(json_text_or(object, "to", NULL));
    m->activity = g_strdup(json_text_or(object, "activity", NULL));
    m->last_event = number_of(object, "last_event");
    m->made_ms = number_of(object, "made_ms");
    m->ordered_ms = number_of(object, "ordered_ms");
    m->ended_ms = number_of(object, "ended_ms");
    m->problem = g_strdup(json_text_or(object, "problem", NULL));
    m->forecast = object_of(object, "forecast");
    m->outcome = object_of(object, "outcome");
    m->explanation = object_of(object, "explanation");
    m->hit = read_hit(object);
    return g_steal_pointer(&m);
}

gboolean move_state_is_open(MoveState state)
{
    return state == MOVE_INTENDED || state == MOVE_ORDERED;
}

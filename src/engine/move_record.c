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

gboolean move_state_is_open(MoveState state)
{
    return state == MOVE_INTENDED || state == MOVE_ORDERED;
}

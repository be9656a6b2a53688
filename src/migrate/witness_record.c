#include "migrate/witness_record.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/name.h"
#include "wire/messages.h"

#define RECORD_FORMAT 1
#define MAX_NAME_BYTES 255

void witness_record_clear(WitnessRecord *record)
{
    g_free(record->guest);
    g_free(record->guest_id);
    g_free(record->parties[WITNESS_ROLE_SOURCE]);
    g_free(record->parties[WITNESS_ROLE_DESTINATION]);
    g_free(record->destination_name);
    *record = (WitnessRecord){0};
}

char *witness_record_encode(const WitnessRecord *record, const char *transaction,
                            WitnessState state)
{
    g_autoptr(json_t) object = json_pack(
        "{s:i, s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:i, s:s}", "format", RECORD_FORMAT,
        "transaction", transaction, "guest", record->guest, "guest_id", record->guest_id, "term",
        (json_int_t)record->term, "source", record->parties[WITNESS_ROLE_SOURCE], "destination",
        record->parties[WITNESS_ROLE_DESTINATION], "destination_name", record->destination_name,
        "lease_ms", (int)record->lease_ms, "state", witness_state_name(state));

    return object ? json_dumps(object, JSON_LINE) : NULL;
}

static gboolean get_id(json_t *object, const char *key, char **ret, GError **error)
{
    const char *id;

    if (!json_get_text(object, key, &id, error))
        return FALSE;
    if (!random_id_is_valid(id)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is no id", key);
        return FALSE;
    }
    *ret = g_strdup(id);
    return TRUE;
}

static gboolean decode_guest(json_t *object, const char *transaction, WitnessRecord *ret,
                             GError **error)
{
    const char *name, *guest;

    if (!json_get_text(object, "transaction", &name, error) ||
        !json_get_text(object, "guest", &guest, error) || !guest_name_check(guest, error) ||
        !get_id(object, "guest_id", &ret->guest_id, error) ||
        !json_get_count(object, "term", MESSAGE_MAX_TERM, &ret->term, error))
        return FALSE;
    ret->guest = g_strdup(guest);
    if (strcmp(name, transaction) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "it is of another transaction");
    return FALSE;
}

static gboolean decode_parties(json_t *object, WitnessRecord *ret, GError **error)
{
    const char *name;

    if (!get_id(object, "source", &ret->parties[WITNESS_ROLE_SOURCE], error) ||
        !get_id(object, "destination", &ret->parties[WITNESS_ROLE_DESTINATION], error) ||
        !json_get_text(object, "destination_name", &name, error))
        return FALSE;
    ret->destination_name = g_strdup(name);
    if (strlen(name) <= MAX_NAME_BYTES &&
        strcmp(ret->parties[WITNESS_ROLE_SOURCE], ret->parties[WITNESS_ROLE_DESTINATION]) != 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"destination\" or its name is not valid");
    return FALSE;
}

static gboolean get_lease_ms(json_t *object, uint64_t least, guint *ret, GError **error)
{
    uint64_t ms;

    if (!json_get_count(object, "lease_ms", WITNESS_MAX_LEASE_MS, &ms, error))
        return FALSE;
    *ret = (guint)ms;
    if (ms >= least)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"lease_ms\" is too short");
    return FALSE;
}

static gboolean decode_state(json_t *object, WitnessRecord *ret, GError **error)
{
    const char *state;

    if (!json_get_text(object, "state", &state, error) ||
        !get_lease_ms(object, WITNESS_MIN_LEASE_MS, &ret->lease_ms, error))
        return FALSE;
    if (witness_state_from_name(state, &ret->state))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"state\" is none");
    return FALSE;
}

static json_t *parse_value(const char *text, size_t length, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, WITNESS_RECORD_MAX_BYTES, error);
    uint64_t format;

    return object && json_get_count(object, "format", RECORD_FORMAT, &format, error)
               ? g_steal_pointer(&object)
               : NULL;
}

gboolean witness_record_decode(const char *text, size_t length, const char *transaction,
                               WitnessRecord *ret, GError **error)
{
    g_autoptr(json_t) object = parse_value(text, length, error);

    return object && decode_guest(object, transaction, ret, error) &&
           decode_parties(object, ret, error) && decode_state(object, ret, error);
}

char *witness_lease_encode(guint lease_ms)
{
    g_autoptr(json_t) object =
        json_pack("{s:i, s:i}", "format", RECORD_FORMAT, "lease_ms", (int)lease_ms);

    return json_dumps(object, JSON_LINE);
}

gboolean witness_lease_decode(const char *text, size_t length, guint *ret, GError **error)
{
    g_autoptr(json_t) object = parse_value(text, length, error);

    return object && get_lease_ms(object, 1, ret, error);
}

#include "wire/witness_message.h"

#include <string.h>

#include "base/error.h"
#include "base/names.h"
#include "wire/json_fields.h"

#define MAX_NAME_BYTES 32
#define MAX_GUEST_BYTES 128
#define MAX_HOST_BYTES 255
#define MAX_REASON_BYTES 1024
#define MAX_WAIT_MS (4 * WITNESS_MAX_LEASE_MS)

static const char *const state_names[] = {
    [WITNESS_UNDECIDED] = "undecided",
    [WITNESS_DESTINATION_ALONE] = "destination-alone",
    [WITNESS_SOURCE_MAY] = "source-may-take-over",
};
NAMES_DEFINE(witness_state, WitnessState, state_names)

static const char *const kind_names[] = {
    [WITNESS_REGISTER] = "register",   [WITNESS_RENEW] = "renew",   [WITNESS_CLAIM] = "claim",
    [WITNESS_GIVE_BACK] = "give-back", [WITNESS_FORGET] = "forget", [WITNESS_ASK] = "ask",
};
NAMES_DEFINE(witness_request_kind, WitnessRequestKind, kind_names)

/* ---- requests ---- */

void witness_request_clear(WitnessRequest *request)
{
    g_clear_pointer(&request->transaction, g_free);
    g_clear_pointer(&request->guest, g_free);
    g_clear_pointer(&request->guest_id, g_free);
    g_clear_pointer(&request->destination, g_free);
    g_clear_pointer(&request->destination_name, g_free);
}

static void encode_registration(const WitnessRequest *request, json_t *object)
{
    json_object_set_new(object, "guest", json_field_make_text(request->guest));
    json_object_set_new(object, "guest_id", json_field_make_text(request->guest_id));
    json_object_set_new(object, "term", json_integer((json_int_t)request->term));
    json_object_set_new(object, "destination", json_field_make_text(request->destination));
    json_object_set_new(object, "destination_name",
                        json_field_make_text(request->destination_name));
    json_object_set_new(object, "lease_ms", json_integer((json_int_t)request->lease_ms));
}

char *witness_request_encode(const WitnessRequest *request)
{
    json_t *object = json_object();

    json_object_set_new(object, "number", json_integer((json_int_t)request->number));
    json_object_set_new(object, "request", json_string(witness_request_kind_name(request->kind)));
    json_object_set_new(object, "transaction", json_field_make_text(request->transaction));
    if (request->kind == WITNESS_REGISTER)
        encode_registration(request, object);
    if (request->kind == WITNESS_RENEW && request->lease_ms > 0)
        json_object_set_new(object, "lease_ms", json_integer((json_int_t)request->lease_ms));
    return json_field_finish(object);
}

static gboolean decode_kind(json_t *object, WitnessRequestKind *ret, GError **error)
{
    g_autofree char *name = NULL;

    if (!json_field_text(object, "request", MAX_NAME_BYTES, TRUE, &name, error))
        return FALSE;
    if (witness_request_kind_from_name(name, ret))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "\"%s\" is not a request to a witness", name);
    return FALSE;
}

static gboolean decode_lease(json_t *object, guint *ret_ms, GError **error)
{
    uint64_t lease_ms;

    if (!json_get_count(object, "lease_ms", WITNESS_MAX_LEASE_MS, &lease_ms, error))
        return FALSE;
    *ret_ms = (guint)lease_ms;
    if (lease_ms >= WITNESS_MIN_LEASE_MS)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"lease_ms\" is less than %d", WITNESS_MIN_LEASE_MS);
    return FALSE;
}

static gboolean decode_renewal(json_t *object, WitnessRequest *request, GError **error)
{
    uint64_t lease_ms;

    if (!json_object_get(object, "lease_ms"))
        return TRUE;
    if (!json_get_count(object, "lease_ms", WITNESS_MAX_LEASE_MS, &lease_ms, error))
        return FALSE;
    request->lease_ms = (guint)lease_ms;
    return TRUE;
}

static gboolean decode_registration(json_t *object, WitnessRequest *request, GError **error)
{
    return json_field_text(object, "guest", MAX_GUEST_BYTES, TRUE, &request->guest, error) &&
           json_field_id(object, "guest_id", &request->guest_id, error) &&
           json_field_term(object, &request->term, error) &&
           json_field_id(object, "destination", &request->destination, error) &&
           json_field_text(object, "destination_name", MAX_HOST_BYTES, FALSE,
                           &request->destination_name, error) &&
           decode_lease(object, &request->lease_ms, error);
}

gboolean witness_request_decode(const char *text, size_t length, WitnessRequest *ret,
                                GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, WITNESS_FRAME_BYTES, error);
    g_auto(WitnessRequest) request = {0};

    if (!object || !json_get_count(object, "number", WITNESS_MAX_NUMBER, &request.number, error) ||
        !decode_kind(object, &request.kind, error) ||
        !json_field_id(object, "transaction", &request.transaction, error) ||
        (request.kind == WITNESS_REGISTER && !decode_registration(object, &request, error)) ||
        (request.kind == WITNESS_RENEW && !decode_renewal(object, &request, error))) {
        g_prefix_error(error, "WITNESS_REQUEST: ");
        return FALSE;
    }
    *ret = request;
    request = (WitnessRequest){0};
    return TRUE;
}

/* ---- answers ---- */

void witness_answer_clear(WitnessAnswer *answer)
{
    g_clear_error(&answer->refusal);
}

/* Without what json_field_text() refuses. */
static char *make_reason(const char *message)
{
    g_autofree char *valid = g_utf8_make_valid(message, -1);
    const char *end = valid;

    for (char *at = valid; *at; at++)
        if ((guchar)*at < 0x20 || *at == 0x7f)
            *at = ' ';
    while (*end && g_utf8_next_char(end) - valid <= MAX_REASON_BYTES)
        end = g_utf8_next_char(end);
    return g_strndup(valid, (gsize)(end - valid));
}

static void encode_refusal(const GError *refusal, json_t *object)
{
    VmferryErrorCode code =
        refusal->domain == VMFERRY_ERROR ? (VmferryErrorCode)refusal->code : VMFERRY_ERROR_FAILED;
    g_autofree char *reason = make_reason(refusal->message);

    json_object_set_new(object, "code", json_string(vmferry_error_code_name(code)));
    json_object_set_new(object, "message", json_string(reason));
}

char *witness_answer_encode(const WitnessAnswer *answer)
{
    json_t *object = json_object();

    json_object_set_new(object, "number", json_integer((json_int_t)answer->number));
    json_object_set_new(object, "state", json_string(witness_state_name(answer->state)));
    if (answer->lease_ms > 0)
        json_object_set_new(object, "lease_ms", json_integer((json_int_t)answer->lease_ms));
    if (answer->wait_ms > 0)
        json_object_set_new(object, "wait_ms", json_integer((json_int_t)answer->wait_ms));
    if (answer->refusal)
        encode_refusal(answer->refusal, object);
    return json_field_finish(object);
}

static gboolean decode_state(json_t *object, WitnessState *ret, GError **error)
{
    g_autofree char *name = NULL;

    if (!json_field_text(object, "state", MAX_NAME_BYTES, TRUE, &name, error))
        return FALSE;
    if (witness_state_from_name(name, ret))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a state of a transaction", name);
    return FALSE;
}

/* May be missing: 0. */
static gboolean decode_ms(json_t *object, const char *key, guint max, guint *ret_ms, GError **error)
{
    uint64_t ms = 0;

    if (json_object_get(object, key) && !json_get_count(object, key, max, &ms, error))
        return FALSE;
    *ret_ms = (guint)ms;
    return TRUE;
}

static gboolean decode_refusal(json_t *object, GError **ret, GError **error)
{
    g_autofree char *code = NULL, *reason = NULL;

    if (!json_object_get(object, "code"))
        return TRUE;
    if (!json_field_text(object, "code", MAX_NAME_BYTES, TRUE, &code, error) ||
        !json_field_text(object, "message", MAX_REASON_BYTES, FALSE, &reason, error))
        return FALSE;
    error_set(ret, vmferry_error_code_from_name(code), "%s", *reason ? reason : "refused");
    return TRUE;
}

gboolean witness_answer_decode(const char *text, size_t length, WitnessAnswer *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, WITNESS_FRAME_BYTES, error);
    g_auto(WitnessAnswer) answer = {0};

    if (!object || !json_get_count(object, "number", WITNESS_MAX_NUMBER, &answer.number, error) ||
        !decode_state(object, &answer.state, error) ||
        !decode_ms(object, "lease_ms", WITNESS_MAX_LEASE_MS, &answer.lease_ms, error) ||
        !decode_ms(object, "wait_ms", MAX_WAIT_MS, &answer.wait_ms, error) ||
        !decode_refusal(object, &answer.refusal, error)) {
        g_prefix_error(error, "WITNESS_ANSWER: ");
        return FALSE;
    }
    *ret = answer;
    answer = (WitnessAnswer){0};
    return TRUE;
}

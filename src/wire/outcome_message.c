/*
 * The small messages around the switchover: READY, START, RESOLVE, OUTCOME
 */
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "wire/json_fields.h"
#include "wire/messages.h"

#define MAX_BYTES 65536
#define MAX_OUTCOME_BYTES 16

static const char *const outcome_names[] = {
    [OUTCOME_COMMITTED] = "committed",
    [OUTCOME_ABORTED] = "aborted",
    [OUTCOME_PENDING] = "pending",
    [OUTCOME_LOST] = "lost",
};
G_STATIC_ASSERT(G_N_ELEMENTS(outcome_names) == OUTCOME_LOST + 1);

/* ---- READY ---- */

char *ready_message_encode(const ReadyMessage *message)
{
    double load_ms = isfinite(message->load_ms) ? message->load_ms : 0;
    json_t *object = json_object();

    json_object_set_new(object, "verified", json_boolean(message->verified));
    json_object_set_new(object, "load_ms", json_real(load_ms));
    return json_field_finish(object);
}

gboolean ready_message_decode(const char *text, size_t length, ReadyMessage *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    json_t *verified = json_object_get(object, "verified");
    json_t *load_ms = json_object_get(object, "load_ms");

    if (!object) {
        g_prefix_error(error, "READY: ");
        return FALSE;
    }
    if (!json_is_boolean(verified) || !json_is_number(load_ms) || json_number_value(load_ms) < 0) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "READY: \"verified\" or \"load_ms\" is missing or of the wrong kind");
        return FALSE;
    }
    *ret =
        (ReadyMessage){.verified = json_is_true(verified), .load_ms = json_number_value(load_ms)};
    return TRUE;
}

/* ---- START ---- */

void start_message_encode(const StartMessage *message, uint8_t ret[START_MESSAGE_BYTES])
{
    uint64_t term = GUINT64_TO_LE(message->term);

    ret[0] = message->run ? 1 : 0;
    memcpy(ret + 1, &term, sizeof term);
}

gboolean start_message_decode(const uint8_t *payload, size_t length, StartMessage *ret,
                              GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint8_t run = byte_read_u8(&reader);
    uint64_t term = byte_read_le64(&reader);

    if (!byte_reader_ok(&reader) || reader.left > 0 || run > 1 || term == 0 ||
        term > MESSAGE_MAX_TERM) {
        error_set(error, VMFERRY_ERROR_INVALID, "malformed START frame");
        return FALSE;
    }
    *ret = (StartMessage){.run = run == 1, .term = term};
    return TRUE;
}

/* ---- RESOLVE and OUTCOME ---- */

const char *transaction_outcome_name(TransactionOutcome outcome)
{
    return (guint)outcome < G_N_ELEMENTS(outcome_names) ? outcome_names[outcome] : "unknown";
}

void resolve_message_clear(ResolveMessage *message)
{
    g_clear_pointer(&message->transaction, g_free);
    g_clear_pointer(&message->guest_id, g_free);
}

char *resolve_message_encode(const ResolveMessage *message)
{
    json_t *object = json_object();

    json_object_set_new(object, "transaction", json_field_make_text(message->transaction));
    json_object_set_new(object, "guest_id", json_field_make_text(message->guest_id));
    json_object_set_new(object, "term", json_integer((json_int_t)message->term));
    return json_field_finish(object);
}

gboolean resolve_message_decode(const char *text, size_t length, ResolveMessage *ret,
                                GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_auto(ResolveMessage) message = {0};

    if (!object || !json_field_id(object, "transaction", &message.transaction, error) ||
        !json_field_id(object, "guest_id", &message.guest_id, error) ||
        !json_field_term(object, &message.term, error)) {
        g_prefix_error(error, "RESOLVE: ");
        return FALSE;
    }
    *ret = message;
    message = (ResolveMessage){0};
    return TRUE;
}

char *outcome_message_encode(const char *transaction, const OutcomeMessage *message)
{
    json_t *object = json_object();

    json_object_set_new(object, "transaction", json_field_make_text(transaction));
    json_object_set_new(object, "outcome", json_string(transaction_outcome_name(message->outcome)));
    if (message->term > 0)
        json_object_set_new(object, "term", json_integer((json_int_t)message->term));
    return json_field_finish(object);
}

static gboolean decode_outcome(json_t *object, TransactionOutcome *ret, GError **error)
{
    g_autofree char *name = NULL;

    if (!json_field_text(object, "outcome", MAX_OUTCOME_BYTES, TRUE, &name, error))
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(outcome_names); i++)
        if (strcmp(name, outcome_names[i]) == 0) {
            *ret = (TransactionOutcome)i;
            return TRUE;
        }
    error_set(error, VMFERRY_ERROR_INVALID, "\"outcome\" is \"%s\", which is none", name);
    return FALSE;
}

static gboolean decode_answer(json_t *object, const char *transaction, OutcomeMessage *ret,
                              GError **error)
{
    g_autofree char *about = NULL;

    *ret = (OutcomeMessage){0};
    if (!json_field_id(object, "transaction", &about, error))
        return FALSE;
    if (strcmp(about, transaction) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "it is about transaction %s, not %s", about,
                  transaction);
        return FALSE;
    }
    if (!decode_outcome(object, &ret->outcome, error))
        return FALSE;
    return (ret->outcome != OUTCOME_COMMITTED && !json_object_get(object, "term")) ||
           json_field_term(object, &ret->term, error);
}

gboolean outcome_message_decode(const char *text, size_t length, const char *transaction,
                                OutcomeMessage *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);

    if (object && decode_answer(object, transaction, ret, error))
        return TRUE;
    g_prefix_error(error, "OUTCOME: ");
    return FALSE;
}

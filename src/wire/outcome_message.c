/*
 * The small messages around the switchover: READY, RESOLVE, OUTCOME
 */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "wire/json_fields.h"
#include "wire/messages.h"

#define MAX_BYTES 65536
#define TRANSACTION_DIGITS 32
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

/* ---- RESOLVE and OUTCOME ---- */

const char *transaction_outcome_name(TransactionOutcome outcome)
{
    return (guint)outcome < G_N_ELEMENTS(outcome_names) ? outcome_names[outcome] : "unknown";
}

static gboolean decode_transaction(json_t *object, char **ret, GError **error)
{
    g_autofree char *transaction = NULL;

    if (!json_field_text(object, "transaction", TRANSACTION_DIGITS, TRUE, &transaction, error))
        return FALSE;
    if (!json_field_is_hex(transaction, TRANSACTION_DIGITS)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"transaction\" is not of %d hex digits",
                  TRANSACTION_DIGITS);
        return FALSE;
    }
    *ret = g_steal_pointer(&transaction);
    return TRUE;
}

char *resolve_message_encode(const char *transaction)
{
    json_t *object = json_object();

    json_object_set_new(object, "transaction", json_field_make_text(transaction));
    return json_field_finish(object);
}

gboolean resolve_message_decode(const char *text, size_t length, char **ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);

    if (object && decode_transaction(object, ret, error))
        return TRUE;
    g_prefix_error(error, "RESOLVE: ");
    return FALSE;
}

char *outcome_message_encode(const char *transaction, TransactionOutcome outcome)
{
    json_t *object = json_object();

    json_object_set_new(object, "transaction", json_field_make_text(transaction));
    json_object_set_new(object, "outcome", json_string(transaction_outcome_name(outcome)));
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

gboolean outcome_message_decode(const char *text, size_t length, const char *transaction,
                                TransactionOutcome *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_autofree char *about = NULL;

    if (!object || !decode_transaction(object, &about, error)) {
        g_prefix_error(error, "OUTCOME: ");
        return FALSE;
    }
    if (strcmp(about, transaction) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "OUTCOME: it is about transaction %s, not %s",
                  about, transaction);
        return FALSE;
    }
    if (decode_outcome(object, ret, error))
        return TRUE;
    g_prefix_error(error, "OUTCOME: ");
    return FALSE;
}

/*
 * The small messages: HELLO, READY, RESOLVE, OUTCOME, ERROR
 *
 * The first byte chooses which; the rest is the text.
 */
#include <stdlib.h>
#include <string.h>

#include "wire/error_message.h"
#include "wire/messages.h"

#define TRANSACTION "0123456789abcdef0123456789abcdef"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_hello(const char *text, size_t length)
{
    HelloMessage message = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!hello_message_decode(text, length, &message, NULL))
        return;
    again = hello_message_encode(&message);
    if (!hello_message_decode(again, strlen(again), &back, NULL))
        abort();
    hello_message_clear(&message);
    hello_message_clear(&back);
}

static void try_ready(const char *text, size_t length)
{
    g_autofree char *again = NULL;
    ReadyMessage message;

    if (!ready_message_decode(text, length, &message, NULL))
        return;
    again = ready_message_encode(&message);
    if (!ready_message_decode(again, strlen(again), &message, NULL))
        abort();
}

static void try_resolve(const char *text, size_t length)
{
    g_autofree char *transaction = NULL;

    if (resolve_message_decode(text, length, &transaction, NULL) && strlen(transaction) != 32)
        abort();
}

static void try_outcome(const char *text, size_t length)
{
    TransactionOutcome outcome;

    if (outcome_message_decode(text, length, TRANSACTION, &outcome, NULL) &&
        (guint)outcome > OUTCOME_LOST)
        abort();
}

static void try_error(const char *text, size_t length)
{
    g_autoptr(GError) error = NULL;

    error_message_decode(text, length, "peer", &error);
    if (!error || strchr(error->message, '\033') || !g_utf8_validate(error->message, -1, NULL))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const tries[])(const char *text, size_t length) = {
        try_hello, try_ready, try_resolve, try_outcome, try_error};

    if (size > 0)
        tries[(guint)data[0] % G_N_ELEMENTS(tries)]((const char *)data + 1, size - 1);
    return 0;
}

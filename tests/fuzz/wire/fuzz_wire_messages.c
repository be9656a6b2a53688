/*
 * The small messages: HELLO, READY, RESOLVE, OUTCOME, ERROR, START, PROTECT, SAVE, SAVED, SAVE_BASE
 *
 * The first byte ("0" to "9", in this order) chooses which; the rest is the payload.
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
    g_auto(ResolveMessage) message = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!resolve_message_decode(text, length, &message, NULL))
        return;
    again = resolve_message_encode(&message);
    if (!resolve_message_decode(again, strlen(again), &back, NULL) ||
        strcmp(back.transaction, message.transaction) != 0 ||
        strcmp(back.guest_id, message.guest_id) != 0 || back.term != message.term)
        abort();
}

static void try_protect(const char *text, size_t length)
{
    g_auto(ProtectMessage) message = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!protect_message_decode(text, length, &message, NULL))
        return;
    again = protect_message_encode(&message);
    if (!protect_message_decode(again, strlen(again), &back, NULL) || back.port != message.port ||
        back.image_count != message.image_count || back.sync != message.sync ||
        back.overhead_percent != message.overhead_percent ||
        back.copies_writes != message.copies_writes)
        abort();
}

static void try_save(const char *text, size_t length)
{
    g_auto(SaveMessage) message = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!save_message_decode(text, length, &message, NULL))
        return;
    again = save_message_encode(&message);
    if (!save_message_decode(again, strlen(again), &back, NULL) ||
        strcmp(back.path, message.path) != 0 || back.replace != message.replace ||
        g_strcmp0(back.base, message.base) != 0)
        abort();
}

static void try_saved(const char *text, size_t length)
{
    g_auto(SavedMessage) message = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!saved_message_decode(text, length, &message, NULL))
        return;
    again = saved_message_encode(&message);
    if (!saved_message_decode(again, strlen(again), &back, NULL) ||
        strcmp(back.id, message.id) != 0 || back.bytes != message.bytes ||
        back.above_base != message.above_base || back.stored != message.stored)
        abort();
}

static void try_save_base(const char *text, size_t length)
{
    g_auto(SaveBaseMessage) message = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!save_base_message_decode(text, length, &message, NULL))
        return;
    again = save_base_message_encode(&message);
    if (!save_base_message_decode(again, strlen(again), &back, NULL) ||
        strcmp(back.id, message.id) != 0 || back.disk_count != message.disk_count)
        abort();
}

static void try_outcome(const char *text, size_t length)
{
    g_autofree char *again = NULL;
    OutcomeMessage message, back;

    if (!outcome_message_decode(text, length, TRANSACTION, &message, NULL))
        return;
    again = outcome_message_encode(TRANSACTION, &message);
    if (!outcome_message_decode(again, strlen(again), TRANSACTION, &back, NULL) ||
        back.outcome != message.outcome || back.term != message.term)
        abort();
}

static void try_start(const char *payload, size_t length)
{
    uint8_t again[START_MESSAGE_BYTES];
    StartMessage message;

    if (!start_message_decode((const uint8_t *)payload, length, &message, NULL))
        return;
    start_message_encode(&message, again);
    if (length != sizeof again || memcmp(payload, again, length) != 0)
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
        try_hello, try_ready,   try_resolve, try_outcome, try_error,
        try_start, try_protect, try_save,    try_saved,   try_save_base};

    if (size > 0)
        tries[(guint8)(data[0] - '0') % G_N_ELEMENTS(tries)]((const char *)data + 1, size - 1);
    return 0;
}

/* Requests to a witness (the first byte is "0") and its answers ("1"): what is understood is said the
 * same again. */
#include <stdlib.h>
#include <string.h>

#include "wire/witness_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_request(const char *text, size_t length)
{
    g_auto(WitnessRequest) message = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!witness_request_decode(text, length, &message, NULL))
        return;
    again = witness_request_encode(&message);
    if (!witness_request_decode(again, strlen(again), &back, NULL) || back.kind != message.kind ||
        back.number != message.number || strcmp(back.transaction, message.transaction) != 0 ||
        g_strcmp0(back.destination, message.destination) != 0 || back.term != message.term ||
        back.lease_ms != message.lease_ms)
        abort();
}

static void try_answer(const char *text, size_t length)
{
    g_auto(WitnessAnswer) message = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!witness_answer_decode(text, length, &message, NULL))
        return;
    again = witness_answer_encode(&message);
    if (!witness_answer_decode(again, strlen(again), &back, NULL) || back.state != message.state ||
        back.lease_ms != message.lease_ms || !back.refusal != !message.refusal)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && data[0] % 2 == 0)
        try_request((const char *)data + 1, size - 1);
    else if (size > 0)
        try_answer((const char *)data + 1, size - 1);
    return 0;
}

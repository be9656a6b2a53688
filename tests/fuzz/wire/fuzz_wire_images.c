/* IMAGES and IMAGES_SEEN: what is taken comes out the same after encoding. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "wire/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_questions(const char *text, size_t size)
{
    g_auto(ImagesMessage) message = {0};
    g_auto(ImagesMessage) back = {0};
    g_autofree char *again = NULL;

    if (!images_message_decode(text, size, &message, NULL))
        return;
    again = images_message_encode(&message);
    if (!images_message_decode(again, strlen(again), &back, NULL) || back.count != message.count)
        abort();
}

static void check_answers(const char *text, size_t size)
{
    g_auto(ImagesSeenMessage) message = {0};
    g_auto(ImagesSeenMessage) back = {0};
    g_autofree char *again = NULL;

    if (!images_seen_message_decode(text, size, &message, NULL))
        return;
    again = images_seen_message_encode(&message);
    if (!images_seen_message_decode(again, strlen(again), &back, NULL) ||
        back.count != message.count)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_questions((const char *)data, size);
    check_answers((const char *)data, size);
    return 0;
}

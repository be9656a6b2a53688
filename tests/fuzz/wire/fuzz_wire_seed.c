/* SEED_PAGES and SEED_DIGESTS payloads: what is accepted lies in its region and list, and encodes to the same
 * bytes; SEED's messages encode to what decodes.  The first byte says which it is. */
#include <stdlib.h>
#include <string.h>

#include "wire/messages.h"
#include "wire/seed_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DIGESTS 1000u

static void require_same(const GByteArray *again, const uint8_t *data, size_t size)
{
    if (again->len != size || memcmp(again->data, data, size) != 0)
        abort();
}

static void try_pages(const uint8_t *data, size_t size)
{
    static const uint64_t regions[] = {16, 1ULL << 34, 0, 300};
    static SeedPagesFrame frame;
    g_autoptr(GByteArray) again = NULL;
    uint64_t next = 0, pages = 0;

    if (!seed_pages_decode(data, size, regions, G_N_ELEMENTS(regions), DIGESTS, &frame, NULL))
        return;
    for (uint32_t i = 0; i < frame.run_count; i++) {
        const SeedRun *run = &frame.runs[i];

        if (run->count == 0 || run->first < next ||
            run->first + run->count > regions[frame.region] || run->number + run->count > DIGESTS)
            abort();
        next = run->first + run->count;
        pages += run->count;
    }
    if (pages != frame.pages || pages > SEED_FRAME_MAX_PAGES)
        abort();
    again = g_byte_array_new();
    seed_pages_encode(again, frame.region, frame.runs, frame.run_count, frame.proof);
    require_same(again, data, size);
}

static void try_digests(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) again = NULL;
    SeedDigestsFrame frame;

    if (!seed_digests_decode(data, size, 3, DIGESTS, &frame, NULL))
        return;
    if (frame.count > DIGESTS - 3)
        abort();
    again = g_byte_array_new();
    seed_digests_encode_head(again, 3, frame.last);
    for (uint32_t i = 0; i < frame.count; i++)
        seed_digests_append(again, seed_digests_next(&frame));
    if (!byte_reader_ok(&frame.reader))
        abort();
    require_same(again, data, size);
}

static void try_message(const char *text, size_t size)
{
    g_auto(SeedMessage) message = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!seed_message_decode(text, size, &message, NULL))
        return;
    again = seed_message_encode(&message);
    if (!seed_message_decode(again, strlen(again), &back, NULL) ||
        strcmp(message.path, back.path) != 0 || message.most != back.most)
        abort();
}

static void try_answer(const char *text, size_t size)
{
    g_auto(SeedAnswer) answer = {0}, back = {0};
    g_autofree char *again = NULL;

    if (!seed_answer_decode(text, size, &answer, NULL))
        return;
    again = seed_answer_encode(&answer);
    if (!seed_answer_decode(again, strlen(again), &back, NULL) || strcmp(answer.id, back.id) != 0 ||
        answer.pages != back.pages || answer.key != back.key)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    switch (data[0] % 4) {
    case 0:
        try_pages(data + 1, size - 1);
        break;
    case 1:
        try_digests(data + 1, size - 1);
        break;
    case 2:
        try_message((const char *)data + 1, size - 1);
        break;
    default:
        try_answer((const char *)data + 1, size - 1);
        break;
    }
    return 0;
}

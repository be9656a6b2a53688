/*
 * Unpacking what a stranger packed, and packing what guests hold
 *
 * The first byte chooses the method, the two behind it how many bytes shall come
 * out; the rest is taken once as packed data and once as data to be packed.
 */
#include <stdlib.h>
#include <string.h>

#include "page/pack.h"

#define LONGEST 65536u
#define GUARD_BYTES 4096u
#define GUARD 0x5a

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The codecs themselves aren't instrumented: guard bytes stand behind what they
 * may write. */
static void check_guard(const uint8_t *out, size_t length)
{
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (out[length + i] != GUARD)
            abort();
}

static void try_unpack(PackContext *context, PackMethod method, const uint8_t *in, size_t packed,
                       size_t length)
{
    g_autofree uint8_t *out = g_malloc(length + GUARD_BYTES);
    g_autoptr(GError) error = NULL;

    memset(out + length, GUARD, GUARD_BYTES);
    if (unpack(context, method, in, packed, out, length, &error) == (error != NULL))
        abort();
    check_guard(out, length);
}

static void try_pack(PackContext *context, PackMethod method, const uint8_t *in, size_t length,
                     size_t capacity)
{
    g_autofree uint8_t *out = g_malloc(capacity + GUARD_BYTES);
    g_autofree uint8_t *back = g_malloc(length + GUARD_BYTES);
    size_t packed;

    memset(out + capacity, GUARD, GUARD_BYTES);
    packed = pack(context, method, 0, in, length, out, capacity);
    check_guard(out, capacity);
    if (packed == 0)
        return;
    if (packed >= length || packed > capacity ||
        !unpack(context, method, out, packed, back, length, NULL) || memcmp(back, in, length) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static PackContext *context;
    PackMethod method;
    size_t length;

    if (size < 3)
        return 0;
    if (!context)
        context = pack_context_new();
    method = (PackMethod)(data[0] % 4); /* 3 is unknown */
    length = (size_t)(data[1] | data[2] << 8) % LONGEST;
    try_unpack(context, method, data + 3, size - 3, length);
    try_pack(context, method, data + 3, size - 3, length);
    return 0;
}

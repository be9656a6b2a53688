/*
 * Unpacking pieces of windows that a stranger has made
 *
 * Pieces, one behind the other: a byte that says with its lowest bit whether a window begins, two for how
 * many bytes shall come out, two for how many the piece has, and the piece.
 */
#include <stdlib.h>
#include <string.h>

#include "page/pack_window.h"

#define HEAD_BYTES 5u
#define GUARD_BYTES 4096u
#define GUARD 0x5a

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The codec itself is not instrumented: guard bytes stand behind what it may write. */
static void unpack_piece(UnpackWindow *window, gboolean begins, const uint8_t *in, size_t packed,
                         size_t length)
{
    static uint8_t out[65536 + GUARD_BYTES];
    g_autoptr(GError) error = NULL;

    memset(out + length, GUARD, GUARD_BYTES);
    if (unpack_window(window, begins, in, packed, out, length, &error) == (error != NULL))
        abort();
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (out[length + i] != GUARD)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(UnpackWindow) window = unpack_window_new();

    while (size >= HEAD_BYTES) {
        size_t length = (size_t)(data[1] | data[2] << 8), packed = (size_t)(data[3] | data[4] << 8);
        gboolean begins = data[0] & 1;

        data += HEAD_BYTES;
        size -= HEAD_BYTES;
        packed = MIN(packed, size);
        unpack_piece(window, begins, data, packed, length);
        data += packed;
        size -= packed;
    }
    return 0;
}

/*
 * The binary form of neutral states
 *
 * The bytes as they are, and as what is between head and digest.  Whatever is read is kept by both
 * forms.
 */
#include <stdint.h>

#include "base/bytes.h"
#include "fuzz_state_neutral.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try(const uint8_t *data, size_t size)
{
    g_autoptr(StateNode) root = state_decode(data, size, NULL);

    if (root)
        expect_kept(root);
}

static void try_framed(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) framed = g_byte_array_new();
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
    guint8 digest[32];
    gsize length = sizeof digest;

    byte_write_span(framed, "VMFSTATE", 8);
    byte_write_le32(framed, STATE_VERSION);
    byte_write_le32(framed, 0);
    byte_write_span(framed, data, size);
    g_checksum_update(checksum, framed->data, (gssize)framed->len);
    g_checksum_get_digest(checksum, digest, &length);
    byte_write_span(framed, digest, length);
    try(framed->data, framed->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try(data, size);
    try_framed(data, size);
    return 0;
}

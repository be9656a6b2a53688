/* LZ4 blocks of pages (format: lz4's doc/lz4_Block_format.md). */
#pragma once

#include <glib.h>
#include <stdint.h>

/* Bytes that packing *length* bytes may need. */
size_t lz4_bound(size_t length);

/* Packs; returns the bytes written to *out* (of lz4_bound() bytes), or 0 where
 * packing would not make it smaller. */
size_t lz4_pack(const uint8_t *in, size_t length, uint8_t *out);

/* Unpacks what must become exactly *length* bytes; never writes more. */
gboolean lz4_unpack(const uint8_t *in, size_t packed_length, uint8_t *out, size_t length,
                    GError **error);

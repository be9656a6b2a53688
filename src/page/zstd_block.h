/* Zstandard frames of pages (format: RFC 8878). */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <zstd.h>

/* Bytes that packing *length* bytes may need. */
size_t zstd_bound(size_t length);

/* Packs into one frame whose header says *length*; returns the bytes written to
 * *out*, or 0 where that would not be smaller or not fit into *out_capacity*. */
size_t zstd_pack(ZSTD_CCtx *context, int level, const uint8_t *in, size_t length, uint8_t *out,
                 size_t out_capacity);

/* Unpacks what must be exactly one frame, without a dictionary, whose header
 * says *length*, and must become that; never writes more.  Takes no memory
 * besides the context: where all of the output is one buffer, zstd needs no
 * window of its own, whatever window the frame asks for. */
gboolean zstd_unpack(ZSTD_DCtx *context, const uint8_t *in, size_t packed_length, uint8_t *out,
                     size_t length, GError **error);

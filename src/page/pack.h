/*
 * Packing page content: one front for the block codecs
 *
 * Theory of operation: a PackContext holds what the codecs need from call to
 * call (zstd's tables, made at the first use); make one for each thread.
 * Packing never makes data longer: where it does not shrink, pack() says so and
 * the caller sends it as it is.  Unpacking is for bytes from the network: the
 * caller knows how many bytes must come out, and neither the output nor the
 * memory in use can become more than that.
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

/* The numbers are those on the wire (segment_frame.h). */
typedef enum { PACK_NONE = 0, PACK_LZ4 = 1, PACK_ZSTD = 2 } PackMethod;

/* zstd's level where the caller has no wish: its fast end still packs RAM
 * better than LZ4 and keeps up with 1 Gbit/s on one core. */
#define PACK_DEFAULT_LEVEL 1

/* Longest input of pack(), longest output of unpack(). */
#define PACK_MAX_BYTES ((size_t)1 << 30)

typedef struct PackContext PackContext;

PackContext *pack_context_new(void);
/* NULL-safe. */
void pack_context_free(PackContext *context);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PackContext, pack_context_free)

/* "none", "lz4", "zstd" */
const char *pack_method_name(PackMethod method);

/* Room that pack() may use for *length* bytes; with less it may give up sooner. */
size_t pack_bound(PackMethod method, size_t length);

/* Packs *length* bytes into *out*.  *level*: of zstd (1 to 19, negative ones are
 * faster), 0 for PACK_DEFAULT_LEVEL; LZ4 has none.  Returns the bytes written,
 * always fewer than *length*; 0 where it does not shrink (always with
 * PACK_NONE) or does not fit into *out_capacity*. */
size_t pack(PackContext *context, PackMethod method, int level, const void *in, size_t length,
            void *out, size_t out_capacity);

/* Unpacks what must become exactly *length* bytes; never writes more to *out*.
 * INVALID where it does not.  PACK_NONE copies. */
gboolean unpack(PackContext *context, PackMethod method, const void *in, size_t packed_length,
                void *out, size_t length, GError **error);

/* *length* bytes, whole pages of 4096 bytes.  Always TRUE for a few of them,
 * where trying costs as little. */
gboolean pack_sample_shrinks(PackContext *context, PackMethod method, const uint8_t *bytes,
                             size_t length);

/*
 * Which page with this content was sent already?
 *
 * Theory of operation: many pages of a guest are equal to another one of the
 * same guest (Barker et al., USENIX ATC 2012: self-sharing is most of all that
 * could be shared): copies in page caches, and what was freed and not cleared.
 * Of pages that are sent whole, the index keeps two keyed fingerprints
 * (fingerprint.h) of all 4096 bytes, and says of a further page which one of
 * them is equal to it.
 *
 * Two different pages are taken for equal with probability 2^-64 * 2^-32, as
 * the two keys are independent and of the second value half is kept.  For n
 * pages there are n^2 / 2 pairs: for 1 GiB of RAM 2^35 * 2^-96 = 2^-61, for
 * 1 TiB 2^-41.
 *
 * The index is a table of fixed size; when it is full, pages are looked up
 * and no longer added.
 *
 * Threads: any number.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct ContentIndex ContentIndex;

/* For some *pages*, in at most *most_bytes* of memory; NULL where that is too
 * little, or the kernel gives no random bytes for the keys. */
ContentIndex *content_index_new(uint64_t pages, uint64_t most_bytes);
void content_index_free(ContentIndex *index);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ContentIndex, content_index_free)

/* Memory that it takes at most. */
uint64_t content_index_get_bytes(const ContentIndex *index);

/* TRUE with the place of an equal page that was added before.  Else *content*
 * (4096 bytes) is added as the page at *place*, a number of the caller's. */
gboolean content_index_find_or_add(ContentIndex *index, const uint8_t *content, uint32_t place,
                                   uint32_t *ret_place);

/*
 * Digests that the destination tells of an old file, at the source
 *
 * Theory of operation: the source reads its file from the beginning to the end, and asks for the digests
 * of a range of it (DISK_COMPARE) a few ranges before it gets there, so that the destination reads the
 * old file meanwhile.  Only these few ranges are kept.  What is answered must have been asked.
 *
 * Not thread-safe: its owner has a lock.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "wire/disk_frame.h"

#define PEER_DIGESTS_RANGE_BYTES ((uint64_t)16 << 20)
#define PEER_DIGESTS_RANGES 4u

typedef struct PeerDigests PeerDigests;

/* *old_bytes*, *new_bytes*: lengths of the old file there and the one that is read. */
PeerDigests *peer_digests_new(guint file, uint64_t old_bytes, uint64_t new_bytes);
void peer_digests_free(PeerDigests *digests);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PeerDigests, peer_digests_free)

/* TRUE with what is to be asked next by who is at *offset*, which counts as asked then; but for the
 * key.  FALSE: nothing (yet). */
gboolean peer_digests_ask(PeerDigests *digests, uint64_t offset, DiskCompare *ret);

/* INVALID where it was not asked for. */
gboolean peer_digests_take(PeerDigests *digests, const DiskDigests *answer, GError **error);

/* TRUE where nothing has to be waited for to know what the old file has at *offset*. */
gboolean peer_digests_knows(const PeerDigests *digests, uint64_t offset);

/* Of the granule at *offset*; NULL: it has none, or nothing was told of it. */
const uint8_t *peer_digests_find(const PeerDigests *digests, uint64_t offset);

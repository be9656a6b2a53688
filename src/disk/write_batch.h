/*
 * What a guest has written to its disks within an epoch
 *
 * Theory of operation: a batch has for each disk the pieces that were written, none over another: a
 * later write wins, and what it has covered is forgotten.  So a batch is as large as what is
 * different in the end, and not as what was written.  It is sent as records, sorted by disk and
 * offset:
 *
 *     0   le32  1 data, 2 zeros
 *     4   le32  disk (place in the list of disks)
 *     8   le64  offset in bytes
 *     16  le32  length in bytes; of data at most WRITE_RECORD_MAX_BYTES
 *     20  …     the data
 *
 * Any number of whole records is a *piece* of the epoch.  The pieces of an epoch are applied in the
 * order in which they were sent.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/bytes.h"

#define WRITE_RECORD_HEAD_BYTES 20u
#define WRITE_RECORD_MAX_BYTES (1u << 20)
#define WRITE_SECTOR_BYTES 512u
#define WRITE_PIECE_MIN_BYTES (WRITE_RECORD_HEAD_BYTES + WRITE_SECTOR_BYTES)

typedef struct WriteBatch WriteBatch;

WriteBatch *write_batch_new(guint disks);
void write_batch_free(WriteBatch *batch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(WriteBatch, write_batch_free)

/* Copies *data*; NULL: zeros.  The range must not pass 2^63. */
void write_batch_add(WriteBatch *batch, guint disk, uint64_t offset, uint64_t length,
                     const uint8_t *data);

/* What *newer* has was written after what *batch* has; it is empty afterwards. */
void write_batch_add_all(WriteBatch *batch, WriteBatch *newer);

gboolean write_batch_is_empty(const WriteBatch *batch);

/* What it takes in memory, about. */
uint64_t write_batch_get_cost(const WriteBatch *batch);

/* ---- records ---- */

/* A walk over a batch, which must not change meanwhile. */
typedef struct {
    const WriteBatch *batch;
    guint disk;
    uint64_t offset;       /* of the disk; what is before was encoded */
    const GArray *skipped; /* of WriteBlock, ascending: not encoded; NULL: all is */
    guint next;
} WriteBatchWalk;

WriteBatchWalk write_batch_walk(const WriteBatch *batch);

/* A block of WRITE_BLOCK_BYTES, at a multiple of that on its disk, of one write's data. */
#define WRITE_BLOCK_BYTES 4096u

typedef struct {
    guint disk;
    uint64_t offset;
    const uint8_t *data; /* the batch's, as long as that does not change */
} WriteBlock;

/* Appends those that a batch has to *ret* (of WriteBlock), by disk and offset. */
void write_batch_list_blocks(const WriteBatch *batch, GArray *ret);

/* Bytes of data that it has, without zeros. */
uint64_t write_batch_count_data(const WriteBatch *batch);

/* A walk that leaves out these (of WriteBlock, ascending; borrowed). */
WriteBatchWalk write_batch_walk_without(const WriteBatch *batch, const GArray *blocks);

/* Appends whole records of at most *max* bytes in all (WRITE_PIECE_MIN_BYTES or more).
 * Data is cut at whole sectors.  FALSE where
 * nothing was left to append. */
gboolean write_batch_encode(WriteBatchWalk *walk, size_t max, GByteArray *out);

typedef struct {
    guint disk;
    uint64_t offset;
    uint32_t length;
    const uint8_t *data; /* borrowed; NULL: zeros */
} WriteRecord;

/* The next record, which lies within its disk (*bytes* has the sizes of *count* disks).  Returns 1;
 * 0 at the end; -1 with INVALID. */
int write_record_read(ByteReader *reader, const uint64_t *bytes, guint count, WriteRecord *ret,
                      GError **error);

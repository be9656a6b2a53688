/*
 * The journal of a guest's disk writes: what another host's copy has written, epoch by epoch
 *
 * Theory of operation: a directory with
 *
 *     log        what is staged, in records, each with a digest over it
 *     N.data     of disk N: what committed epochs have written, each byte at its place on the disk;
 *                sparse
 *     N.map      a bit for each sector of 512 bytes that is in N.data (a hole there: zeros)
 *     full-N.…   the generation of these before: it does not grow any more, and is written to the
 *                images while the present one does, and then dropped
 *
 * An epoch is *staged* piece by piece (write_batch.h), *sealed* when all of it is in the log, and
 * *committed* by its owner, who has more to commit than disks: his record, and not the journal, says
 * which epoch was the last.  So after a crash he tells that to write_journal_open(): later ones are
 * cut off, sealed or not, and one that should be there and is not is an error.  What is committed is
 * *folded* into the data and forgotten in the log.  Folding may be done again, so a crash may come at
 * any step of it.  The journal is as large as what is different on the disks, and at most one epoch.
 *
 *     stage 7, stage 7, seal 7 │ owner writes "7" │ commit 7 (folds)
 *
 * Folding is work for later: the owner may answer for an epoch before it is committed here.
 *
 * The files outlive this process, not the host: they are never flushed.  What they are about does
 * not outlive the host either.
 *
 * The limit is on what the files take.  A piece that would pass it is refused (NO_SPACE), and with
 * it its epoch; what is committed stays good.  So it is where a committed epoch could not be folded
 * since the disk is full: it is applied out of the log, and nothing more can be staged.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "disk/disk_target.h"

#define WRITE_JOURNAL_MAX_DISKS 256u
#define WRITE_JOURNAL_MAX_PIECE_BYTES (64u << 20)

typedef struct WriteJournal WriteJournal;

/* Makes the directory, or empties what a former journal has left there.  *bytes* has the sizes of
 * the disks, each of whole sectors. */
WriteJournal *write_journal_create(const char *directory, const char *transaction,
                                   const uint64_t *bytes, guint count, uint64_t limit_bytes,
                                   GError **error);

/* Opens what an agent that died has left.  *committed*: the last committed epoch (0: none).
 * NOT_FOUND; INVALID where it is damaged, of another transaction, or lacks that epoch. */
WriteJournal *write_journal_open(const char *directory, const char *transaction, uint64_t committed,
                                 uint64_t limit_bytes, GError **error);

/* The files stay.  NULL-safe. */
void write_journal_free(WriteJournal *journal);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(WriteJournal, write_journal_free)

/* Removes a journal that is not open, whatever is left of it. */
gboolean write_journal_remove(const char *directory, GError **error);

guint write_journal_get_count(const WriteJournal *journal);
uint64_t write_journal_get_disk_bytes(const WriteJournal *journal, guint disk);
uint64_t write_journal_get_committed(const WriteJournal *journal);

/* What its files take. */
uint64_t write_journal_get_used(const WriteJournal *journal);

/* Adds a piece of an epoch, later than the last sealed one.  INVALID where the piece is not one. */
gboolean write_journal_stage(WriteJournal *journal, uint64_t epoch, const void *piece,
                             size_t length, GError **error);

/* All pieces of the epoch are there (none, where it has written nothing).  Each epoch is sealed, in
 * ascending order. */
gboolean write_journal_seal(WriteJournal *journal, uint64_t epoch, GError **error);

/* This sealed epoch, and those before it, are part of the disks from now on.  FALSE: it is not
 * sealed. */
gboolean write_journal_commit(WriteJournal *journal, uint64_t epoch, GError **error);

/* Forgets all that is not committed. */
gboolean write_journal_forget(WriteJournal *journal, GError **error);

/* What is folded so far becomes the full generation, and a new one begins.  BUSY where there is one
 * already, or something is not folded.  While it is there another thread may apply it; dropped once that
 * is done.  A crash in between leaves it there: it is applied with the rest, or again. */
gboolean write_journal_rotate(WriteJournal *journal, GError **error);
gboolean write_journal_has_full(const WriteJournal *journal);
gboolean write_journal_apply_full(const WriteJournal *journal, guint disk, DiskTarget *target,
                                  GError **error);
gboolean write_journal_drop_full(WriteJournal *journal, GError **error);

/* *ret*: there are committed writes to this disk. */
gboolean write_journal_has_writes(const WriteJournal *journal, guint disk, gboolean *ret,
                                  GError **error);

/* Writes what is committed of this disk to its image, and flushes it.  Can be repeated. */
gboolean write_journal_apply(const WriteJournal *journal, guint disk, DiskTarget *target,
                             GError **error);

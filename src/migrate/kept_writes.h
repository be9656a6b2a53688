/*
 * The disk writes of a guest that runs elsewhere, kept here as a part of its epochs
 *
 * Theory of operation: the other end of HeldWrites.  EPOCH_WRITES frames are staged in a WriteJournal
 * and committed with the epoch; the journal is applied to the images here where the guest goes on from
 * that epoch (takeover_disks.h).
 *
 * Threads: one at a time.
 */
#pragma once

#include "disk/write_journal.h"
#include "protect/checkpoint_receiver.h"
#include "transfer/delta_store.h"
#include "vmm/vmm.h"

/* What the journal's files may take. */
#define KEPT_WRITES_MOST_BYTES (1ull << 30)

typedef struct KeptWrites KeptWrites;

/* Of the disks of *vmm*, in *directory*, which is made. */
KeptWrites *kept_writes_create(Vmm *vmm, const char *directory, const char *transaction,
                               GError **error);

/* Of disks of these sizes (bytes, whole sectors). */
KeptWrites *kept_writes_create_for(const uint64_t *bytes, guint count, const char *directory,
                                   const char *transaction, GError **error);

/* What an agent that died has left.  *committed*: the last epoch that was. */
KeptWrites *kept_writes_open(const char *directory, const char *transaction, uint64_t committed,
                             GError **error);

/* NULL-safe. */
void kept_writes_free(KeptWrites *kept);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KeptWrites, kept_writes_free)

/* Where the pages are that EPOCH_EVENTS tell of; borrowed.  Before it is used as a part. */
void kept_writes_set_pages(KeptWrites *kept, DeltaStore *pages);

/* As a part of epochs; lives as long as *kept*. */
CheckpointPart kept_writes_get(KeptWrites *kept);

/* The same, for who drains it (standby_disks.h). */
WriteJournal *kept_writes_use_journal(KeptWrites *kept);

/* Borrowed; NULL where there are no disks. */
const WriteJournal *kept_writes_get_journal(const KeptWrites *kept);

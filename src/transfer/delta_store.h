/*
 * The delta store: what changed in a guest since a base, up to its last committed epoch
 *
 * Theory of operation: while a guest runs elsewhere, epochs of its changes come back.  They do not
 * go into the base (the memory of a paused VMM, which must stay as it is), but into a folder of
 * files that outlives its process, though not the host: nothing is ever forced to a disk, and a
 * tmpfs is the right place.
 *
 *     head        whose it is; the last file of a new store
 *     contents    pages, each in a place
 *     index       for each page of the guest: nothing, zero, or its place; mapped
 *     committed   the last epoch: number, where its pages have been put, device state, a note
 *
 * An epoch is *staged*: its pages are written to places that nothing refers to.  The commit writes
 * `committed` anew and renames it, in one step: from then on, and not before, the store is at the
 * new epoch.  Then its runs are folded into the index, and the places of replaced content are free.
 * After a crash at any point the store is at the old epoch or at the new one: opening it folds in
 * what `committed` says, which may have been done in part or wholly, and whatever is in no use then
 * is free.
 *
 *     stage ──► contents (free places)
 *     commit ─► committed.new ── rename ──► committed ──► index ──► replaced places are free
 *
 * So a commit writes 24 bytes a run of pages, and never copies a page.  The file of contents
 * grows to what is committed and the largest stage together, and does not shrink.
 *
 * Patches are against what the page was before them: staged, or else committed, or else the bottom
 * source's.
 *
 * Threads: writing to the sink and reading from the source from any number; all else from one, with
 * nobody in the sink.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "transfer/page_sink.h"
#include "transfer/page_source.h"

typedef struct DeltaStore DeltaStore;

/* Makes an empty store in *directory*, which is made, too, or is that of an older store, which is
 * forgotten.  At no epoch yet.  INVALID where regions are too large. */
DeltaStore *delta_store_create(const char *directory, const char *transaction,
                               const PageRegions *regions, GError **error);

/* Opens what a process that died has left.  NOT_FOUND where there is none, INVALID where it is
 * damaged. */
DeltaStore *delta_store_open(const char *directory, GError **error);

/* Forgets a stage; what is committed stays.  NULL-safe. */
void delta_store_free(DeltaStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DeltaStore, delta_store_free)

/* Removes the store in *directory*, whole or not, and the directory where nothing else is in it. */
void delta_store_remove(const char *directory);

/* Both owned by the store. */
const char *delta_store_get_transaction(const DeltaStore *store);
const PageRegions *delta_store_get_regions(const DeltaStore *store);

/* FALSE where no epoch has been committed.  *ret_epoch may be NULL. */
gboolean delta_store_get_epoch(const DeltaStore *store, uint64_t *ret_epoch);

/* Device state and note of the committed epoch; owned by the store, until the next commit.  NULL
 * where there is none. */
GBytes *delta_store_get_state(const DeltaStore *store);
GBytes *delta_store_get_note(const DeltaStore *store);

/* Pages of the committed epoch; owned by the store.  Reading others is INVALID. */
PageSource *delta_store_get_source(DeltaStore *store);

/* Which pages that are: a PageSet for each region; free with g_ptr_array_unref(). */
GPtrArray *delta_store_list_pages(const DeltaStore *store);

/* What pages hold that the store has not; borrowed, NULL: patches of such pages are INVALID.
 * INVALID where it has other regions. */
gboolean delta_store_set_bottom(DeltaStore *store, PageSource *bottom, GError **error);

/* Begins to stage an epoch.  INVALID where it is not newer than the committed one, or another is
 * being staged. */
gboolean delta_stage_begin(DeltaStore *store, uint64_t epoch, GError **error);

/* Where its pages go; owned by the store, and INVALID to write to without a stage.  Pages may be
 * written more than once.  Sealing it has no effect. */
PageSink *delta_stage_get_sink(DeltaStore *store);

/* What a page is in it: as it was staged, or else as before; nobody may be in the sink.  4096 bytes. */
gboolean delta_stage_read(DeltaStore *store, guint region, uint64_t page, uint8_t *buffer,
                          GError **error);

/* Commits it, with its device state and a note of the caller's (either may be NULL: empty).  FALSE:
 * the store is at the epoch before, and the stage is as it was. */
gboolean delta_stage_commit(DeltaStore *store, GBytes *state, GBytes *note, GError **error);

/* Forgets it, if there is one. */
void delta_stage_abort(DeltaStore *store);

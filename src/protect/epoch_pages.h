/*
 * Which pages the epochs of a running guest bring
 *
 * Theory of operation: what the peer lacks is on record, in files of bitmaps that survive us
 * (memory/outstanding.h): *lacking* has what was written since the last pass, *discarded* what the guest
 * has discarded since the last cut, *under_way* what was taken from them and not confirmed.  An agent that
 * dies while it takes pages from the tracker leaves a mark in *lacking*; then all pages are.
 *
 *     written ────► lacking ────► under_way ──► (confirmed)
 *                      ▲              │
 *     discarded ───────╯              ╰─► all of it is in the next session's first epoch
 *
 * A *pass* takes all that is lacking: in a cut, while the guest stands, or ahead of it.  What was sent
 * ahead and not written since is not sent again in the same epoch.  Discarded pages wait for the cut: we
 * hear of a discard before it happens, so while the guest runs the page may still show what it was.
 *
 * Threads: one at a time; pages may be added to *discarded* by others, of a guest that runs.
 */
#pragma once

#include "memory/outstanding.h"
#include "memory/tracker.h"
#include "transfer/page_source.h"

typedef struct EpochPages EpochPages;

typedef struct {
    OutstandingPages *lacking, *discarded, *under_way;
} EpochPageFiles;

/* Begins to track.  Borrows all; *pages* is a source of *memory*. */
EpochPages *epoch_pages_new(GuestMemory *memory, PageSource *pages, Userfault *userfault,
                            const EpochPageFiles *files, GError **error);
/* NULL-safe.  What is tracked stays so. */
void epoch_pages_free(EpochPages *epoch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EpochPages, epoch_pages_free)

/* The peer has all that is there now. */
gboolean epoch_pages_skip(EpochPages *epoch, GError **error);
/* It has nothing of what is there. */
gboolean epoch_pages_add_all(EpochPages *epoch, GError **error);

/* From the tracker to the file; *ret (may be NULL): so many are to be sent by now. */
gboolean epoch_pages_collect(EpochPages *epoch, uint64_t *ret, GError **error);

/* Begins a pass, in a *cut* or ahead of it: a PageSet a region of those that are to be sent, in *ret_send*, and of them those that
 * have content, in *ret_present*; free both with g_ptr_array_unref(). */
gboolean epoch_pages_begin_pass(EpochPages *epoch, gboolean cut, GPtrArray **ret_send,
                                GPtrArray **ret_present, GError **error);

/* These were sent ahead in the session under way. */
void epoch_pages_note_ahead(EpochPages *epoch, const GPtrArray *sent);
/* Another session begins. */
void epoch_pages_forget_ahead(EpochPages *epoch);

/* The peer has the epoch of the last pass. */
void epoch_pages_confirm(EpochPages *epoch);

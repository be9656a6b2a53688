/*
 * Takeover: a fresh VMM takes the place of a paused one on the same host
 *
 * Theory of operation: a VMM that has run cannot load newer state.  So the *old* one stays paused
 * for good, holds memory and gives up all else (vmm_give_up_resources()); a *fresh* one is launched
 * as incoming, loads the device state and runs at once, while its memory comes from two layers:
 * pages of a delta store (transfer/delta_store.h) above the memory of the old one.  The source of a
 * post-copy recovers so from the last committed epoch, whose base is the old one's memory at the
 * switchover; a VMM is renewed so without a delta store; a guest of a host that has died goes on from a
 * delta store alone (takeover_note_machine()), and one that was saved from its image.
 *
 *     takeover_leave_place()
 *                           writes down where its memory lies, then gives up all else: only once
 *                           the guest will never run in the old one again; in a post-copy, when it
 *                           is split
 *     launch the fresh one  as incoming, with a folder of its own: it opens its tap devices, ports
 *                           and sockets at its start, so not before the old one has given them up.
 *                           vmm_match_machine() where the machine is known.
 *     takeover_prepare()    opens it.  From here on it waits, for as long as needed, and takes next
 *                           to no memory.
 *     takeover_load()       loads the device state; memory comes as it is asked for
 *     vmm_resume()          perhaps more than once, where somebody reads an image for a moment
 *     takeover_fill()       brings all the rest of memory
 *     takeover_give_back()  once it is on record that the guest runs there: the old one's memory
 *                           goes as it is taken (launch the fresh one *in_place* then)
 *     takeover_await()      until its memory is all there.  Then the old one may be ended, at once
 *                           (vmm_quit() of one that has given up does so; exit_code_end()): its own
 *                           way to end would remove files that are the fresh one's.
 *
 * What a crash leaves: before takeover_load() a fresh one that waits ends with us (its stream is
 * closed), and is launched and prepared anew.  Within takeover_load(), too, as long as it was not
 * loaded wholly; one that was is paused or runs, and takeover_reopen() feeds it on: it may need
 * pages to answer its control connection, so reopen first, then look at its run state, and resume
 * it.  The old one's memory and the delta store are read only, so all can be begun anew until the
 * fresh one runs.
 *
 * Files in *directory*, which must outlive the agent, and not the host: `old`, `outstanding`.
 *
 * Limits: without takeover_give_back() memory is needed for both.  Guest RAM that is a file by name
 * (memory-backend-file with share=on) would be the same file in both; the launch refuses that.
 *
 * Threads: one at a time.
 */
#pragma once

#include "migrate/local_feeder.h"
#include "transfer/delta_store.h"
#include "vmm/vmm.h"

typedef struct Takeover Takeover;

/* What is above the old memory, or all of it: a source of the same regions (borrowed, as long as the Takeover lives),
 * and which pages it has (a PageSet a region, taken; NULL: all). */
typedef struct {
    PageSource *source; /* NULL: nothing */
    GPtrArray *pages;
} TakeoverPages;

static inline TakeoverPages takeover_pages_of(DeltaStore *store)
{
    return store ? (TakeoverPages){delta_store_get_source(store), delta_store_list_pages(store)}
                 : (TakeoverPages){NULL, NULL};
}

/* Writes down what machine it is that ran on another host: there is no old one here, and *store* has all
 * of its memory.  *regions*: of RamRegion, with name and bytes. */
gboolean takeover_note_machine(const char *machine, const GPtrArray *regions, const char *directory,
                               GError **error);

/* Writes down where the memory of the paused *old* lies and what machine it is: all that is needed
 * of it from then on, though it may not answer any more. */
gboolean takeover_note_old(Vmm *old, const char *directory, GError **error);

/* The same, then vmm_give_up_resources(), and writes that down.  Can be repeated, as long as *old*
 * can be reached: one that was adopted has given up its control socket, too, so an agent that was
 * restarted asks takeover_was_place_left() first. */
gboolean takeover_leave_place(Vmm *old, const char *directory, GError **error);

/* Whether that is written down, of a process that is there still. */
gboolean takeover_was_place_left(const char *directory);

/* Opens *fresh* (borrowed), launched as incoming, for the machine that *directory* tells of, with
 * its memory empty.  The old one must be paused by now.  On failure *fresh* is to be ended. */
Takeover *takeover_prepare(Vmm *fresh, const char *directory, GError **error);

/* From the load on, RAM of the fresh one is *shared* (borrowed, as long as the Takeover lives) with other guests, as far
 * as that can be: memory/shared_pages.h.  Before takeover_load(). */
void takeover_share(Takeover *takeover, SharedPages *shared);

/* Before takeover_load(): pages that come before all others (local_feeder_set_first()).  The first *urgent* of these runs
 * come before the device state is loaded, which uses some of them, as far as *budget_ms* allows. */
void takeover_set_first(Takeover *takeover, const LocalFeederRun *runs, guint count, guint urgent,
                        guint budget_ms);

/* Loads *state*; afterwards *fresh* is paused, and pages are there as soon as they are asked for.
 * On failure *fresh* is to be ended, after takeover_free(). */
gboolean takeover_load(Takeover *takeover, TakeoverPages above, GBytes *state, GError **error);

/* local_feeder_list_accesses(). */
GArray *takeover_list_accesses(Takeover *takeover);

/* Begins to bring all other pages, once; better when the guest runs. */
gboolean takeover_fill(Takeover *takeover, GError **error);

/* From now on pages that the fresh one has are taken from the old one, some 32 MiB at a time, so
 * that the host need not have all memory twice.  Nothing can be begun anew after that: the guest
 * must run, on record, in the fresh one. */
void takeover_give_back(Takeover *takeover);

/* Goes on, filling, with *fresh_pid*, which an agent that died has loaded; *above* as it was.  NULL
 * and no *error* where its memory is all there already. */
Takeover *takeover_reopen(pid_t fresh_pid, const char *directory, TakeoverPages above,
                          GError **error);

/* Waits until the fresh one has all its memory, for *timeout_ms* at most.  After NO_SPACE it may be
 * freed and reopened later; any other failure is for good: the guest waits for memory that is lost.
 * */
LocalFeederState takeover_await(Takeover *takeover, guint timeout_ms, GError **error);

uint64_t takeover_count_outstanding(Takeover *takeover);
void takeover_get_counts(Takeover *takeover, FaultServiceCounts *ret);

/* Leaves what does not have all its memory yet to takeover_reopen(); one that was not loaded is to
 * be ended.  NULL-safe. */
void takeover_free(Takeover *takeover);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Takeover, takeover_free)

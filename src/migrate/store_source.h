/*
 * The source's end of a store (store_host.h has the sequence)
 *
 * Theory of operation: pages are sent to the store in passes: some while the guest runs, of what will
 * be outstanding; and, when the guest is paused for good, a last one of what was written since or
 * had not been sent.  Before the last one stands the seal, which names the pages that are stale.
 * Which ones are is the caller's to know; here is kept what was sent.
 *
 * The last pass has a thread of its own beside the pushing of pages to the destination.  A store
 * that fails, at any time, makes no difference to the move: what remains is to say so.
 *
 * Threads: one calls these, but for the counters.
 */
#pragma once

#include "policy/packing.h"
#include "transfer/page_sender.h"
#include "transfer/postcopy_sender.h"
#include "wire/messages.h"
#include "wire/session.h"

typedef struct StoreSource StoreSource;

/* Asks the agent at *address* to keep pages.  NULL with *error* where it does not (NO_SPACE: it has
 * not the memory; REFUSED: it is source or destination itself).  Borrows *pages*. */
StoreSource *store_source_connect(const char *address, const ChannelOptions *channel,
                                  const StoreMessage *message, PageSource *pages,
                                  GCancellable *cancellable, GError **error);

/* *needed*: the destination may ask for its pages; otherwise it is told that nobody will.  Ends the
 * last pass, too.  NULL-safe. */
void store_source_end(StoreSource *store, gboolean needed);

/* Its lasting id; its name. */
const char *store_source_get_agent(const StoreSource *store);
const char *store_source_get_name(const StoreSource *store);
void store_source_set_rate(StoreSource *store, uint64_t bytes_per_second);
void store_source_set_packing(StoreSource *store, PackingMode mode, guint workers);

/* Called before a batch is read; FALSE ends the pass. */
typedef gboolean (*StoreSourceBefore)(const WorkBatch *batch, gpointer user, GError **error);

/* A pass over *sets*; returns when the store has all of it. */
gboolean store_source_push(StoreSource *store, const GPtrArray *sets, StoreSourceBefore before,
                           gpointer user, GError **error);

/* Before the seal: these pages (of what was sent) will come anew, and do not count until then. */
gboolean store_source_drop(StoreSource *store, const GPtrArray *stale, GError **error);

uint64_t store_source_count(const GPtrArray *sets);

/* What was sent and is not stale: a PageSet a region. */
const GPtrArray *store_source_get_sent(const StoreSource *store);

/* The guest is paused, and *stale* (of what was sent) has changed: says so; then waits for the
 * store's answer. */
gboolean store_source_seal(StoreSource *store, const GPtrArray *stale, GError **error);
gboolean store_source_await_sealed(StoreSource *store, guint timeout_ms, GError **error);

/* Begins the last pass, of what is in *outstanding* and was not sent.  *lost* is called in its
 * thread where the store fails (until store_source_end()). */
void store_source_begin_rest(StoreSource *store, const GPtrArray *outstanding,
                             void (*lost)(const GError *why, gpointer user), gpointer user);

/* A few times a second: what *sender* has not taken for the destination comes first in the second
 * pass, and what it has taken a while ago counts as being there. */
void store_source_note_sender(StoreSource *store, PostcopySender *sender);

/* From any thread: outstanding pages that neither the store nor the destination has, as far as is
 * known; whether the last pass goes on. */
uint64_t store_source_get_uncovered(const StoreSource *store);
gboolean store_source_is_filling(const StoreSource *store);

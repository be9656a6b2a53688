/*
 * Fetches a split guest's pages from its store, where its source does not bring them
 *
 * Theory of operation: a thread beside the one that keeps the guest (postcopy.h).  Where no session
 * has been there for POSTCOPY_FETCHER_PATIENCE_MS, or the source has said that its VMM is gone, it
 * connects to the store.  A source that comes back takes its turn again, and the store has the next
 * one when that ends.
 *
 * A store that has not all of it, or cannot be reached, is asked again as long as the guest is split:
 * the source may return and fill it.  Only where the source is gone as well is the guest lost, and
 * that said, once.
 */
#pragma once

#include "agent/context.h"
#include "migrate/postcopy_destination.h"

#define POSTCOPY_FETCHER_PATIENCE_MS 2000

typedef struct PostcopyFetcher PostcopyFetcher;

/* NULL where the guest has no store.  Borrows *split*. */
PostcopyFetcher *postcopy_fetcher_start(AgentContext *context, Guest *guest,
                                        PostcopyDestination *split);
/* Ends it, and the session that it has.  NULL-safe. */
void postcopy_fetcher_end(PostcopyFetcher *fetcher);

/* In a thread of its own: tells the guest's store, if there is one, that it is not needed any more. */
void postcopy_fetcher_drop(AgentContext *context, const GuestRecord *record);

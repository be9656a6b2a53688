/*
 * Post-copy, the destination's end: pages that arrive, wanted or pushed, and requests for them
 *
 * Theory of operation: a PageSink that gives pages to a FaultService is behind both ways: bulk
 * page frames go through a PageApplier, as the caller receives them; the frames of TRAFFIC_FAULT
 * are received by a thread of this receiver and put in place by it at once, past all that is queued.
 *
 * Both ways may bring the same page, at the same time: the service takes the one that comes first.
 *
 * What fails in the receiver's thread fails the session with its cause (session_fail()), so whoever
 * receives bulk and control hears of it.
 *
 * A receiver lives as long as its session.  When that breaks, the service stays, and a new receiver
 * of a new session goes on: requests that were lost are made anew.
 */
#pragma once

#include "memory/fault_service.h"
#include "transfer/page_sink.h"
#include "wire/session.h"

/* Borrows *service* and *regions*.  Patches, copies and seals are INVALID: what they are about must
 * be in place before the guest runs. */
PageSink *postcopy_sink_new(FaultService *service, const PageRegions *regions);

typedef struct PostcopyReceiver PostcopyReceiver;

/* Starts to receive on the channel of TRAFFIC_FAULT.  Borrows all. */
PostcopyReceiver *postcopy_receiver_start(Session *session, PageSink *sink, GError **error);

/* Asks for pages; drops the request where the session is broken.  From any thread. */
void postcopy_receiver_want(PostcopyReceiver *receiver, guint region, PageSpan span);

/* Ends its thread: the session must have been shut down.  NULL-safe. */
void postcopy_receiver_free(PostcopyReceiver *receiver);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PostcopyReceiver, postcopy_receiver_free)

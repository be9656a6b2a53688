/*
 * Pages of other hosts' guests, kept here
 *
 * Theory of operation: this agent is the store of a move between two other hosts (store_host.h has
 * the sequence).  What it keeps lies in the runtime directory, a folder a transaction:
 *
 *     store/TRANSACTION/store      the STORE message
 *                       sealed     the boot in which it was sealed; not there before that
 *                       pages, covered    (transfer/stored_pages.h)
 *
 * It outlives this agent, once it is sealed, and not this host.  It ends
 *
 *     when source or destination says so (COMPLETE)
 *     with the source's session, where it was not sealed: nobody can ask for it
 *     PAGE_STORES_KEEP_S after the last session of either
 *
 * A move is refused where what it may need does not fit: into the limit of the settings, into what is
 * available of the host's memory (less a reserve, and less what was promised to others), and into
 * the runtime directory's file system.
 *
 * Threads: any.
 */
#pragma once

#include "agent/context.h"
#include "wire/session.h"

#define PAGE_STORES_KEEP_S 3600

typedef struct PageStores PageStores;

/* With what an agent before this one has left.  Borrows *context*, of which the settings and the
 * events are there. */
PageStores *page_stores_open(AgentContext *context);
/* What is sealed stays.  NULL-safe. */
void page_stores_close(PageStores *stores);

/* NO_SPACE where this host cannot keep so many bytes more in its memory, by its settings or for want of
 * it. */
gboolean page_stores_check_room(PageStores *stores, uint64_t bytes, GError **error);

/* A session whose HELLO said "store", or "fetch"; *agent*: its peer's lasting id.  Blocks to its
 * end. */
gboolean page_stores_fill(AgentContext *context, Session *session, const char *agent,
                          GError **error);
gboolean page_stores_serve(AgentContext *context, Session *session, const char *agent,
                           GError **error);

/* Drops what has been idle for *seconds*; how many it were. */
guint page_stores_expire(PageStores *stores, guint seconds);

/* An array, an object for each transaction; the limit in bytes. */
json_t *page_stores_to_json(PageStores *stores);
uint64_t page_stores_get_limit(PageStores *stores);

/*
 * A store's half: pages of a guest that moves between two other hosts
 *
 * Theory of operation: a third agent keeps what is outstanding at a switchover to post-copy, so that
 * the end of the source is not the end of the guest.
 *
 *     source                                    store                                destination
 *       HELLO "store", STORE           -->
 *                                      <--        ACCEPTED (it has the memory)
 *       page frames, PUSHED            -->
 *                                      <--        STORED
 *       (guest paused)
 *       OUTSTANDING (what is stale),
 *       STORE_SEAL                     -->        drops these
 *                                      <--        STORED, sealed
 *       (START to the destination)
 *       page frames, PUSHED            -->
 *                                      <--        STORED
 *       COMPLETE                       -->        drops all
 *
 *                                                                     <-- HELLO "fetch", RESUME
 *                                                 sealed? ACCEPTED    -->
 *                                                                     <-- OUTSTANDING, RESUMED
 *                                                 page frames         -->
 *                                                                     <-- WANT, on its channel
 *                                                 PUSHED (these were all that it has)
 *                                                                     <-- COMPLETE
 *
 * Only what is covered is ever given out, and only of a sealed transaction.  From the seal on the
 * source's memory does not change (or the destination never commits, and nobody asks): so a page
 * that was sent before it and not named, or was sent after it, is as the destination needs it.
 */
#pragma once

#include "transfer/stored_pages.h"
#include "wire/session.h"

typedef struct {
    /* It is to be on record, with what is covered, before this returns. */
    gboolean (*seal)(gpointer user, GError **error);
    gpointer user;
} StoreFillHost;

/* Takes what the source sends, behind ACCEPTED.  TRUE: nobody needs it (any more).  FALSE with
 * *error*: the session has ended in another way. */
gboolean store_host_fill(Session *session, StoredPages *pages, const StoreFillHost *host,
                         GError **error);

/* Gives out, behind ACCEPTED, what the destination lacks.  TRUE: it has all of its memory.  FALSE
 * with *error*: the session has ended. */
gboolean store_host_serve(Session *session, StoredPages *pages, GError **error);

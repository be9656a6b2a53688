/*
 * Post-copy, the source's end: outstanding pages pushed, and answered where a thread waits
 *
 * Theory of operation: the guest is paused here for good and its memory does not change, so a page
 * may be sent at any time, by whomever, but needs to be sent only once in a connection.  Two
 * threads share the sets of what was not sent yet, under a lock: whoever takes a page from them
 * sends it.
 *
 *     answering   its own thread: receives WANT on the session's channel of TRAFFIC_FAULT and sends
 *                 the pages there, unpacked, at once, and then those around it.  A page that was pushed already is on its
 *                 way, but perhaps behind much else: it is sent again; the destination keeps the
 *                 one that comes first.
 *     pushing     the caller's thread: batches in the order of policy/push_order.h through a
 *                 PageSender (packed, several workers), as bulk
 *
 * Zero pages are said as such.
 *
 * Where both channels share a link, an answer waits behind what the kernel has of bulk: so batches
 * are small, and one is handed over only when little of those before it is left unconfirmed.
 *
 * Whatever fails in the answering thread (the source's memory, a malformed WANT) fails the session
 * with its cause (session_fail()), and so the pushing, or who waits for COMPLETE.  An answering
 * thread that merely sees the session end does nothing more.
 */
#pragma once

#include "policy/push_order.h"
#include "transfer/page_sender.h"
#include "wire/session.h"

typedef struct PostcopySender PostcopySender;

typedef struct {
    guint workers;
    PackingMode packing;
    gboolean with_lz4, with_zstd;
    const LinkRate *link; /* NULL: not known; borrowed */
    const float *heat;    /* as push_order_new(); read in postcopy_sender_new() only */
    /* A PageSet a region: only these are given out, and who wants another one waits for another
     * source of it.  NULL: all; borrowed. */
    const GPtrArray *available;
} PostcopySenderOptions;

/* Borrows *source*, *session* (whose TRAFFIC_FAULT has a channel of its own) and *options->link*.
 * *outstanding*: a PageSet a region, taken over. */
PostcopySender *postcopy_sender_new(PageSource *source, Session *session, GPtrArray *outstanding,
                                    const PostcopySenderOptions *options);

/* Ends the answering thread: the session must have been shut down, or the peer have said all it
 * will.  NULL-safe. */
void postcopy_sender_free(PostcopySender *sender);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PostcopySender, postcopy_sender_free)

/* Begins to answer, before anything at the destination can wait for a page. */
gboolean postcopy_sender_answer(PostcopySender *sender, GError **error);

/* Called before each batch, and once behind the last one; FALSE with an error ends the pushing with it. */
typedef gboolean (*PostcopyBetween)(gpointer user, GError **error);

/* Pushes all that is left; once.  Returns when all of it has been sent.  *between* may be NULL. */
gboolean postcopy_sender_push(PostcopySender *sender, PostcopyBetween between, gpointer user,
                              GError **error);

/* Makes *sets* (a PageSet a region) the pages that nobody has taken yet.  From any thread. */
void postcopy_sender_copy_left(PostcopySender *sender, GPtrArray *sets);

typedef struct {
    uint64_t left;     /* pages that nobody has taken yet to send them */
    uint64_t pushed;   /* pages */
    uint64_t answered; /* pages */
    uint64_t again;    /* of the answered ones: pushed before */
} PostcopySenderCounts;

void postcopy_sender_get_counts(PostcopySender *sender, PostcopySenderCounts *ret);

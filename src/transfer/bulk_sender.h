/*
 * Sending bulk over as many connections as help
 *
 * Theory of operation: frames of pages are handed in by one thread, and go by whichever connection takes
 * them: each has a thread of its own, and they take from one short queue.  The first connection is the
 * session's own one for bulk, by which all goes that has an order; it is preferred, so that a few pages
 * use no other.  As long as it is the only one, frames go from the caller's memory straight into it.
 *
 * A thread of its own looks at the connections some times a second, asks policy/connection_count.h how
 * many are to be used, and connects more.  One that is not to be used any more only stands by; once all
 * that it has carried is known to have been applied, it is closed.
 *
 * bulk_sender_flush() is behind what has an order (frame_queue.h): it returns when all has been handed to
 * the kernel, and what is sent on the first connection from then on will be behind all of it.  Frames that
 * are handed in later will be behind that in turn.  For each of both there is a barrier, but none where no
 * other connection was used, or is.
 *
 * What becomes of a connection that fails: where the peer has applied all that it has carried, barriers
 * included, it is left out (the frame in hand goes by another one); else pages are lost, and so is the
 * move (bulk_sender_check()).  One that is broken for the time being gets no frames, and the next barrier
 * leaves it out where nothing of it can be missing, so that nobody waits for it; the same for one that
 * stands by.  Those that cannot be had in the first place are done without.
 *
 * Threads: send, flush and the rest from one.
 */
#pragma once

#include <glib.h>

#include "policy/connection_count.h"
#include "wire/session.h"

typedef struct BulkSender BulkSender;

typedef struct {
    guint connections;             /* to use; 0: as many as help */
    const ChannelOptions *channel; /* to connect with; what it points to outlives the sender */
} BulkSenderOptions;

/* Borrows *session*.  NULL with *error*: no thread. */
BulkSender *bulk_sender_new(Session *session, const BulkSenderOptions *options, GError **error);

/* Drops what was not sent.  NULL-safe. */
void bulk_sender_free(BulkSender *sender);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BulkSender, bulk_sender_free)

/* The peer has accepted: further connections may be made. */
void bulk_sender_begin(BulkSender *sender);

/* TRUE: from now on none is made, and none is tried without; in a pause. */
void bulk_sender_set_steady(BulkSender *sender, gboolean steady);

/* The user's limit, for the judgement of what there is to gain; 0: none. */
void bulk_sender_set_limit(BulkSender *sender, uint64_t bytes_per_second);

/* Takes a frame; waits while all are busy. */
gboolean bulk_sender_send(BulkSender *sender, FrameType type, const struct iovec *pieces, int count,
                          GError **error);

gboolean bulk_sender_flush(BulkSender *sender, GError **error);

/* FALSE with *error*: pages are lost; for who waits for an answer meanwhile. */
gboolean bulk_sender_check(BulkSender *sender, GError **error);

/* The peer has applied all that was sent up to the last flush, and nothing was sent since. */
void bulk_sender_note_applied(BulkSender *sender);

/* In use now; the most that were at a time. */
void bulk_sender_get_counts(BulkSender *sender, guint *ret_now, guint *ret_most);

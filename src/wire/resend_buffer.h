/*
 * What was sent and not confirmed yet
 *
 * Theory of operation: a ring of bytes, numbered from the channel's first one on.  A sender appends a
 * frame before it goes out; the peer's confirmations drop from the front; on a new connection what is
 * left is sent again from the byte on that the peer names.  The ring is as large as what is under way
 * has ever been, up to a limit: touching memory that is not needed costs more than copying it.
 *
 * Threads: any, it has its own lock.
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct ResendBuffer ResendBuffer;

/* *first*: the number of the next byte to be sent.  *limit*: bytes that it may hold. */
ResendBuffer *resend_buffer_new(uint64_t first, size_t limit);
void resend_buffer_free(ResendBuffer *buffer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ResendBuffer, resend_buffer_free)

/* Appends all pieces, or nothing where the limit leaves no room for them (FALSE).  A frame that is
 * larger than the limit fits into an empty ring. */
gboolean resend_buffer_append(ResendBuffer *buffer, const struct iovec *pieces, size_t count);

/* Another limit from now on; who waits looks again. */
void resend_buffer_set_limit(ResendBuffer *buffer, size_t limit);

/* The peer has all bytes before *number*.  FALSE where it cannot have: they were not sent.  A number
 * that is confirmed already changes nothing. */
gboolean resend_buffer_confirm(ResendBuffer *buffer, uint64_t number);

/* Whether the bytes from *number* on, up to the last one sent, are all here. */
gboolean resend_buffer_holds_from(ResendBuffer *buffer, uint64_t number);

/* Puts *length* bytes in the place of those from *number* on, where these are *before* and all here. */
gboolean resend_buffer_replace(ResendBuffer *buffer, uint64_t number, const uint8_t *before,
                               const uint8_t *bytes, size_t length);

/* Copies up to *length* bytes from *number* on, or from the first one that is not confirmed, and moves
 * *number* behind them; returns how many: 0 at the end. */
size_t resend_buffer_copy(ResendBuffer *buffer, uint64_t *number, void *out, size_t length);

/* Waits until something is confirmed, or resend_buffer_wake(), for *timeout_ms* at most. */
void resend_buffer_wait(ResendBuffer *buffer, guint timeout_ms);
void resend_buffer_wake(ResendBuffer *buffer);

uint64_t resend_buffer_count_unconfirmed(ResendBuffer *buffer);

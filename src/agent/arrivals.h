/*
 * Guests that are arriving, by name
 *
 * Theory of operation: a move that failed has left nothing behind once its destination has ended
 * the VMM and removed what it had made, which its source does not wait for.  So who tries again at
 * once would meet what is about to go.  An incoming move holds its guest's name until nothing of it
 * is left; the next one waits for that.
 *
 * One that has lost its connection may be waiting for its source to connect again.  Where the same
 * source brings the guest anew, that will not come any more.
 */
#pragma once

#include <glib.h>

#include "wire/session.h"

typedef struct Arrivals Arrivals;

Arrivals *arrivals_new(void);
void arrivals_free(Arrivals *arrivals);

/* Takes the name, for what comes by *session* (borrowed until arrivals_end(); NULL in tests); BUSY
 * where another one has it for longer than *timeout_ms*. */
gboolean arrivals_begin(Arrivals *arrivals, const char *name, Session *session, int timeout_ms,
                        GError **error);
void arrivals_end(Arrivals *arrivals, const char *name);

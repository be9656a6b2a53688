/*
 * The source's half of the witness's rules: may it take the guest over?
 *
 * Theory of operation: while a guest runs at its destination by leases (docs/witness.md), the source grants
 * some of them, and may one day have to take over.  Both go through one gate, so that they exclude
 * each other: what was granted has ended before the gate is passed, and once it is passed nothing is
 * granted any more.
 *
 *     grant()  the destination was heard: a lease for it, counted here
 *     try()    our own lease ended?  ──► the witness's claim ──► look once more: was there a grant
 *              meanwhile?  no: TAKEN, for good.  yes: the consent is given back
 *     settle() a consent that may be on record at the witness and is not needed is given back; until
 *              then it grants the destination nothing
 *
 * An agent that is restarted makes a new gate, which takes it for certain that a lease was granted just
 * before, and that a consent may be on record.  That the guest was taken over is its caller's to write
 * down: TAKEOVER in the journal is the next thing it does.
 *
 * Threads: any; one try() or settle() at a time goes on, grant() never waits for them.
 */
#pragma once

#include <glib.h>

#include "migrate/witness.h"

typedef struct TakeoverGate TakeoverGate;

/* *witness* is borrowed; NULL: there is none, and only takeover_gate_take() leads through.  *transaction* is
 * copied.  *restarted*: the guest was at the destination before this process came to it. */
TakeoverGate *takeover_gate_new(Witness *witness, const char *transaction, guint lease_ms,
                                gboolean restarted);
/* NULL-safe.  What is on record at the witness stays. */
void takeover_gate_free(TakeoverGate *gate);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TakeoverGate, takeover_gate_free)

/* The destination was heard, and asks for *wanted_ms* (0: the longest there is): for how long it is granted a
 * lease, in milliseconds, by the answer that is sent after this.  0: the guest was taken over, it gets none. */
guint takeover_gate_grant(TakeoverGate *gate, guint wanted_ms);

/* How long until what was granted has certainly ended, in milliseconds. */
guint takeover_gate_get_left_ms(TakeoverGate *gate);

typedef enum {
    TAKEOVER_TAKEN, /* nobody else runs the guest, or will: go on to TAKEOVER, there is no way back */
    TAKEOVER_LATER, /* not now: ask again, in *ret_wait_ms at the earliest */
    TAKEOVER_DENIED, /* never, by this witness: the destination goes on alone, or nobody knows of it */
} TakeoverDecision;

/* The destination cannot be reached.  *error* has the reason, unless TAKEN. */
TakeoverDecision takeover_gate_try(TakeoverGate *gate, int timeout_ms, guint *ret_wait_ms,
                                   GError **error);

/* The destination's agent has said itself that it has given the guest up. */
void takeover_gate_take(TakeoverGate *gate);

/* The destination is back: TRUE when no consent is on record (any more).  FALSE with *error*: ask again. */
gboolean takeover_gate_settle(TakeoverGate *gate, int timeout_ms, GError **error);

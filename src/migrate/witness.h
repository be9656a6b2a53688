/*
 * A witness, as the two hosts of a guest see it
 *
 * Theory of operation: whoever has a guest together with another host asks a third party who may go on
 * (docs/witness.md).  What that is stays open: a vmferry agent (witness_client.h), a store of records
 * with leases such as etcd, or a test.  A back end fills a table of functions; each call is one
 * question, has a time limit, and may be asked again whatever became of it: none does more when it
 * is done twice.
 *
 * What a call that fails means, unless *ret->answered*:
 *
 *     REGISTER     not known: ask again, or do not begin
 *     RENEW        no lease
 *     CLAIM        no consent.  It may be on record all the same: claim again, or give it back
 *     GIVE_BACK    there is no consent any more from the moment on at which this was *asked*
 *     FORGET       nothing; the record is pruned some day
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "wire/witness_message.h"

typedef struct {
    gboolean answered; /* the witness has answered, also where that was a refusal */
    WitnessState state;
    uint64_t sent_ns; /* clock_boot_ns() before the question was sent: a lease counts from here */
    guint lease_ms;   /* of a lease that was granted; 0: none */
    guint wait_ms;    /* of a CLAIM that was refused with BUSY: how long until it may be granted */
} WitnessReply;

typedef struct Witness Witness;

typedef struct {
    /* FALSE with *error*: refused (*ret->answered*), or not answered in time.  Of *request* the back
     * end makes the number. */
    gboolean (*call)(Witness *witness, const WitnessRequest *request, int timeout_ms,
                     WitnessReply *ret, GError **error);
    /* NULL: there is nothing to be done. */
    void (*attend)(Witness *witness, const char *transaction, guint lease_ms);
    void (*free)(Witness *witness);
} WitnessOps;

/* What each back end's own struct begins with. */
struct Witness {
    const WitnessOps *ops;
};

/* One question.  *ret* (may be NULL) is filled in any case.  Any thread; one call at a time goes on, so
 * a call may wait for another one's time limit, too. */
static inline gboolean witness_call(Witness *witness, const WitnessRequest *request, int timeout_ms,
                                    WitnessReply *ret, GError **error)
{
    WitnessReply unread;

    return witness->ops->call(witness, request, timeout_ms, ret ? ret : &unread, error);
}

/* The same, of what needs no more than the transaction: all but REGISTER. */
static inline gboolean witness_ask(Witness *witness, WitnessRequestKind kind,
                                   const char *transaction, int timeout_ms, WitnessReply *ret,
                                   GError **error)
{
    WitnessRequest request = {.kind = kind, .transaction = (char *)transaction};

    return witness_call(witness, &request, timeout_ms, ret, error);
}

/* From now on the source of *transaction* may have to claim it, as soon as the last lease has ended. */
static inline void witness_attend(Witness *witness, const char *transaction, guint lease_ms)
{
    if (witness->ops->attend)
        witness->ops->attend(witness, transaction, lease_ms);
}

static inline void witness_free(Witness *witness)
{
    if (witness)
        witness->ops->free(witness);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Witness, witness_free)

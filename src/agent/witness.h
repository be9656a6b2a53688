/*
 * The witness: who goes on, where the two hosts of a guest cannot reach each other
 *
 * Theory of operation: while a guest belongs to two hosts (a post-copy at `--safety full`; protection)
 * a third agent has one record of its transaction, durable and on the disk before it is spoken of:
 *
 *                      claim by the destination
 *     register ──► UNDECIDED ─────────────────────► DESTINATION ALONE     for good
 *                   │     ▲
 *      claim by the │     │ given back by the source
 *            source ▼     │
 *                SOURCE MAY take over                                      no leases any more
 *
 * The destination's guest runs by leases (policy/lease.h), one of which this agent grants.  So the
 * source is granted its claim only when the last lease has ended by the witness's own clock, margin
 * included.  Leases are not written down: after a restart each is taken to have been granted just now,
 * whatever the record says; until that has ended nothing is decided for the source.
 *
 * Who may speak: the agents (by their lasting ids) that the record names, with the name in their
 * certificate that it had then; and of each the connection that began last, so that nothing that was
 * under way on an earlier one comes behind what was said later.
 *
 * What cannot be found was never consented to: a record that was forgotten, pruned or lost leads to
 * no consent and no lease, and never to a second copy.
 *
 * Limits: WITNESS_MAX_TRANSACTIONS, and of these WITNESS_MAX_PER_SOURCE of one source.  A record of
 * which nobody has spoken for WITNESS_KEEP_DAYS is removed; one that is undecided, and has never granted a
 * lease, after WITNESS_KEEP_UNUSED_DAYS: its hosts have died before the guest was split.
 *
 * Threads: any; a record that is being written holds up requests about itself only.
 */
#pragma once

#include <glib.h>

#include "agent/store.h"
#include "wire/channel.h"
#include "wire/messages.h"
#include "wire/witness_message.h"

#define WITNESS_MAX_TRANSACTIONS 1024
#define WITNESS_MAX_PER_SOURCE 256
#define WITNESS_KEEP_DAYS 30
#define WITNESS_KEEP_UNUSED_DAYS 1

typedef struct WitnessTable WitnessTable;

/* Reads the records there are.  *store* must outlive the table; *agent_id* is this agent's; *now_ns*
 * of clock_boot_ns(), here and below. */
WitnessTable *witness_table_open(StateStore *store, const char *agent_id, uint64_t now_ns,
                                 GError **error);
/* NULL-safe. */
void witness_table_close(WitnessTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(WitnessTable, witness_table_close)

typedef struct {
    const char *agent;   /* its lasting id; "" for none */
    const char *name;    /* of its certificate; NULL where insecure */
    uint64_t connection; /* witness_table_number_connection() */
} WitnessPeer;

/* Of a connection that has begun: a number above those of all before. */
uint64_t witness_table_number_connection(WitnessTable *table);

/* Does what is asked; a refusal is in the answer.  *now_ns* was read after the request came. */
void witness_table_answer(WitnessTable *table, const WitnessPeer *peer,
                          const WitnessRequest *request, uint64_t now_ns, WitnessAnswer *ret);

/* How many transactions there are. */
guint witness_table_count(WitnessTable *table);

/* Answers a peer whose HELLO had the purpose "witness", until its connection ends.  FALSE where
 * it ends by an error. */
gboolean witness_serve(WitnessTable *table, Channel *channel, const HelloMessage *hello,
                       GError **error);

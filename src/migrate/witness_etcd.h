/*
 * A witness that is an etcd cluster
 *
 * Theory of operation: what an agent that is a witness keeps of a transaction (agent/witness.h) is kept
 * in two keys, and the same rules hold; but nobody is there who counts, so the two hosts do what the
 * witness would.
 *
 *     /vmferry/witness/TRANSACTION/state   the record: who, of which guest, how it stands
 *     /vmferry/witness/TRANSACTION/lease   the last lease: for how long; each one is a new revision
 *
 *     destination  RENEW  IF state is as read, lease as read     THEN lease = how long
 *     source       CLAIM  reads both; has to have waited since it first saw this revision of the lease,
 *                         by its own clock, for as long as that lease says, and a grantor's margin:
 *                         IF state is as read, lease as read     THEN state = source may take over
 *     both         the other decisions:  IF state is as read     THEN state = …
 *
 * The destination counts a lease from when it sent RENEW; the source sees its revision later than that,
 * and counts longer (policy/lease.h).  So no clock is shared, and no lease of etcd's own is needed.  A
 * lease is written for as long as any earlier one still lasts, since the source may see the last only.
 *
 * "As read" is by revision, which no two writes share.  Each consent and each giving back is a write,
 * also where it changes nothing: what was sent before, was not answered, and is still under way, finds
 * another revision and does nothing any more.  A lease that has been refused so is asked for again.
 *
 * Who may speak is what they say of themselves: whoever can write to the cluster can decide anything.
 *
 * Threads: any; one question at a time.  From attend() on a thread looks at the lease as often as it is
 * to be renewed, so that the source, when it claims, has been counting since the last one.
 */
#pragma once

#include "migrate/witness_client.h"

/* As witness_client_new(); *options->agent* is the cluster's id as witness_etcd_find_id() tells it. */
Witness *witness_etcd_new(const WitnessClientOptions *options);

/* Asks the cluster for its lasting id, in the form of an agent's.  NULL: not answered.  Free with
 * g_free(). */
char *witness_etcd_find_id(const char *address, int timeout_ms, GError **error);

/*
 * A witness that is a vmferry agent
 *
 * Theory of operation: one connection (HELLO "witness"), made with the first call, kept, and made anew
 * where a call found it broken or was not answered in time.  A call that finds a kept connection
 * ended, as where the witness was restarted, is tried once more on a new one.  An answer counts only
 * on the connection and for the number that it was asked with.
 *
 * Only the agent with the id that was named is a witness: another one that answers to its address
 * never heard of the transaction.
 */
#pragma once

#include "migrate/witness.h"
#include "wire/channel.h"

/* A peer that says nothing at all for this long, no heartbeat either, is given up. */
#define WITNESS_PEER_TIMEOUT_MS 2000

typedef struct {
    const char *address; /* HOST[:PORT] */
    const char *agent;   /* its lasting id; NULL: any, for who is about to learn it */
    /* For each connection: certificates may have been renewed.  Has to name our lasting id. */
    gboolean (*get_channel)(ChannelOptions *ret, gpointer user, GError **error);
    gpointer user;
} WitnessClientOptions;

/* Copies the texts; connects to nobody yet.  Free it with witness_free(). */
Witness *witness_client_new(const WitnessClientOptions *options);

/* The lasting id of the agent that was reached last; NULL: none was.  Free with g_free(). */
char *witness_client_get_agent(Witness *witness);

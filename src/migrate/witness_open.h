/* Which back end of a witness an address means (witness.h) */
#pragma once

#include "migrate/witness_client.h"

/* HOST[:PORT] of an agent (witness_client.h), or etcd://HOST[:PORT][,...] (witness_etcd.h).  Copies the
 * texts; connects to nobody yet.  What is wrong with an address each call says. */
Witness *witness_new(const WitnessClientOptions *options);

/* TRUE where *address* is that of a witness that is no agent: it has no pages. */
gboolean witness_address_is_foreign(const char *address);
/* FALSE with *error*: it can be none. */
gboolean witness_address_check(const char *address, GError **error);

/* Who it is, by its lasting id.  NULL: not answered.  *cancellable* may be NULL.  Free with g_free(). */
char *witness_find_id(const char *address, const ChannelOptions *channel, int timeout_ms,
                      GCancellable *cancellable, GError **error);

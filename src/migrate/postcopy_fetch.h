/*
 * A split guest's pages from its store
 *
 * The destination connects, since it knows that its source does not answer; from there on the store
 * is as a source that resumes (store_host.h has the sequence).
 */
#pragma once

#include "migrate/postcopy_destination.h"
#include "wire/messages.h"

typedef struct {
    const char *store;          /* HOST[:PORT] */
    const char *agent;          /* its lasting id */
    ResolveMessage transaction; /* the term is this host's; borrowed */
    ChannelOptions channel;
    GCancellable *cancellable;
} PostcopyFetchJob;

/* One attempt: TRUE where all of the guest's memory is here.  FALSE with *error*: NOT_FOUND: the
 * store has nothing of it; BUSY: it has given what it has; or it cannot be reached. */
gboolean postcopy_fetch(PostcopyDestination *split, const PostcopyFetchJob *job, GError **error);

/* Tells the store that nothing of it is needed any more.  FALSE where it cannot be told: then it
 * drops it by its time limit. */
gboolean postcopy_fetch_drop(const PostcopyFetchJob *job, GError **error);

/*
 * Looking at all hosts, again and again
 *
 * Theory of operation: a thread a host asks its agent again and again for GET /v1/load and GET /v1/guests, and now
 * and then for GET /v1/status; nothing else is ever sent from here.  What came, or what went wrong, is handed to the owner
 * in that thread.  A host that is in a hurry is asked twice a second.  A host that hangs delays nobody: its thread waits for the client's time-out, and its figures grow old.
 */
#pragma once

#include <gio/gio.h>

#include "base/json.h"
#include "engine/load.h"

typedef struct {
    Load *load;     /* taken by whoever is told */
    json_t *guests; /* the array of GET /v1/guests, borrowed */
    json_t *status; /* GET /v1/status, borrowed; NULL: not asked this time */
} PollerLook;

typedef struct {
    void (*on_look)(guint host, PollerLook *look, gpointer user);
    void (*on_failure)(guint host, const GError *error, gpointer user);
    gpointer user;
} PollerHandlers;

typedef struct Poller Poller;

/* *addresses*: NULL-terminated; hosts are told by their place in it. *stop*: cancelled when the engine ends. */
Poller *poller_new(const char *const *addresses, const char *pki_dir, guint interval_ms,
                   GCancellable *stop, const PollerHandlers *handlers, GError **error);

/* From now on it is in a hurry, or is not any more. */
void poller_hurry(Poller *poller, guint host, gboolean hurries);

/* Waits for the threads, which wait for no agent once *stop* is cancelled. */
void poller_free(Poller *poller);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Poller, poller_free)

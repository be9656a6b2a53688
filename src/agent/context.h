/*
 * What all parts of an agent share
 *
 * One AgentContext an agent; no part keeps anything in globals, so one process
 * (a test) can hold two agents.
 */
#pragma once

#include <gio/gio.h>
#include <glib.h>

#include "agent/arrivals.h"
#include "agent/departures.h"
#include "agent/events.h"
#include "agent/registry.h"
#include "agent/settings.h"
#include "agent/store.h"
#include "agent/transactions.h"
#include "agent/witness.h"
#include "wire/channel.h"

typedef struct {
    AgentSettings *settings;
    StateStore *store;
    Registry *registry;
    TransactionLog *transactions;
    DepartureLog *departures;
    Arrivals *arrivals;
    struct PostcopyTable *splits; /* of guests whose memory is not all here (postcopy.h) */
    WitnessTable *witness;        /* of guests of other hosts */
    struct SharedImages
        *shared; /* pages of images that guests here have in common (shared_images.h) */
    struct PageStores *stores;   /* of pages of other hosts' guests (page_stores.h) */
    struct Peers *peers;         /* the listener for other agents (peers.h); NULL: not yet */
    struct Collector *collector; /* of what this host and its guests use (load.h) */
    ChannelTraffic traffic;      /* with other agents */
    EventLog *events;
    TlsIdentity *identity; /* NULL: insecure, or no moves at all */
    char *host_name;
    char *boot_id;
    char *agent_id;                 /* of all runs of this agent (agent_id.h), in HELLO */
    char *instance;                 /* random: this run of this agent, in HELLO */
    char *listening;                /* the address peers reach us at, NULL for none */
    char *api_listening;            /* the address of the API over the network, NULL for none */
    GMainContext *main;             /* the loop of the thread that made the agent */
    gint stopping;                  /* atomic: no new work, background threads end */
    gint wake_pending;              /* atomic */
    gint path_checks;               /* atomic: that are under way (path_check.h) */
    void (*on_wake)(gpointer user); /* in the main loop, after agent_context_wake() */
    gpointer wake_user;

    GMutex background_lock;
    GCond background_ended;
    guint background_count;
} AgentContext;

AgentContext *agent_context_new(const AgentSettings *settings, GError **error);
void agent_context_free(AgentContext *context);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AgentContext, agent_context_free)

static inline gboolean agent_context_is_stopping(AgentContext *context)
{
    return g_atomic_int_get(&context->stopping) != 0;
}

/* Options of channels to and from peers.  FALSE where this agent has neither a
 * PKI nor leave to speak plain text. */
gboolean agent_context_get_channel_options(AgentContext *context, ChannelOptions *ret,
                                           GError **error);

/* There is something new for the control API's streams. */
void agent_context_wake(AgentContext *context);

/* Runs *function* in a thread that agent_context_join() waits for.  FALSE where
 * the system gives no thread; then *data* is still the caller's. */
gboolean agent_context_spawn(AgentContext *context, const char *name, GThreadFunc function,
                             gpointer data, GError **error);

/* The same for what must be done: tries again until there is a thread. */
void agent_context_spawn_surely(AgentContext *context, const char *name, GThreadFunc function,
                                gpointer data);

/* TRUE once no such thread is left. */
gboolean agent_context_is_idle(AgentContext *context);

/* Waits until all such threads have ended. */
void agent_context_join(AgentContext *context);

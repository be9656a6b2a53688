/* One agent in a thread of its own, and a client to it. */
#pragma once

#include "agent/agent.h"
#include "base/json.h"
#include "client/client.h"

typedef struct {
    char *folder;
    AgentSettings *settings;
    char *socket;
    Client *client;
    Agent *agent;
    GThread *thread;
    gint ready; /* atomic */
    GError *error;
} Host;

/* A host whose agent does not run yet. */
Host *host_new(void);

/* Starts the agent; FALSE where it refuses (host->error). */
gboolean host_start(Host *host);

/* Ends it as SIGTERM does. */
void host_stop(Host *host);
void host_free(Host *host);

/* GET, POST or DELETE; *body* is taken.  NULL and *error* as client_call(). */
json_t *host_call(Host *host, const char *method, const char *path, json_t *body, GError **error);

/* Waits until the guest's "state" is this ("" for no such guest), or fails. */
void host_await_state(Host *host, const char *guest, const char *state);
char *host_get_state(Host *host, const char *guest);

/* What the agent has written down of guest "web1"; "" where there is nothing. */
char *host_read_record(Host *host);

/* The agent knows that "web1" has gone to "hostb" (or, with FALSE, does not),
 * and has it on record. */
void host_assert_departed(Host *host, gboolean departed);

/* Waits until there is an event of this type, or fails. */
void host_assert_event(Host *host, const char *type);

/* Waits until *value* is reached, or fails. */
void await_count(gint *counter, gint value);

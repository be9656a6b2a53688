/* What those share that take a guest, or what it could go on from (incoming.c, standby.c). */
#pragma once

#include "agent/incoming.h"
#include "migrate/destination.h"

typedef struct {
    AgentContext *context;
    Session *session;
    char *arrives; /* the name that is held with the arrivals, or NULL */
    Guest *guest;  /* NULL until its name is taken */
    char *transaction;
    GPtrArray *rules;               /* of VmmMapRule */
    GPtrArray *storage_directories; /* of storage processes */
    GHashTable *storage_guards;     /* of processes that serve images */
    PostcopyDestination *split;     /* published; borrowed from the move */
    Guest *split_guest;             /* whose it is */
} Incoming;

/* For what is fetched; ends it, and whatever has come of it that was not settled. */
void incoming_begin(Incoming *incoming, AgentContext *context, Session *session);
void incoming_end(Incoming *incoming);

/* As a user of *incoming*. */
MigrateDestinationHost incoming_get_host(Incoming *incoming);

/* The agent's map rules in a VMM driver's form (of VmmMapRule); free with g_ptr_array_unref(). */
GPtrArray *incoming_make_rules(const AgentSettings *settings);

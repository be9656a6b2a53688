/*
 * A guest in the agent's care
 *
 * Theory of operation: a Guest is its record (record.h), its Vmm and what is
 * being done with it.  One thread at a time may do something that changes a
 * guest: it holds the guest's claim, a word that says what it does ("move",
 * "stop").  The holder of the claim is the only one to change the record; the
 * registry's lock makes reading it safe for the others.  The Vmm is set once
 * and lives as long as the guest, so anyone with a reference may ask it
 * things.
 */
#pragma once

#include <glib.h>

#include "agent/record.h"
#include "vmm/vmm.h"

typedef struct Move Move;         /* move.h */
typedef struct Registry Registry; /* registry.h */

typedef enum { DECISION_NONE, DECISION_KEEP_HERE, DECISION_KEEP_THERE } Decision;

typedef struct {
    gatomicrefcount references;
    Registry *registry;
    char *name; /* never changes, needs no lock */
    /* Protected by the registry's lock: */
    GuestRecord *record;
    Vmm *vmm;              /* NULL until it is reached */
    const char *claim;     /* what is being done with it, NULL for nothing */
    VmmRunState run_state; /* as last seen */
    Move *move;            /* while it moves away */
    char *problem;         /* why it cannot be reached or is in doubt, or NULL */
    Decision decision;     /* an operator's, for a guest in doubt … */
    char *decided;         /* … in this transaction; NULL: none */
    gboolean arriving;     /* by a move that is committed: HERE in a moment */
    gboolean process_gone; /* seen to have ended while somebody held the claim */
    gboolean removed;      /* no longer in the registry */
    GSource *watch;        /* on the process */
    json_t *summary;       /* machine, vCPUs, memory; NULL: not asked for yet */
} Guest;

Guest *guest_ref(Guest *guest);
void guest_unref(Guest *guest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Guest, guest_unref)

/* The state users see: "running", "paused", "migrating", "in-doubt", …
 * With the registry's lock held. */
const char *guest_get_shown_state(const Guest *guest);

/* What was decided of its present transaction.  With the registry's lock held. */
Decision guest_get_decision(const Guest *guest);

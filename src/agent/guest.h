/*
 * A guest that the agent manages
 *
 * Theory of operation: a Guest is its record (record.h: what it is to this
 * host), its Vmm, and two things of the moment.
 *
 * The *activity* is what goes on with it, if anything (activity.h): users see it,
 * follow it, cancel it.
 *
 * The *claim* is the right to change the guest and its record.  One thread at a
 * time has it; its text says for what ("move", "stop").  Who has it matters to
 * those who want it too, and to no others: what is shown of a guest, and
 * whether it is watched, follows from its role and its activity.
 *
 * The registry's lock makes reading the record safe for those without the claim.
 * The Vmm is set once, or replaced in a takeover, and lives as long as the guest, so anyone with a
 * reference may ask it things.
 */
#pragma once

#include <glib.h>

#include "agent/activity.h"
#include "agent/record.h"
#include "vmm/vmm.h"

typedef struct Registry Registry; /* registry.h */

typedef enum { DECISION_NONE, DECISION_KEEP_HERE, DECISION_KEEP_THERE } Decision;

typedef struct {
    gatomicrefcount references;
    Registry *registry;
    char *name; /* never changes, needs no lock */
    /* Protected by the registry's lock: */
    GuestRecord *record;
    Vmm *vmm;              /* NULL until it is reached */
    GPtrArray *former;     /* Vmms that it has had before; NULL: none */
    const char *claim;     /* what it was claimed for; NULL: it is free */
    Activity *activity;    /* what goes on with it, or NULL */
    VmmRunState run_state; /* as last seen */
    char *problem;         /* why it cannot be reached or is in doubt, or NULL */
    Decision decision;     /* an operator's, for a guest in doubt … */
    char *decided;         /* … in this transaction; NULL: none */
    gboolean settling;     /* it arrived or was found again: OURS and free in a moment */
    gboolean process_gone; /* seen to have ended while the claim was held */
    gboolean removed;      /* no longer in the registry */
    GSource *watch;        /* on the process */
    struct SharedImage
        *shared;     /* what its memory has in common with others (shared_images.h), or NULL */
    json_t *summary; /* machine, vCPUs, memory; NULL: not asked for yet */
} Guest;

Guest *guest_ref(Guest *guest);
void guest_unref(Guest *guest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Guest, guest_unref)

/* The state users see: "running", "paused", "migrating", "in-doubt", …
 * With the registry's lock held. */
const char *guest_get_shown_state(const Guest *guest);

/* TRUE where its run state is news: it is OURS and reachable, and what goes on
 * with it does not pause and resume it.  With the registry's lock held. */
gboolean guest_is_watched(const Guest *guest);

/* What was decided of its present transaction.  With the registry's lock held. */
Decision guest_get_decision(const Guest *guest);

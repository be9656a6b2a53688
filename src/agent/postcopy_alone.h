/*
 * A split guest goes on without its source, by the witness's leave
 *
 * Theory of operation: a guest that is protected and has a witness (docs/witness.md) waits with what it
 * sends out for a source that does not come: it might take over.  After the setting *alone-after*
 * the witness is asked; from its leave on the source may not.  That is put on record here, on the disk,
 * before anything leaves: then the guest runs without leases, its output passes, its pages come from
 * the store.
 *
 * Threads: that of who keeps the guest (postcopy.h).
 */
#pragma once

#include "agent/context.h"
#include "migrate/postcopy_destination.h"

/* Of a guest whose standby does not answer; less where *alone-after* is. */
#define POSTCOPY_ALONE_STANDBY_S 5u

typedef struct {
    gint64 next_us;   /* when it is tried again */
    gint64 looked_us; /* last */
    gint64
        awake_us; /* since when it has been looked without a gap: a host that stood still heard nobody */
    gboolean told; /* that it cannot go on alone */
} PostcopyAlone;

/* To be called a few times a second.  May wait a second for the witness. */
void postcopy_alone_look(PostcopyAlone *alone, AgentContext *context, Guest *guest,
                         PostcopyDestination *split);

/* All of its memory is here: the witness may forget about it. */
void postcopy_alone_end(AgentContext *context, PostcopyDestination *split);

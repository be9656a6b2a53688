/*
 * Guests that are restored from an image
 *
 * Theory of operation: the image (migrate/image_restore.h) tells the machine, and what it has for disks
 * (restored_disks.h).  A VMM is launched as for a guest that arrives, by the same map rules and checks, loads the device
 * state, and the guest runs, long before its memory is there.  A thread brings that; until it is done the guest is
 * RESTORING (record.h), which lets nothing else be done with it but to stop it.
 *
 *     RESTORING, no image on record     launching, loading: whatever fails, all of it goes
 *     RESTORING, image on record        it may have run: whatever fails, it stays, and waits for its memory
 *     OURS                              all of its memory is here; the image is not needed any more
 *
 * The same thread brings about what was wished of the guest itself (restored_guest.h).
 *
 * A restarted agent goes on from the same image (recovery_keep_restored()).  Is that damaged or gone, the guest waits for
 * what it needs of it, and its status says so.
 */
#pragma once

#include "agent/context.h"
#include "agent/restored_guest.h"

typedef struct {
    const char *file;
    const char *name;       /* NULL: as it was called when it was saved */
    const GPtrArray *rules; /* of VmmMapRule, before those of this host; may be empty */
    const char *disks_in;   /* RestoredDisksRequest.folder */
    gboolean trusts_disks;
    gboolean shares; /* memory that it only reads with other guests of this image */
    RestoredGuestWishes wishes;
} RestoreRequest;

/* Returns once the guest runs, or is paused as it was; a new reference. */
Guest *restore_start(AgentContext *context, const RestoreRequest *request, GError **error);

/* TRUE where the guest still lacks memory; then restore_stop() ends it, and returns when it is gone. */
gboolean restore_has(Guest *guest);
gboolean restore_stop(AgentContext *context, Guest *guest, GError **error);

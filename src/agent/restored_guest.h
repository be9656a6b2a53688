/*
 * What is still to be changed in a guest that was restored: its addresses, its clock
 *
 * Theory of operation: both need the guest's help, so they are done while it runs, by whoever brings its memory
 * (restore.h), and the guest is RESTORING until they are done or given up.  They are on record (GuestRecord.renewal), so
 * that a restarted agent goes on with them:
 *
 *     {"cards": [plan of vmm_plan_new_macs()], "clock": true}
 *
 * The restore stands whatever becomes of them: an event and the guest's problem say what was not done.
 */
#pragma once

#include "agent/context.h"
#include "migrate/image_restore.h"

typedef struct {
    gboolean new_macs;
    gboolean sets_clock;
} RestoredGuestWishes;

/* FALSE where that cannot be done with the guest of this image; nothing has begun. */
gboolean restored_guest_check(const ImageRestore *image, const RestoredGuestWishes *wishes,
                              GError **error);

/* For its record; its cards are cut off then.  *ret* is NULL where there are no wishes; free with json_decref(). */
gboolean restored_guest_plan(Vmm *vmm, const RestoredGuestWishes *wishes, json_t **ret,
                             GError **error);

typedef struct {
    AgentContext *context;
    Guest *guest;    /* borrowed */
    gint64 until;    /* 0: not begun */
    GString *failed; /* NULL: nothing */
} RestoredGuest;

void restored_guest_clear(RestoredGuest *restored);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(RestoredGuest, restored_guest_clear)

/* Does what can be done just now.  TRUE: nothing is left to be done; what has failed is in *failed*, for the guest's
 * problem. */
gboolean restored_guest_go_on(RestoredGuest *restored);

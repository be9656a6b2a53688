/*
 * What becomes of a guest's images here when they moved along
 *
 * Theory of operation: images that were copied to the destination are on the guest's record before
 * it is told to start there, so that whoever finds out that the guest has moved (the move itself,
 * or the recovery of a restarted agent) retires them: they get another name, by which nobody starts
 * the guest a second time by mistake, or are removed where that was asked for.  The new name holds
 * the guest's id, and a copy of the same guest that an earlier move left under it is replaced.
 */
#pragma once

#include "agent/record.h"
#include "agent/registry.h"

/* Puts them on record: *paths* of this host; NULL: none. */
gboolean moved_images_note(Guest *guest, char *const *paths, gboolean removes, GError **error);

/* The guest has moved. */
void moved_images_retire(const GuestRecord *record);

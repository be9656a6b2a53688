/* Guests as the control API shows them. */
#pragma once

#include "agent/guest.h"

/* From what is known; asks no VMM.  Free with json_decref(). */
json_t *guest_view_short(Guest *guest);

/* Asks the VMM too, where nothing is being done with the guest. */
json_t *guest_view_long(Guest *guest);

/* Asks the VMM what its machine is, where nothing is being done with the guest. */
void guest_view_learn_machine(Guest *guest);

/* Its disks, as the VMM tells them just now.  NULL with *error*: BUSY while something is being
 * done with the guest. */
json_t *guest_view_disks(Guest *guest, GError **error);

/*
 * Images of a machine in the neutral form
 *
 * Theory of operation: both sides of a move list their images, and talk about them by number.  Two VMMs of one kind list them
 * in one order; of two kinds the order is that of the disks in the description that goes in GUEST.  What was loaded
 * into the guest when it started (-kernel) is not of the machine, and left out.
 */
#pragma once

#include "state/machine_description.h"
#include "vmm/vmm.h"

/* Takes *images* (of VmmImage, as vmm_list_images() told; may be NULL: an error is set already) and returns those
 * of the machine's disks, in their order.  *map* (may be NULL) makes a path of the description one of this host; free its
 * result with g_free().  REFUSED with what is missing, or is there besides. */
GPtrArray *neutral_images_order(GPtrArray *images, const MachineDescription *machine,
                                char *(*map)(const char *path, gpointer user), gpointer user,
                                GError **error);

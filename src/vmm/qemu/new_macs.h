/*
 * New addresses for the network cards of a machine that goes on from a copy
 *
 * Theory of operation: a card's address is in its device state and in the driver of a running guest; nobody can change
 * it from outside behind that one's back.  So each card is taken out, which its guest does itself when it is asked to,
 * and another one like it is put in its place, with a new address.  From before the guest runs until then the card's
 * back end is down: nothing leaves, or comes, under the old address.
 *
 * What is to be done is written down before anything is (the plan), so that it can be gone on with whatever ends
 * meanwhile:
 *
 *     [{"path": QOM path, "id": "nic0" or null, "netdev": "net0", "mac_before": "…", "mac": "…",
 *       "options": what device_add takes for the new card}]
 *
 * Only cards of PCI machines that can be plugged, and that a -device of the command line has made.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

/* FALSE (UNSUPPORTED) with the card that cannot be taken out, by the machine that vmm_read_machine() told.  Pure. */
gboolean qemu_check_new_macs(json_t *machine, GError **error);

/* A random address that is locally administered, of one station; free with g_free(). */
char *qemu_make_mac(void);

/* PCI devices by guest address (QMP `query-pci`) and by path (`info qtree`). */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>

/* The device's path as it prefixes the names of its RAM blocks
 * ("0000:00:02.0", behind bridges "0000:00:01.0:00.0"); NULL where no BAR
 * covers *address*.  Free with g_free(). */
char *qemu_pci_find_device(json_t *buses, uint64_t address);

/* Vendor << 16 | device (as GUINT_TO_POINTER) of every PCI device, by path, out
 * of the text of `info qtree`.  Unlike `query-pci` this also shows devices
 * behind bridges that no firmware has set up, as at a destination.  Free with
 * g_hash_table_unref(). */
GHashTable *qemu_parse_pci_ids(const char *device_tree);

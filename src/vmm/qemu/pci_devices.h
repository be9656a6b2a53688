/* PCI devices by guest address (QMP `query-pci`). */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>

/* The device's path as it prefixes the names of its RAM blocks
 * ("0000:00:02.0", behind bridges "0000:00:01.0:00.0"); NULL where no BAR
 * covers *address*.  Free with g_free(). */
char *qemu_pci_find_device(json_t *buses, uint64_t address);

/* Writers with an address space of their own, in what the live machine tells. */
#pragma once

#include <glib.h>
#include <jansson.h>

/* Searches the texts of `info qtree` and `info network`; returns the type of
 * the first such device or back end (free with g_free()), NULL for none. */
char *qemu_find_live_writer(const char *device_tree, const char *networks);

/* The same in an answer of query-named-block-nodes: QEMU's own NVMe driver lets
 * the hardware write into guest memory. */
char *qemu_find_live_block_writer(json_t *nodes);

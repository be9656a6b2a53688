/*
 * Byte arrays of Bochs's devices, which its debugger does not show
 *
 * Theory of operation: of configuration spaces, CMOS, palettes and the like `show` tells only the size.  They are read
 * from the process's memory, where they are found in a machine that has not run yet.  Some begin with bytes that are
 * known: of all places that have these the right one is where a byte that has no effect shows up when
 * `restore` sets it; then all is set back.  The others are empty: random bytes are set by `restore` and looked for,
 * and zeros are put back.  None is moved as long as the process lives.
 *
 * What `restore` takes as text (short arrays) is set by it; what it reads from files is written to its place.
 */
#pragma once

#include "memory/guest_memory.h"
#include "vmm/bochs/form.h"
#include "vmm/bochs/process.h"

typedef struct {
    const char *device, *path;
    uint64_t address; /* in Bochs's process */
    guint length;
} BochsPlace;

/* Of a machine that is at its first prompt.  An array of BochsPlace, free with g_array_unref(): those of the devices that it
 * has.  After a failure the machine is not to be used. */
GArray *bochs_places_find(BochsProcess *process, const RamRegion *ram, GError **error);

/* Adds what the places have to *shown*. */
gboolean bochs_places_read(BochsProcess *process, const GArray *places, BochsForm *shown,
                           GError **error);

/* Writes what *wanted* has of bytes that `restore` does not set. */
gboolean bochs_places_write(BochsProcess *process, const GArray *places, const BochsForm *wanted,
                            GError **error);

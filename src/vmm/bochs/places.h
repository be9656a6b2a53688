/*
 * Byte arrays of Bochs's devices, which its debugger does not show
 *
 * Theory of operation: of configuration spaces and CMOS `show` tells only the size.  They are read from
 * the process's memory, where they are found in a machine that has not run yet: each begins with bytes
 * that are known.  Of all places that have these the right one is where a byte that has no effect shows
 * up when `restore` sets it; then all is set back.  None is moved as long as the process lives.
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

/* Of a machine that is at its first prompt.  An array of BochsPlace, free with g_array_unref().  After
 * a failure the machine is not to be used. */
GArray *bochs_places_find(BochsProcess *process, const RamRegion *ram, GError **error);

/* Adds what the places have to *shown*. */
gboolean bochs_places_read(BochsProcess *process, const GArray *places, BochsForm *shown,
                           GError **error);

/* A block of guest RAM as a VMM driver reports it. */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct {
    char *name;            /* the VMM's own name of the block ("pc.ram") */
    uint64_t host_address; /* in the VMM process */
    uint64_t bytes;        /* bytes in use, what must reach the other side */
} RamRegion;

RamRegion *ram_region_new(const char *name, uint64_t host_address, uint64_t bytes);
void ram_region_free(RamRegion *region);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RamRegion, ram_region_free)

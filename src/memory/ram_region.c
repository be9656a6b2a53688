#include "memory/ram_region.h"

RamRegion *ram_region_new(const char *name, uint64_t host_address, uint64_t bytes)
{
    RamRegion *region = g_new0(RamRegion, 1);

    region->name = g_strdup(name);
    region->host_address = host_address;
    region->bytes = bytes;
    return region;
}

void ram_region_free(RamRegion *region)
{
    if (!region)
        return;
    g_free(region->name);
    g_free(region);
}

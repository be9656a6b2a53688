/* What disks have done, as query-blockstats tells it. */
#pragma once

#include "base/json.h"
#include "vmm/vmm.h"

/* Of the whole list; FALSE where it is none, or counts more than can be. */
gboolean qemu_parse_disk_counters(json_t *statistics, VmmDiskCounters *ret, GError **error);

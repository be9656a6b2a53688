/* The names of the dirty trackers, for options and reports. */
#pragma once

#include <glib.h>

typedef enum {
    TRACKER_AUTO,         /* the best that the kernel offers */
    TRACKER_PAGEMAP_SCAN, /* Linux 6.7: asynchronous write protection, PAGEMAP_SCAN */
    TRACKER_UFFD_SYNC,    /* older kernels: a write-protect fault for each first write */
} TrackerKind;

/* "auto", "pagemap-scan", "uffd-sync" */
const char *tracker_kind_name(TrackerKind kind);
gboolean tracker_kind_from_name(const char *name, TrackerKind *ret);

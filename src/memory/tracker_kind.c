#include "memory/tracker_kind.h"

#include <string.h>

static const char *const names[] = {
    [TRACKER_AUTO] = "auto",
    [TRACKER_PAGEMAP_SCAN] = "pagemap-scan",
    [TRACKER_UFFD_SYNC] = "uffd-sync",
};

const char *tracker_kind_name(TrackerKind kind)
{
    return names[kind];
}

gboolean tracker_kind_from_name(const char *name, TrackerKind *ret)
{
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (TrackerKind)i;
            return TRUE;
        }
    }
    return FALSE;
}

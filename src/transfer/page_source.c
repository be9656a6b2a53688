#include "transfer/page_source.h"

#include <inttypes.h>

#include "base/error.h"

gboolean page_regions_are_equal(const PageRegions *regions, const PageRegions *others,
                                GError **error)
{
    if (regions->count != others->count) {
        error_set(error, VMFERRY_ERROR_INVALID, "%u RAM blocks, not %u", regions->count,
                  others->count);
        return FALSE;
    }
    for (guint i = 0; i < regions->count; i++) {
        if (regions->pages[i] == others->pages[i] &&
            g_str_equal(regions->names[i], others->names[i]))
            continue;
        error_set(error, VMFERRY_ERROR_INVALID,
                  "RAM block %s of %" PRIu64 " pages, not %s of %" PRIu64, regions->names[i],
                  regions->pages[i], others->names[i], others->pages[i]);
        return FALSE;
    }
    return TRUE;
}

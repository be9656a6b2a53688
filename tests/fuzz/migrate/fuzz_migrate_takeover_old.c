/* What is written down of the old VMM of a takeover: what is accepted is made of whole pages. */
#include <stdint.h>
#include <stdlib.h>

#include "base/page.h"
#include "memory/guest_memory.h"
#include "migrate/takeover_old.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_autoptr(TakeoverOld) old = takeover_old_parse(text, size, NULL);

    for (guint i = 0; old && i < old->regions->len; i++) {
        const RamRegion *region = old->regions->pdata[i];

        if (region->bytes == 0 || region->bytes % PAGE_BYTES != 0 ||
            region->host_address > UINT64_MAX - region->bytes)
            abort();
    }
    return 0;
}

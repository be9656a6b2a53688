#include "page/sent_store_mode.h"

#include <string.h>

static const char *const names[] = {
    [SENT_STORE_AUTO] = "auto",
    [SENT_STORE_FINGERPRINT] = "fingerprint",
    [SENT_STORE_SHADOW] = "shadow",
    [SENT_STORE_OFF] = "off",
};
G_STATIC_ASSERT(G_N_ELEMENTS(names) == SENT_STORE_OFF + 1);

const char *sent_store_mode_name(SentStoreMode mode)
{
    return names[mode];
}

gboolean sent_store_mode_from_name(const char *name, SentStoreMode *ret)
{
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (SentStoreMode)i;
            return TRUE;
        }
    }
    return FALSE;
}

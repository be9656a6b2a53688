/* How it is remembered what the destination holds; names for options and reports. */
#pragma once

#include <glib.h>

typedef enum {
    SENT_STORE_AUTO,        /* fingerprints, and copies of the pages that pay for it */
    SENT_STORE_FINGERPRINT, /* fingerprints of small blocks only */
    SENT_STORE_SHADOW,      /* copies of pages only */
    SENT_STORE_OFF,         /* nothing: whole pages are sent */
} SentStoreMode;

/* "auto", "fingerprint", "shadow", "off" */
const char *sent_store_mode_name(SentStoreMode mode);
gboolean sent_store_mode_from_name(const char *name, SentStoreMode *ret);

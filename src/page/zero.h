/* Is this page all zero?  Implementations as in difference.h. */
#pragma once

#include <glib.h>
#include <stdint.h>

/* *page*: 4096 bytes; no alignment is needed. */
gboolean zero_is_page(const uint8_t *page);

/* For tests: the implementations by themselves.  NULL after the last. */
typedef struct {
    const char *name;
    gboolean (*is_available)(void);
    gboolean (*is_zero)(const uint8_t *page);
} ZeroWay;

const ZeroWay *zero_way(guint index);

/* Is this page all zero? */
#pragma once

#include <glib.h>
#include <stdint.h>

/* *page*: 4096 bytes, 8-byte aligned. */
gboolean zero_is_page(const uint8_t *page);

/*
 * Would this shrink?  A guess from a few pages of it
 *
 * Theory of operation: guests hold what is packed or encrypted already side by
 * side with what is not, and packing the former costs time for nothing.  A few
 * pages, spread over the bytes, are looked at: LZ4 finds what repeats itself
 * within a page.  For Zstandard, which codes literals by their frequency,
 * too, the order-0 entropy (Shannon 1948) of the same pages is taken besides.
 * A few pages, each for itself, shrink less than all together.
 */
#pragma once

#include <glib.h>

#include "page/pack.h"

/* *length* bytes, whole pages of 4096 bytes.  Always TRUE for a few of them,
 * where trying costs as little. */
gboolean pack_sample_shrinks(PackContext *context, PackMethod method, const uint8_t *bytes,
                             size_t length);

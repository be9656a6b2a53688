/*
 * Maps of pages: laying those of an increment over those of its base
 *
 * A map is a GArray of ImageMapRun, ascending and not overlapping (image_index.h).
 *
 * Pure functions.
 */
#pragma once

#include "image/image_index.h"

/* What *upper* has, and what *lower* has besides.  A new map; g_array_unref(). */
GArray *image_map_overlay(const GArray *upper, const GArray *lower);

/* The run that has *page*, or NULL.  Then *ret_hole* (may be NULL): the pages around it, below
 * *pages*, that are in no run. */
const ImageMapRun *image_map_find(const GArray *map, uint64_t page, uint64_t pages,
                                  PageSpan *ret_hole);

/* The implementations of difference_page(), one a file; see difference.h. */
#pragma once

#include "page/difference.h"

gboolean difference_page_portable(const uint8_t *old_page, const uint8_t *new_page,
                                  uint64_t ret[DIFFERENCE_WORDS]);

/* Needs AVX2. */
gboolean difference_page_avx2(const uint8_t *old_page, const uint8_t *new_page,
                              uint64_t ret[DIFFERENCE_WORDS]);

/* Needs AVX-512 BW. */
gboolean difference_page_avx512(const uint8_t *old_page, const uint8_t *new_page,
                                uint64_t ret[DIFFERENCE_WORDS]);

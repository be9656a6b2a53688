/* The implementations of fingerprint_page(), one a file; see fingerprint.h.
 * *key_words*: FINGERPRINT_KEY_WORDS words. */
#pragma once

#include "page/fingerprint.h"

/* x^64 = x^4 + x^3 + x + 1 */
#define FINGERPRINT_POLYNOMIAL 0x1b

/* Of a sum of products. */
uint64_t fingerprint_reduce(uint64_t low, uint64_t high);

void fingerprint_page_portable(const uint64_t *key_words, const uint8_t *page, guint block_bytes,
                               uint64_t *ret);

/* Needs PCLMULQDQ. */
void fingerprint_page_pclmul(const uint64_t *key_words, const uint8_t *page, guint block_bytes,
                             uint64_t *ret);

/* Needs AVX2 and VPCLMULQDQ. */
void fingerprint_page_avx2(const uint64_t *key_words, const uint8_t *page, guint block_bytes,
                           uint64_t *ret);

/* Needs AVX-512 F and VPCLMULQDQ. */
void fingerprint_page_avx512(const uint64_t *key_words, const uint8_t *page, guint block_bytes,
                             uint64_t *ret);

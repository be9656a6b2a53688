/*
 * Keyed fingerprints of small blocks
 *
 * Theory of operation: a page is seen as blocks of 64 to 4096 bytes, and a
 * block as 64-bit words m[0], m[1] ... (little-endian).  With secret random
 * words k[0], k[1] ... its fingerprint is
 *
 *     h = sum over i of (m[2i] + k[2i]) * (m[2i+1] + k[2i+1])
 *
 * in GF(2^64) = GF(2)[x] / (x^64 + x^4 + x^3 + x + 1), where "+" is xor (NH
 * of Black, Halevi, Krawczyk, Krovetz and Rogaway 1999, with polynomials for
 * integers, as in Lemire and Kaser's CLHASH, 2015, but reduced to 64 bits).
 *
 * Two different blocks have equal fingerprints with probability 2^-64 exactly,
 * over the choice of the key.  Proof: let m[2i] and n[2i] differ (else swap
 * the roles of a pair).  In h(m) + h(n) the word k[2i+1] occurs once, as
 * (m[2i] + n[2i]) * k[2i+1], and what it is multiplied with is not 0; so
 * whatever the other words are, exactly one of its 2^64 values gives 0.
 *
 * Fingerprints that are compared, at the same block of one page at two times,
 * therefore mislead with probability at most (number of comparisons) * 2^-64:
 * for 2^20 pages of 32 blocks, dirty in each of 100 rounds, 2^31.7 * 2^-64 <
 * 2^-32.  This holds for contents that do not depend on the key; so the key
 * comes from getrandom(2), is made anew for each move, and neither it nor a
 * fingerprint ever leaves the process.
 *
 * Implementations: VPCLMULQDQ on 512 or 256 bits, PCLMULQDQ, plain integers.
 * All give the same values; the key picks one when it is made.
 *
 * A key is immutable; any number of threads use it at a time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/page.h"

#define FINGERPRINT_BLOCK_MIN 64u
#define FINGERPRINT_BLOCK_MAX PAGE_BYTES
#define FINGERPRINT_KEY_WORDS (FINGERPRINT_BLOCK_MAX / 8)
#define FINGERPRINT_PAGE_MAX (PAGE_BYTES / FINGERPRINT_BLOCK_MIN)

typedef struct FingerprintKey FingerprintKey;

/* A new secret; NULL where the kernel gives no random bytes. */
FingerprintKey *fingerprint_key_new(void);
void fingerprint_key_free(FingerprintKey *key);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FingerprintKey, fingerprint_key_free)

/* The fingerprints of a page's 4096 / block_bytes blocks.  *block_bytes*: a
 * power of two, 64..4096.  The page needs no alignment. */
void fingerprint_page(const FingerprintKey *key, const uint8_t *page, guint block_bytes,
                      uint64_t *ret);

/* For tests: the implementations by themselves.  NULL after the last; the
 * first, portable one is always available. */
typedef struct {
    const char *name;
    gboolean (*is_available)(void);
    void (*page)(const uint64_t *key_words, const uint8_t *page, guint block_bytes, uint64_t *ret);
} FingerprintWay;

const FingerprintWay *fingerprint_way(guint index);

/* A key that is known (FINGERPRINT_KEY_WORDS words), used in one way. */
FingerprintKey *fingerprint_key_new_known(const uint64_t *words, const FingerprintWay *way);

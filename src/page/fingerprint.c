#include "page/fingerprint.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "page/fingerprint_ways.h"

struct FingerprintKey {
    const FingerprintWay *way;
    uint64_t words[FINGERPRINT_KEY_WORDS];
};

static gboolean always(void)
{
    return TRUE;
}

static gboolean has_pclmul(void)
{
    return __builtin_cpu_supports("pclmul") != 0;
}

static gboolean has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("vpclmulqdq");
}

static gboolean has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
}

/* From the slowest to the fastest. */
static const FingerprintWay ways[] = {
    {"portable", always, fingerprint_page_portable},
    {"pclmul", has_pclmul, fingerprint_page_pclmul},
    {"avx2", has_avx2, fingerprint_page_avx2},
    {"avx512", has_avx512, fingerprint_page_avx512},
};

const FingerprintWay *fingerprint_way(guint index)
{
    return index < G_N_ELEMENTS(ways) ? &ways[index] : NULL;
}

static const FingerprintWay *fastest_way(void)
{
    guint index = G_N_ELEMENTS(ways) - 1;

    while (index > 0 && !ways[index].is_available())
        index--;
    return &ways[index];
}

static gboolean fill_random(void *out, size_t length)
{
    uint8_t *at = out;

    while (length > 0) {
        ssize_t got = getrandom(at, length, 0);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return FALSE;
        at += got;
        length -= (size_t)got;
    }
    return TRUE;
}

FingerprintKey *fingerprint_key_new(void)
{
    g_autoptr(FingerprintKey) key = g_new0(FingerprintKey, 1);

    key->way = fastest_way();
    return fill_random(key->words, sizeof key->words) ? g_steal_pointer(&key) : NULL;
}

FingerprintKey *fingerprint_key_new_known(const uint64_t *words, const FingerprintWay *way)
{
    FingerprintKey *key = g_new0(FingerprintKey, 1);

    key->way = way;
    memcpy(key->words, words, sizeof key->words);
    return key;
}

void fingerprint_key_free(FingerprintKey *key)
{
    if (!key)
        return;
    explicit_bzero(key->words, sizeof key->words);
    g_free(key);
}

void fingerprint_page(const FingerprintKey *key, const uint8_t *page, guint block_bytes,
                      uint64_t *ret)
{
    key->way->page(key->words, page, block_bytes, ret);
}

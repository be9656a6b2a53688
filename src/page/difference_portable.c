#include "page/difference_ways.h"

#include <string.h>

#define LOW_SEVEN UINT64_C(0x7f7f7f7f7f7f7f7f)

/* One bit for each byte of *word* that is not zero. */
static uint64_t nonzero_bytes(uint64_t word)
{
    /* Each byte's top bit: is any of its bits set? (No carry leaves a byte.) */
    uint64_t tops = (((word & LOW_SEVEN) + LOW_SEVEN) | word) & ~LOW_SEVEN;

    /* Gathers the eight top bits, spread over the word, in its top byte. */
    return (tops >> 7) * UINT64_C(0x0102040810204080) >> 56;
}

gboolean difference_page_portable(const uint8_t *old_page, const uint8_t *new_page,
                                  uint64_t ret[DIFFERENCE_WORDS])
{
    uint64_t any = 0;

    for (guint word = 0; word < DIFFERENCE_WORDS; word++) {
        uint64_t old_words[8], new_words[8], bits = 0;

        memcpy(old_words, old_page + 64 * word, sizeof old_words);
        memcpy(new_words, new_page + 64 * word, sizeof new_words);
        for (guint i = 0; i < 8; i++)
            bits |= old_words[i] == new_words[i]
                        ? 0
                        : nonzero_bytes(old_words[i] ^ new_words[i]) << (8 * i);
        ret[word] = bits;
        any |= bits;
    }
    return any != 0;
}

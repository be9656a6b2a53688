#include "touch.h"

#include "arena.h"
#include "console.h"
#include "content.h"
#include "timings.h"

#define LONG_MS 0.05

static Timings long_touches = {.lock = PTHREAD_MUTEX_INITIALIZER};

static unsigned count_bits(uint64_t largest)
{
    return largest < 4 ? 2 : 64 - (unsigned)__builtin_clzll(largest);
}

/* A bijection of the numbers of that many bits: so is each of its steps. */
static uint64_t scramble(uint64_t number, unsigned bits, uint64_t seed)
{
    uint64_t mask = (1ull << bits) - 1;

    for (uint64_t round = 0; round < 4; round++) {
        number = (number * (hash3(seed, round, 5) | 1) + seed) & mask;
        number ^= number >> bits / 2;
    }
    return number;
}

uint64_t touch_permute(uint64_t index, uint64_t count, uint64_t seed)
{
    unsigned bits = count_bits(count - 1);

    /* Its cycle comes back to where it began, so it comes by a number that is small enough. */
    do
        index = scramble(index, bits, seed);
    while (index >= count);
    return index;
}

void touch_page(uint64_t page)
{
    double begin_ms = now_ms(), end_ms;

    arena_touch_page(page);
    end_ms = now_ms();
    if (end_ms - begin_ms >= LONG_MS)
        timings_add(&long_touches, begin_ms, end_ms);
}

uint64_t touch_list_long(uint64_t from, uint64_t *ret_first, char *line, size_t size)
{
    return timings_list(&long_touches, from, ret_first, line, size);
}

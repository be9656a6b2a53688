#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/page.h"
#include "page/difference.h"

#define BYTES PAGE_BYTES

/* Room to shift a page off its alignment. */
typedef struct {
    uint8_t before[BYTES + 64], after[BYTES + 64];
} Pair;

static void fill_random(GRand *random, uint8_t *out, size_t length)
{
    for (size_t i = 0; i < length; i++)
        out[i] = (uint8_t)g_rand_int(random);
}

static void check_way(const DifferenceWay *way, const uint8_t *before, const uint8_t *after)
{
    uint64_t bits[DIFFERENCE_WORDS];
    gboolean any = way->compare(before, after, bits);

    assert_int_equal(any, memcmp(before, after, BYTES) != 0);
    for (guint i = 0; i < BYTES; i++)
        assert_int_equal(bits[i / 64] >> (i % 64) & 1, before[i] != after[i]);
}

static void check_all_ways(const uint8_t *before, const uint8_t *after)
{
    const DifferenceWay *way;

    for (guint i = 0; (way = difference_way(i)); i++)
        if (way->is_available())
            check_way(way, before, after);
}

static void test_equal_and_inverse(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    Pair pair;

    fill_random(random, pair.before, BYTES);
    memcpy(pair.after, pair.before, BYTES);
    check_all_ways(pair.before, pair.after);
    for (guint i = 0; i < BYTES; i++)
        pair.after[i] ^= (uint8_t)(1 + g_rand_int_range(random, 0, 255));
    check_all_ways(pair.before, pair.after);
}

/* One bit at each place, so that no lane and no end is forgotten. */
static void test_each_byte(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(2);
    Pair pair;

    fill_random(random, pair.before, BYTES);
    memcpy(pair.after, pair.before, BYTES);
    for (guint i = 0; i < BYTES; i++) {
        pair.after[i] ^= (uint8_t)(1u << i % 8);
        check_all_ways(pair.before, pair.after);
        pair.after[i] = pair.before[i];
    }
}

static void test_random_unaligned(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(3);
    Pair pair;

    for (int step = 0; step < 300; step++) {
        guint shift_before = (guint)g_rand_int_range(random, 0, 64);
        guint shift_after = (guint)g_rand_int_range(random, 0, 64);
        gint changes = g_rand_int_range(random, 0, 1 << g_rand_int_range(random, 1, 12));

        fill_random(random, pair.before + shift_before, BYTES);
        memcpy(pair.after + shift_after, pair.before + shift_before, BYTES);
        for (gint i = 0; i < changes; i++)
            pair.after[shift_after + g_rand_int_range(random, 0, BYTES)] =
                (uint8_t)g_rand_int(random);
        check_all_ways(pair.before + shift_before, pair.after + shift_after);
    }
}

/* What is chosen at run time is one of them. */
static void test_choice(void **state)
{
    uint8_t before[BYTES] = {0}, after[BYTES] = {0};
    uint64_t bits[DIFFERENCE_WORDS];

    assert_false(difference_page(before, after, bits));
    after[4095] = 1;
    assert_true(difference_page(before, after, bits));
    assert_true(bits[63] == UINT64_C(1) << 63);
    assert_string_equal(difference_way(0)->name, "portable");
    assert_true(difference_way(0)->is_available());
    assert_null(difference_way(1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_and_inverse),
        cmocka_unit_test(test_each_byte),
        cmocka_unit_test(test_random_unaligned),
        cmocka_unit_test(test_choice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

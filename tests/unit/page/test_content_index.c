/* Equal pages are found, others never; a full index goes on answering. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "page/content_index.h"

#define BYTES 4096u
#define MIB (1u << 20)

/* A page of its own for each number. */
static void fill(uint8_t *page, uint32_t number)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(number);

    for (guint i = 0; i < BYTES; i += 4) {
        uint32_t word = g_rand_int(random);

        memcpy(page + i, &word, sizeof word);
    }
}

static void test_finds_the_first(void **state)
{
    g_autoptr(ContentIndex) index = content_index_new(2000, MIB);
    uint8_t page[BYTES];
    uint32_t place;

    for (uint32_t i = 0; i < 2000; i++) {
        fill(page, i);
        assert_false(content_index_find_or_add(index, page, i, &place));
    }
    for (uint32_t i = 0; i < 2000; i++) {
        fill(page, i);
        assert_true(content_index_find_or_add(index, page, 5000 + i, &place));
        assert_int_equal(place, i);
    }
}

/* Pages that differ in one bit, wherever it is, are not equal. */
static void test_each_bit(void **state)
{
    g_autoptr(ContentIndex) index = content_index_new(BYTES * 8, 4 * MIB);
    uint8_t page[BYTES] = {0};
    uint32_t place;

    assert_false(content_index_find_or_add(index, page, 0, &place));
    for (guint bit = 0; bit < BYTES * 8; bit += 3) {
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_false(content_index_find_or_add(index, page, 1 + bit, &place));
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_true(content_index_find_or_add(index, page, 7, &place));
    assert_int_equal(place, 0);
}

static void test_full(void **state)
{
    g_autoptr(ContentIndex) index = content_index_new(1000000, 16 * 1024);
    uint32_t place, found = 0;
    uint8_t page[BYTES];

    assert_int_equal(content_index_get_bytes(index), 16 * 1024);
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < 3000; i++) {
            fill(page, i);
            if (content_index_find_or_add(index, page, i, &place)) {
                assert_int_equal(place, i);
                found++;
            }
        }
    }
    assert_int_equal(found, 768); /* three quarters of 1024 slots of 16 bytes */
}

static void test_size(void **state)
{
    g_autoptr(ContentIndex) small = content_index_new(10, MIB);
    g_autoptr(ContentIndex) large = content_index_new(262144, 64 * MIB);

    assert_null(content_index_new(10, 4096));
    assert_int_equal(content_index_get_bytes(small), 16 * 1024);
    assert_int_equal(content_index_get_bytes(large), 8 * MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_the_first),
        cmocka_unit_test(test_each_bit),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

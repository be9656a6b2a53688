/* What was sent and not confirmed: a ring that grows, against a plain copy of all that was appended. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "wire/resend_buffer.h"

#define LIMIT ((size_t)1 << 20)
#define ROUNDS 3000
#define FIRST 12345u

static gboolean append(ResendBuffer *buffer, const uint8_t *data, size_t length)
{
    struct iovec pieces[] = {{(void *)data, length / 3},
                             {(void *)(data + length / 3), length - length / 3}};

    return resend_buffer_append(buffer, pieces, 2);
}

static void expect_from(ResendBuffer *buffer, uint64_t number, const GByteArray *all)
{
    size_t left = all->len - (size_t)(number - FIRST);
    g_autofree uint8_t *out = g_malloc(left + 1);
    uint64_t at = number;
    size_t got = 0, here;

    while ((here = resend_buffer_copy(buffer, &at, out + got, 70000)) > 0)
        got += here;
    assert_int_equal(got, left);
    assert_int_equal(at, FIRST + all->len);
    if (left > 0)
        assert_memory_equal(out, all->data + (number - FIRST), left);
}

static void test_random(void **state)
{
    g_autoptr(ResendBuffer) buffer = resend_buffer_new(FIRST, LIMIT);
    g_autoptr(GByteArray) all = g_byte_array_new();
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    uint64_t confirmed = FIRST;

    for (guint i = 0; i < ROUNDS; i++) {
        size_t length = (size_t)g_rand_int_range(rand, 1, i % 50 == 0 ? 300000 : 3000);
        g_autofree uint8_t *data = g_malloc(length);
        uint64_t held = FIRST + all->len - confirmed;

        for (size_t k = 0; k < length; k++)
            data[k] = (uint8_t)g_rand_int(rand);
        assert_int_equal(append(buffer, data, length), held == 0 || held + length <= LIMIT);
        if (held == 0 || held + length <= LIMIT)
            g_byte_array_append(all, data, (guint)length);
        assert_int_equal(resend_buffer_count_unconfirmed(buffer), FIRST + all->len - confirmed);
        if (i % 7 == 0) {
            confirmed += (uint64_t)(g_rand_double(rand) * (double)(FIRST + all->len - confirmed));
            assert_true(resend_buffer_confirm(buffer, confirmed));
        }
        if (i % 100 == 0)
            expect_from(buffer, confirmed, all);
    }
    expect_from(buffer, confirmed, all);
    assert_true(resend_buffer_confirm(buffer, FIRST + all->len));
    expect_from(buffer, FIRST + all->len, all);
}

static void test_a_frame_beyond_the_limit(void **state)
{
    g_autoptr(ResendBuffer) buffer = resend_buffer_new(0, 1000);
    g_autofree uint8_t *data = g_malloc0(5000);

    assert_true(append(buffer, data, 5000));
    assert_false(append(buffer, data, 1));
    assert_true(resend_buffer_confirm(buffer, 5000));
    assert_true(append(buffer, data, 900));
    assert_false(append(buffer, data, 101));
    assert_true(append(buffer, data, 100));
}

static void test_what_cannot_be(void **state)
{
    g_autoptr(ResendBuffer) buffer = resend_buffer_new(FIRST, LIMIT);

    assert_true(append(buffer, (const uint8_t *)"0123456789", 10));
    assert_false(resend_buffer_confirm(buffer, FIRST + 11));
    assert_true(resend_buffer_confirm(buffer, FIRST + 4));
    assert_true(resend_buffer_confirm(buffer, FIRST)); /* old news */
    assert_int_equal(resend_buffer_count_unconfirmed(buffer), 6);
    assert_false(resend_buffer_holds_from(buffer, FIRST + 3));
    assert_true(resend_buffer_holds_from(buffer, FIRST + 4));
    assert_true(resend_buffer_holds_from(buffer, FIRST + 10));
    assert_false(resend_buffer_holds_from(buffer, FIRST + 11));
}

static void test_replacing(void **state)
{
    g_autoptr(ResendBuffer) buffer = resend_buffer_new(FIRST, LIMIT);
    const uint8_t *before = (const uint8_t *)"345", *bytes = (const uint8_t *)"abc";
    uint64_t at = FIRST;
    uint8_t out[10];

    assert_true(append(buffer, (const uint8_t *)"0123456789", 10));
    assert_false(resend_buffer_replace(buffer, FIRST + 2, before, bytes, 3));
    assert_false(resend_buffer_replace(buffer, FIRST + 8, (const uint8_t *)"89x", bytes, 3));
    assert_false(resend_buffer_replace(buffer, FIRST + 11, before, bytes, 3));
    assert_true(resend_buffer_replace(buffer, FIRST + 3, before, bytes, 3));
    assert_int_equal(resend_buffer_copy(buffer, &at, out, sizeof out), 10);
    assert_memory_equal(out, "012abc6789", 10);
    assert_true(resend_buffer_confirm(buffer, FIRST + 4));
    assert_false(resend_buffer_replace(buffer, FIRST + 3, bytes, before, 3));
}

static void test_another_limit(void **state)
{
    g_autoptr(ResendBuffer) buffer = resend_buffer_new(0, 10);
    g_autofree uint8_t *data = g_malloc0(100);

    assert_true(append(buffer, data, 8));
    assert_false(append(buffer, data, 8));
    resend_buffer_set_limit(buffer, SIZE_MAX);
    assert_true(append(buffer, data, 100));
    resend_buffer_set_limit(buffer, 10);
    assert_false(append(buffer, data, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),         cmocka_unit_test(test_a_frame_beyond_the_limit),
        cmocka_unit_test(test_what_cannot_be), cmocka_unit_test(test_replacing),
        cmocka_unit_test(test_another_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

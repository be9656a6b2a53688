#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "migrate/packing.h"
#include "page/lz4_block.h"

#define MIB (1u << 20)

static void window(Packing *packing, uint64_t sent, double ms)
{
    for (int i = 0; i < PACKING_WINDOW_FRAMES; i++)
        packing_note(packing, MIB, sent, ms);
}

static void test_slow_path(void **state)
{
    Packing packing = packing_make(PACKING_AUTO);

    assert_false(packing.on);
    window(&packing, MIB, 8.9); /* 1 Gbit/s */
    assert_true(packing.on);
    window(&packing, MIB / 3, 3.0);
    assert_true(packing.on);
    window(&packing, MIB / 3, 0.2); /* the link got fast */
    assert_false(packing.on);
}

static void test_fast_path(void **state)
{
    Packing packing = packing_make(PACKING_AUTO);

    window(&packing, MIB, 1.0);
    window(&packing, MIB, 0.0);
    assert_false(packing.on);
}

/* Random data: tried now and then only. */
static void test_incompressible(void **state)
{
    Packing packing = packing_make(PACKING_AUTO);
    guint tried = 0;

    for (int i = 0; i < 100; i++) {
        tried += (guint)packing.on;
        window(&packing, MIB, 8.9);
    }
    assert_in_range(tried, 3, 8);
}

static void test_modes(void **state)
{
    Packing never = packing_make(PACKING_NONE), always = packing_make(PACKING_LZ4);
    PackingMode mode;

    window(&never, MIB, 8.9);
    assert_false(never.on);
    window(&always, MIB, 0.1);
    assert_true(always.on);
    assert_true(packing_mode_from_name("lz4", &mode) && mode == PACKING_LZ4);
    assert_false(packing_mode_from_name("zip", &mode));
    assert_string_equal(packing_mode_name(PACKING_AUTO), "auto");
}

static void test_lz4(void **state)
{
    g_autofree uint8_t *in = g_malloc0(MIB), *out = g_malloc0(MIB);
    g_autofree uint8_t *packed = g_malloc(lz4_bound(MIB));
    g_autoptr(GRand) random = g_rand_new_with_seed(5);
    g_autoptr(GError) error = NULL;
    size_t length;

    for (unsigned i = 0; i < MIB; i += 64)
        in[i] = (uint8_t)g_rand_int(random);
    length = lz4_pack(in, MIB, packed);
    assert_true(length > 0 && length < MIB / 4);
    assert_true(lz4_unpack(packed, length, out, MIB, &error));
    assert_memory_equal(in, out, MIB);
    /* Hostile: too short, too long, cut, garbage. */
    assert_false(lz4_unpack(packed, length, out, MIB - 1, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_false(lz4_unpack(packed, length, out, MIB + 4096, NULL));
    assert_false(lz4_unpack(packed, length - 1, out, MIB, NULL));
    for (unsigned i = 0; i < MIB; i++)
        in[i] = (uint8_t)g_rand_int(random);
    assert_int_equal(lz4_pack(in, MIB, packed), 0); /* not smaller */
    assert_false(lz4_unpack(in, MIB / 2, out, MIB, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_path),
        cmocka_unit_test(test_fast_path),
        cmocka_unit_test(test_incompressible),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_lz4),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

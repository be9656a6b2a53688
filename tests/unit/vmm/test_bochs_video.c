/* The order of the VGA's memory, which is another one in Bochs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <glib.h>

#include "vmm/bochs/video.h"

static const BochsPlanes all[] = {BOCHS_PLANES_TEXT, BOCHS_PLANES_CHAINED, BOCHS_PLANES_SEPARATE};

/* Nothing is lost, whatever the mode is. */
static void test_there_and_back(void **unused)
{
    g_autofree uint8_t *from = g_malloc(BOCHS_PLANES_BYTES), *to = g_malloc(BOCHS_PLANES_BYTES);
    g_autofree uint8_t *back = g_malloc(BOCHS_PLANES_BYTES);

    for (guint i = 0; i < BOCHS_PLANES_BYTES; i++)
        from[i] = (uint8_t)(i * 2654435761u >> 24);
    for (guint i = 0; i < G_N_ELEMENTS(all); i++) {
        bochs_planes_reorder(all[i], FALSE, from, to);
        assert_memory_not_equal(from, to, BOCHS_PLANES_BYTES);
        bochs_planes_reorder(all[i], TRUE, to, back);
        assert_memory_equal(from, back, BOCHS_PLANES_BYTES);
    }
}

static void expect_place(BochsPlanes planes, guint neutral, guint bochs)
{
    g_autofree uint8_t *from = g_malloc0(BOCHS_PLANES_BYTES), *to = g_malloc(BOCHS_PLANES_BYTES);

    from[neutral] = 1;
    bochs_planes_reorder(planes, FALSE, from, to);
    assert_int_equal(to[bochs], 1);
}

static void test_places(void **unused)
{
    /* The second character, its attribute, the first font's fifth byte. */
    expect_place(BOCHS_PLANES_TEXT, 4, 2);
    expect_place(BOCHS_PLANES_TEXT, 5, 3);
    expect_place(BOCHS_PLANES_TEXT, 4 * 4 + 2, 0x20004);
    /* Pixels 5 and 6 of 320x200 with 256 colours. */
    expect_place(BOCHS_PLANES_CHAINED, 5, 0x10004);
    expect_place(BOCHS_PLANES_CHAINED, 6, 0x20004);
    /* The eighth byte of the fourth plane. */
    expect_place(BOCHS_PLANES_SEPARATE, 7 * 4 + 3, 0x30007);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_places),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

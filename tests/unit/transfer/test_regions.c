#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "migrate/destination_move.h"

static VmmDescription *make_description(void)
{
    VmmDescription *description = g_new0(VmmDescription, 1);

    description->kind = g_strdup("qemu");
    description->machine = g_strdup("pc-i440fx-7.2");
    description->ram_regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_ptr_array_add(description->ram_regions, ram_region_new("pc.bios", 0x2000, 0x1000));
    g_ptr_array_add(description->ram_regions, ram_region_new("pc.ram", 0x1000, 0x4000));
    return description;
}

static void test_order(void **state)
{
    g_autoptr(VmmDescription) description = make_description();
    WireRegion regions[] = {{"pc.ram", 0x4000}, {"pc.bios", 0x1000}};
    GuestMessage guest = {.regions = regions, .region_count = 2};
    g_autoptr(GPtrArray) ordered = destination_order_regions(&guest, description, NULL);

    assert_int_equal(ordered->len, 2);
    assert_string_equal(((RamRegion *)ordered->pdata[0])->name, "pc.ram");
    assert_string_equal(((RamRegion *)ordered->pdata[1])->name, "pc.bios");
}

/* Whatever a driver does, pages never go to a region of another name or length. */
static void test_other_region(void **state)
{
    g_autoptr(VmmDescription) description = make_description();
    const WireRegion wrong[] = {{"pc.bios", 0x2000}, {"vga.vram", 0x1000}};

    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        WireRegion regions[] = {{"pc.ram", 0x4000}, wrong[i]};
        GuestMessage guest = {.regions = regions, .region_count = 2};
        g_autoptr(GError) error = NULL;

        assert_null(destination_order_regions(&guest, description, &error));
        assert_non_null(strstr(error->message, wrong[i].name));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_other_region),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

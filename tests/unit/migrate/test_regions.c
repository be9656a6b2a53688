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

static void assert_refused(GuestMessage *guest, VmmDescription *description, const char *words)
{
    g_autoptr(GError) error = NULL;

    assert_null(destination_match_regions(guest, description, &error));
    if (!strstr(error->message, words))
        fail_msg("\"%s\" does not say \"%s\"", error->message, words);
}

static void test_match(void **state)
{
    g_autoptr(VmmDescription) description = make_description();
    WireRegion regions[] = {{"pc.ram", 0x4000, NULL}, {"pc.bios", 0x1000, NULL}};
    GuestMessage guest = {
        .vmm_kind = "qemu", .machine = "pc-i440fx-7.2", .regions = regions, .region_count = 2};
    g_autoptr(GPtrArray) ordered = destination_match_regions(&guest, description, NULL);

    assert_int_equal(ordered->len, 2);
    assert_string_equal(((RamRegion *)ordered->pdata[0])->name, "pc.ram");
    assert_string_equal(((RamRegion *)ordered->pdata[1])->name, "pc.bios");
}

static void test_refused(void **state)
{
    g_autoptr(VmmDescription) description = make_description();
    RamRegion *bios = description->ram_regions->pdata[0];
    WireRegion regions[] = {{"pc.ram", 0x4000, NULL}, {"pc.bios", 0x1000, NULL}};
    GuestMessage guest = {
        .vmm_kind = "qemu", .machine = "pc-q35-7.2", .regions = regions, .region_count = 2};

    assert_refused(&guest, description, "pc-q35-7.2");
    guest.machine = "pc-i440fx-7.2";
    regions[0].bytes = 0x5000;
    assert_refused(&guest, description, "20480 bytes there");
    regions[0].bytes = 0x4000;
    guest.region_count = 1;
    assert_refused(&guest, description, "there are 1 RAM blocks there and 2 here");
    guest.region_count = 2;
    regions[1].name = "vga.vram";
    assert_refused(&guest, description, "vga.vram does not exist here");
    regions[1] = (WireRegion){"pc.bios", 0x1000, "aa"};
    assert_refused(&guest, description, "not the same");
    bios->proof = g_strdup("bb");
    assert_refused(&guest, description, "not the same");
    regions[1].proof = NULL;
    assert_refused(&guest, description, "cannot be told");
    regions[1].proof = "bb";
    {
        g_autoptr(GPtrArray) ordered = destination_match_regions(&guest, description, NULL);
        assert_non_null(ordered);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_match),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

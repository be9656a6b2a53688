/* Images of a guest that comes from another VMM: those of its disks, in their order, and none else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "migrate/neutral_images.h"

static void add_image(GPtrArray *images, const char *file, gboolean loaded)
{
    VmmImage *image = g_new0(VmmImage, 1);

    image->device = g_strdup("a drive");
    image->file = g_strdup(file);
    image->loaded = loaded;
    g_ptr_array_add(images, image);
}

static GPtrArray *make_images(const char *first, const char *second)
{
    GPtrArray *images = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_image_free);

    if (first)
        add_image(images, first, FALSE);
    if (second)
        add_image(images, second, FALSE);
    return images;
}

static MachineDescription *make_machine(const char *first, const char *second)
{
    MachineDescription *machine = machine_description_new();

    for (guint i = 0; i < 2; i++) {
        MachineDisk *disk = g_new0(MachineDisk, 1);

        disk->at = g_strdup_printf("pci:00:01.1/0/%u", i);
        disk->path = g_strdup(i ? second : first);
        machine_description_add_disk(machine, disk);
    }
    return machine;
}

static void test_order(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine("/srv/a", "/srv/b");
    GPtrArray *images = make_images("/srv/b", "a");
    g_autoptr(GPtrArray) ordered = NULL;

    add_image(images, "/boot/vmlinuz", TRUE);
    ordered = neutral_images_order(images, machine, NULL, NULL, NULL);
    assert_non_null(ordered);
    assert_int_equal(ordered->len, 2);
    assert_string_equal(((VmmImage *)ordered->pdata[0])->file, "a");
    assert_string_equal(((VmmImage *)ordered->pdata[1])->file, "/srv/b");
}

/* By the place, where that is known: its path was rewritten by rules. */
static void test_by_place(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine("/srv/a", "/srv/b");
    GPtrArray *images = make_images("/here/b", "/here/a");
    g_autoptr(GPtrArray) ordered = NULL;

    for (guint i = 0; i < 2; i++) {
        VmmImage *image = images->pdata[i];

        g_free(image->device);
        image->device = g_strdup_printf("disk at pci:00:01.1/0/%u", 1 - i);
    }
    ordered = neutral_images_order(images, machine, NULL, NULL, NULL);
    assert_non_null(ordered);
    assert_string_equal(((VmmImage *)ordered->pdata[0])->file, "/here/a");
}

static char *map(const char *path, gpointer user)
{
    return g_strconcat(user, path, NULL);
}

static void test_mapped(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine("/a", NULL);
    g_autoptr(GPtrArray) ordered =
        neutral_images_order(make_images("/there/a", NULL), machine, map, (char *)"/there", NULL);

    assert_non_null(ordered);
    assert_int_equal(ordered->len, 1);
}

static void expect_refused(GPtrArray *images, const MachineDescription *machine, const char *words)
{
    g_autoptr(GError) error = NULL;

    assert_null(neutral_images_order(images, machine, NULL, NULL, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    if (!strstr(error->message, words))
        fail_msg("%s", error->message);
}

static void test_refused(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine("/srv/a", NULL);

    expect_refused(make_images(NULL, NULL), machine, "/srv/a");
    expect_refused(make_images("/srv/a", "/srv/b"), machine, "/srv/b");
    expect_refused(make_images("rv/a", NULL), machine, "/srv/a");
    assert_null(neutral_images_order(NULL, machine, NULL, NULL, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_by_place),
        cmocka_unit_test(test_mapped),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

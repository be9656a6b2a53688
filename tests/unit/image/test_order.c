/* The file beside an image: what a restore used first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "base/error.h"
#include "image/image_order.h"

static const ImageId id = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};
static uint64_t pages[] = {1000, 1};
static char *names[] = {(char *)"pc.ram", (char *)"rom", NULL};
static const PageRegions regions = {2, pages, names};

static GArray *make_runs(void)
{
    static const ImageRun runs[] = {{0, {999, 1}}, {1, {0, 1}}, {0, {3, 200}}};
    GArray *array = g_array_new(FALSE, FALSE, sizeof(ImageRun));

    g_array_append_vals(array, runs, G_N_ELEMENTS(runs));
    return array;
}

static void test_there_and_back(void **state)
{
    g_autoptr(GArray) runs = make_runs(), back = NULL;
    g_autofree char *folder = g_dir_make_tmp("order-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "a.vmfi", NULL);
    g_autofree char *file = g_strconcat(path, ".order", NULL);
    g_autoptr(GError) error = NULL;

    assert_null(image_order_read(path, &id, &regions, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    assert_true(image_order_write(path, &id, runs, NULL));
    back = image_order_read(path, &id, &regions, NULL);
    assert_non_null(back);
    assert_int_equal(back->len, 3);
    for (guint i = 0; i < 3; i++) {
        const ImageRun *one = &g_array_index(runs, ImageRun, i),
                       *other = &g_array_index(back, ImageRun, i);

        assert_int_equal(one->region, other->region);
        assert_int_equal(one->span.first, other->span.first);
        assert_int_equal(one->span.count, other->span.count);
    }
    g_unlink(file);
    g_rmdir(folder);
}

/* What somebody else has put there is neither read through nor written through. */
static void test_links(void **state)
{
    g_autoptr(GArray) runs = make_runs();
    g_autofree char *folder = g_dir_make_tmp("order-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "a.vmfi", NULL);
    g_autofree char *file = g_strconcat(path, ".order", NULL);
    g_autofree char *victim = g_build_filename(folder, "victim", NULL);
    g_autofree char *text = NULL;

    assert_true(g_file_set_contents(victim, "mine", -1, NULL));
    assert_int_equal(symlink(victim, file), 0);
    assert_null(image_order_read(path, &id, &regions, NULL));
    assert_true(image_order_write(path, &id, runs, NULL));
    assert_true(g_file_get_contents(victim, &text, NULL, NULL));
    assert_string_equal(text, "mine");
    g_unlink(file);
    assert_int_equal(mkfifo(file, 0600), 0);
    assert_null(image_order_read(path, &id, &regions, NULL));
    g_unlink(file);
    g_unlink(victim);
    assert_int_equal(g_rmdir(folder), 0);
}

static void test_of_another_image(void **state)
{
    g_autoptr(GArray) runs = make_runs();
    g_autoptr(GByteArray) bytes = image_order_file_encode(&id, runs);
    g_autoptr(GError) error = NULL;
    ImageId other = id;

    other.bytes[3] ^= 1;
    assert_null(image_order_file_decode(bytes->data, bytes->len, &other, &regions, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
}

/* A machine that has less memory. */
static void test_run_outside(void **state)
{
    g_autoptr(GArray) runs = make_runs();
    g_autoptr(GByteArray) bytes = image_order_file_encode(&id, runs);
    static uint64_t fewer[] = {999, 1};
    const PageRegions small = {2, fewer, names};
    g_autoptr(GError) error = NULL;

    assert_null(image_order_file_decode(bytes->data, bytes->len, &id, &small, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

static void test_damage(void **state)
{
    g_autoptr(GArray) runs = make_runs();
    g_autoptr(GByteArray) bytes = image_order_file_encode(&id, runs);

    for (guint i = 0; i < bytes->len * 8; i++) {
        bytes->data[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_null(image_order_file_decode(bytes->data, bytes->len, &id, &regions, NULL));
        bytes->data[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    for (guint length = 0; length < bytes->len; length++)
        assert_null(image_order_file_decode(bytes->data, length, &id, &regions, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),   cmocka_unit_test(test_links),
        cmocka_unit_test(test_of_another_image), cmocka_unit_test(test_run_outside),
        cmocka_unit_test(test_damage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

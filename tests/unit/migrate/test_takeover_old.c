/* What is written down of the old VMM of a takeover. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "base/error.h"
#include "base/process.h"
#include "memory/guest_memory.h"
#include "migrate/takeover.h"
#include "migrate/takeover_old.h"

typedef struct {
    char *folder, *path;
    TakeoverOld *old;
} Scene;

static int setup(void **state)
{
    Scene *scene = g_new0(Scene, 1);

    scene->folder = g_dir_make_tmp("takeover-XXXXXX", NULL);
    scene->path = g_build_filename(scene->folder, "old", NULL);
    scene->old = g_new0(TakeoverOld, 1);
    scene->old->pid = getpid();
    assert_true(process_get_start_time(getpid(), &scene->old->start_time, NULL));
    scene->old->machine = g_strdup("pc-i440fx-7.2");
    scene->old->regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_ptr_array_add(scene->old->regions, ram_region_new("pc.ram", 0x7f0000000000, 256u << 20));
    g_ptr_array_add(scene->old->regions, ram_region_new("vga.vram", 0x7f8000000000, 4096));
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    Scene *scene = *state;

    g_unlink(scene->path);
    assert_int_equal(g_rmdir(scene->folder), 0);
    takeover_old_free(scene->old);
    g_free(scene->folder);
    g_free(scene->path);
    g_free(scene);
    return 0;
}

static void test_it_is_read_as_written(void **state)
{
    Scene *scene = *state;
    g_autoptr(TakeoverOld) read = NULL;

    scene->old->left = TRUE;
    assert_true(takeover_old_write(scene->old, scene->path, NULL));
    read = takeover_old_read(scene->path, NULL);
    assert_non_null(read);
    assert_int_equal(read->pid, scene->old->pid);
    assert_int_equal(read->start_time, scene->old->start_time);
    assert_string_equal(read->machine, scene->old->machine);
    assert_true(read->left);
    assert_int_equal(read->regions->len, 2);
    for (guint i = 0; i < 2; i++) {
        const RamRegion *one = read->regions->pdata[i], *other = scene->old->regions->pdata[i];

        assert_string_equal(one->name, other->name);
        assert_int_equal(one->host_address, other->host_address);
        assert_int_equal(one->bytes, other->bytes);
    }
}

/* Of a process that has ended nothing is left to take. */
static void test_place_was_left(void **state)
{
    Scene *scene = *state;

    assert_false(takeover_was_place_left(scene->folder));
    assert_true(takeover_old_write(scene->old, scene->path, NULL));
    assert_false(takeover_was_place_left(scene->folder));
    scene->old->left = TRUE;
    assert_true(takeover_old_write(scene->old, scene->path, NULL));
    assert_true(takeover_was_place_left(scene->folder));
    scene->old->start_time++;
    assert_true(takeover_old_write(scene->old, scene->path, NULL));
    assert_false(takeover_was_place_left(scene->folder));
}

static void test_damaged(void **state)
{
    static const char *const texts[] = {
        "",
        "{}",
        "{\"pid\":1,\"start\":1,\"machine\":\"m\"}",
        "{\"pid\":-1,\"start\":1,\"machine\":\"m\",\"regions\":[]}",
        "{\"pid\":1,\"start\":1,\"machine\":7,\"regions\":[]}",
        "{\"pid\":1,\"start\":1,\"machine\":\"m\",\"regions\":[7]}",
        "{\"pid\":1,\"start\":1,\"machine\":\"m\",\"regions\":[{\"name\":\"r\",\"address\":0,"
        "\"bytes\":4095}]}",
        "{\"pid\":1,\"start\":1,\"machine\":\"m\",\"regions\":[{\"name\":\"r\",\"address\":1,"
        "\"bytes\":4096}]}",
        "{\"pid\":1,\"start\":1,\"machine\":\"m\",\"regions\":[{\"name\":\"r\",\"address\":0,"
        "\"bytes\":0}]}",
    };

    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(takeover_old_parse(texts[i], strlen(texts[i]), &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    }
}

#define scene_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_it_is_read_as_written),
        scene_test(test_place_was_left),
        scene_test(test_damaged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Guests' directories, in which whoever runs the guest may have put anything. */
#include "scratch.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/directory.h"

static char *path_in(const char *folder, const char *name)
{
    return g_build_filename(folder, name, NULL);
}

static void test_removes_what_is_inside_and_nothing_else(void **state)
{
    char *runtime = scratch_new();
    g_autofree char *outside = path_in(runtime, "outside");
    g_autofree char *kept = path_in(outside, "kept");
    g_autofree char *directory = guest_directory_create(runtime, NULL);
    g_autofree char *sockets = path_in(directory, "sockets");
    g_autofree char *deep = path_in(sockets, "a/b/c");
    g_autofree char *link = path_in(sockets, "link");
    g_autofree char *other = path_in(sockets, "other");

    assert_non_null(directory);
    assert_int_equal(g_mkdir_with_parents(outside, 0700), 0);
    assert_true(g_file_set_contents(kept, "x", 1, NULL));
    assert_int_equal(g_mkdir_with_parents(deep, 0700), 0);
    assert_int_equal(symlink(outside, link), 0);
    assert_int_equal(symlink("/nonexistent", other), 0);
    guest_directory_remove(directory);
    assert_true(access(directory, F_OK) < 0 && errno == ENOENT);
    assert_int_equal(access(kept, F_OK), 0);
    /* A link in its place is not followed either. */
    assert_int_equal(symlink(outside, directory), 0);
    guest_directory_remove(directory);
    assert_int_equal(access(kept, F_OK), 0);
    scratch_remove(runtime);
}

static void test_other_folders_are_left_alone(void **state)
{
    char *folder = scratch_new();
    g_autofree char *other = path_in(folder, "other");
    char *groups[] = {other, NULL};

    assert_int_equal(mkdir(other, 0700), 0);
    guest_directory_remove(other);
    guest_cgroups_remove(groups); /* has no cgroup.procs */
    assert_int_equal(access(other, F_OK), 0);
    guest_cgroups_remove(NULL);
    scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_removes_what_is_inside_and_nothing_else),
        cmocka_unit_test(test_other_folders_are_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

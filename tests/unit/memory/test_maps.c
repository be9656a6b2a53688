#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "memory/maps.h"

static const char sample[] =
    "7f0000000000-7f0040000000 rw-p 00000000 00:00 0 \n"
    "Size:            1048576 kB\n"
    "KernelPageSize:        4 kB\n"
    "VmFlags: rd wr mr mw me dc ac uw hg mg \n"
    "7f0040200000-7f0080200000 rw-s 00200000 00:0f 1234                       /dev/hugepages/a b\n"
    "KernelPageSize:     2048 kB\n"
    "VmFlags: rd wr sh mr mw me ms de ht \n";

static void test_parse(void **state)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) maps = maps_parse(sample, &error);
    const Mapping *ram, *huge;

    assert_non_null(maps);
    assert_int_equal(maps->len, 2);
    ram = maps_find(maps, 0x7f0000000000);
    assert_true(ram->readable && ram->writable && !ram->shared && ram->userfault_wp);
    assert_string_equal(ram->path, "");
    huge = maps_find(maps, 0x7f0080200000 - 1);
    assert_true(huge->shared && !huge->userfault_wp);
    assert_int_equal(huge->page_bytes, 2u << 20);
    assert_int_equal(huge->offset, 0x200000);
    assert_int_equal(huge->inode, 1234);
    assert_string_equal(huge->path, "/dev/hugepages/a b");
    assert_null(maps_find(maps, 0x7f0040000000));
    assert_null(maps_find(maps, 0));
    assert_null(maps_find(maps, UINT64_MAX));
}

static void test_hostile(void **state)
{
    static const char *const bad[] = {"7f00 rw-p", "5-4 rw-p 0 0:0 0", "1-2 r 0 0:0 0", "0"};

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(maps_parse(bad[i], &error));
        assert_non_null(strstr(error->message, "smaps"));
    }
}

static void test_own(void **state)
{
    g_autoptr(GPtrArray) maps = maps_read(getpid(), NULL);
    const Mapping *code = maps_find(maps, (uint64_t)(uintptr_t)test_own);

    assert_non_null(code);
    assert_non_null(strstr(code->path, "test_maps"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

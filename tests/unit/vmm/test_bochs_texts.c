/* What is picked out of a Bochs's log and messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/bochs/texts.h"

#define HEADING "Bochs is exiting with the following message:\n"

static void expect_vector(const char *log, uint64_t wanted)
{
    uint64_t vector = 0;

    assert_int_equal(bochs_text_find_vector(log, &vector), wanted != 0);
    if (wanted)
        assert_int_equal(vector, wanted);
}

static void test_vector(void **unused)
{
    expect_vector("0i[MEM0  ] allocated memory at 0x7f43af396010. after alignment, "
                  "vector=0x7f43af397000\n0i[MEM0  ] 32.00MB\n",
                  0x7f43af397000);
    expect_vector("x after alignment, vector=0x1000", 0x1000);
    expect_vector("", 0);
    expect_vector(" after alignment, vector=0x", 0);
    expect_vector(" after alignment, vector=0x1010\n", 0);
    expect_vector(" after alignment, vector=0x0000\n", 0);
    expect_vector(" after alignment, vector=0x1000 and more\n", 0);
    expect_vector(" after alignment, vector=0x10000000000001000\n", 0);
}

static void expect_end(const char *text, const char *wanted)
{
    g_autofree char *end = bochs_text_pick_end(text);

    if (wanted)
        assert_string_equal(end, wanted);
    else
        assert_null(end);
}

static void test_end(void **unused)
{
    g_autofree char *filler = g_strnfill(1000, 'x');
    g_autofree char *long_text = g_strconcat(HEADING, filler, NULL);
    g_autofree char *cut = g_strnfill(300, 'x');

    expect_end("=====\n" HEADING "[BIOS  ] No bootable device.\n=====\n",
               "[BIOS  ] No bootable device.");
    expect_end(HEADING "one\n" HEADING "two\033[1m\x80\n", "two [1m\xef\xbf\xbd");
    expect_end(HEADING, "");
    expect_end("loaded plugin\n", NULL);
    expect_end(long_text, cut);
}

static void expect_version(const char *banner, const char *wanted)
{
    g_autofree char *version = bochs_text_pick_version(banner);

    assert_string_equal(version, wanted);
}

static void test_version(void **unused)
{
    expect_version("====\n   Bochs x86 Emulator 2.7\n   Built", "2.7");
    expect_version("Bochs x86 Emulator 2.8.devel", "2.8.");
    expect_version("Bochs x86 Emulator 11111111111111111111", "1111111111111111");
    expect_version("something else", "unknown");
    expect_version(NULL, "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vector),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_version),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

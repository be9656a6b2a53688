#include "scratch.h"

#include <string.h>

#include "agent/agent_id.h"
#include "base/error.h"

static void test_id_stays(void **state)
{
    char *folder = scratch_new();
    g_autofree char *first = agent_id_open(folder, NULL);
    g_autofree char *again = agent_id_open(folder, NULL);

    assert_non_null(first);
    assert_int_equal(strlen(first), AGENT_ID_DIGITS);
    assert_string_equal(first, again);
    scratch_remove(folder);
}

static void test_each_has_another(void **state)
{
    char *one = scratch_new();
    char *other = scratch_new();
    g_autofree char *first = agent_id_open(one, NULL);
    g_autofree char *second = agent_id_open(other, NULL);

    assert_string_not_equal(first, second);
    scratch_remove(one);
    scratch_remove(other);
}

static void test_broken_id_is_refused(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = g_build_filename(folder, "agent-id", NULL);
    GError *error = NULL;

    assert_true(g_file_set_contents(path, "0123\n", -1, NULL));
    assert_null(agent_id_open(folder, &error));
    assert_error_says(error, VMFERRY_ERROR_INVALID, "does not hold 32 hexadecimal digits");
    scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_id_stays),
        cmocka_unit_test(test_each_has_another),
        cmocka_unit_test(test_broken_id_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

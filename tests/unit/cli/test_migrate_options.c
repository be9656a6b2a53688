/* The request that a command line of `vmferry migrate` makes. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cli/migrate_options.h"

/* Parses *line* (words separated by one space) and compares the request with *wanted*. */
static void assert_request(const char *line, const char *wanted)
{
    g_auto(MigrateArguments) arguments;
    g_auto(GStrv) argv = g_strsplit(line, " ", -1);
    g_autofree char **rest = g_memdup2(argv, (g_strv_length(argv) + 1) * sizeof *argv);
    CliSpec spec = {.entries = arguments.entries, .common = &arguments.common};
    int argc = (int)g_strv_length(argv);
    char **parsed = rest;
    MigrateOptions options;
    g_autoptr(json_t) request = NULL;
    g_autoptr(json_t) expected = json_loads(wanted, 0, NULL);

    migrate_arguments_init(&arguments);
    assert_true(cli_parse(&spec, &argc, &parsed));
    request = migrate_arguments_to_request(&arguments, "hostb", &options);
    assert_non_null(expected);
    if (!json_equal(request, expected))
        fail_msg("%s: not %s but %s", line, wanted, json_dumps(request, JSON_COMPACT));
    assert_int_equal(options.detach, json_flag_or(request, "detach", FALSE));
    assert_int_equal(migrate_arguments_get_record(&arguments) != NULL,
                     json_flag_or(request, "record", FALSE));
}

/* What was not given is left to the agent. */
static void test_only_what_was_given(void **state)
{
    assert_request("migrate", "{\"destination\":\"hostb\"}");
    assert_request("migrate --progress --json", "{\"destination\":\"hostb\"}");
    assert_request("migrate --max-downtime 5s", "{\"destination\":\"hostb\","
                                                "\"max_downtime_ms\":5000}");
    assert_request("migrate --detach --verify",
                   "{\"destination\":\"hostb\",\"detach\":true,\"verify\":true}");
    assert_request("migrate --bandwidth unlimited", "{\"destination\":\"hostb\",\"bandwidth\":0}");
}

static void test_every_kind(void **state)
{
    assert_request("migrate --deadline 1m --streams 2 --compress zstd --memory-budget=1Mi "
                   "--bandwidth 8mbit --record t",
                   "{\"destination\":\"hostb\",\"deadline_ms\":60000,\"streams\":2,"
                   "\"compress\":\"zstd\",\"memory_budget_bytes\":1048576,"
                   "\"bandwidth\":1000000,\"record\":true}");
}

static void test_disks(void **state)
{
    assert_request("migrate --disks copy --overwrite --keep",
                   "{\"destination\":\"hostb\",\"disks\":\"copy\",\"overwrite\":true,"
                   "\"keep_source\":true}");
    assert_request("migrate --delete-source", "{\"destination\":\"hostb\",\"delete_source\":true}");
    assert_request("migrate --disk virtio0=copy",
                   "{\"destination\":\"hostb\",\"disk_modes\":{\"virtio0\":\"copy\"}}");
    assert_request("migrate --disks shared --disk a=top --disk=b=auto --disk a=copy",
                   "{\"destination\":\"hostb\",\"disks\":\"shared\","
                   "\"disk_modes\":{\"a\":\"copy\",\"b\":\"auto\"}}");
    /* An id may hold the sign, and be a path. */
    assert_request("migrate --disk /machine/x[0]=1=shared",
                   "{\"destination\":\"hostb\",\"disk_modes\":{\"/machine/x[0]=1\":\"shared\"}}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_what_was_given),
        cmocka_unit_test(test_every_kind),
        cmocka_unit_test(test_disks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

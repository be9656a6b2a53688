#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/json.h"
#include "migrate/report.h"

/* The keys of the design's contract, with their types. */
static void test_contract(void **state)
{
    g_autoptr(MigrateReport) report = migrate_report_new();
    MigrateRound round = {10, 40960, 41000, 1.5};
    g_autoptr(json_t) object = NULL;
    json_t *first;

    report->status = MIGRATE_COMPLETED;
    report->total_ms = 12.5;
    report->verified = 1;
    report->source = g_strdup("a");
    g_array_append_val(report->rounds, round);
    object = migrate_report_to_json(report);
    assert_string_equal(json_string_value(json_object_get(object, "status")), "completed");
    assert_string_equal(json_string_value(json_object_get(object, "mode")), "precopy");
    assert_true(json_is_null(json_object_get(object, "reason")));
    assert_true(json_is_real(json_object_get(object, "total_ms")));
    assert_true(json_is_real(json_object_get(object, "downtime_ms")));
    assert_true(json_is_integer(json_object_get(object, "wire_bytes")));
    assert_true(json_is_integer(json_object_get(object, "ram_bytes")));
    assert_true(json_is_true(json_object_get(object, "verified")));
    assert_string_equal(json_string_value(json_object_get(object, "source")), "a");
    assert_true(json_is_null(json_object_get(object, "destination")));
    assert_true(json_is_null(json_object_get(object, "error")));
    assert_int_equal(json_object_size(json_object_get(object, "downtime_parts")), 6);
    first = json_array_get(json_object_get(object, "rounds"), 0);
    assert_int_equal(json_integer_value(json_object_get(first, "pages")), 10);
    assert_int_equal(json_integer_value(json_object_get(first, "dirty_bytes")), 40960);
    assert_int_equal(json_integer_value(json_object_get(first, "wire_bytes")), 41000);
    assert_true(json_is_real(json_object_get(first, "ms")));
}

static void test_statuses(void **state)
{
    static const char *const names[] = {"completed", "failed", "cancelled", "failed"};

    for (MigrateStatus status = MIGRATE_COMPLETED; status <= MIGRATE_IN_DOUBT; status++) {
        g_autoptr(MigrateReport) report = migrate_report_new();
        g_autoptr(json_t) object = NULL;

        report->status = status;
        object = migrate_report_to_json(report);
        assert_string_equal(json_string_value(json_object_get(object, "status")), names[status]);
        assert_true(json_is_null(json_object_get(object, "verified")));
        assert_int_equal(json_is_true(json_object_get(object, "in_doubt")),
                         status == MIGRATE_IN_DOUBT);
    }
}

static void test_progress(void **state)
{
    MigrateProgress progress = {.phase = MIGRATE_PHASE_PRECOPY, .round = 2, .eta_ms = -1};
    g_autoptr(json_t) object = migrate_progress_to_json(&progress);

    assert_string_equal(json_string_value(json_object_get(object, "phase")), "precopy");
    assert_true(json_is_null(json_object_get(object, "eta_ms")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contract),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_progress),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

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
    MigrateRound round = {12, 40960, 41000, 1.5, 41500, 5, 3, 4, 6, 1, 2};
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
    assert_int_equal(json_object_size(json_object_get(object, "downtime_parts")), 7);
    assert_true(json_is_array(json_object_get(object, "copies")));
    first = json_array_get(json_object_get(object, "rounds"), 0);
    assert_int_equal(json_integer_value(json_object_get(first, "pages")), 12);
    assert_int_equal(json_integer_value(json_object_get(first, "dirty_bytes")), 40960);
    assert_int_equal(json_integer_value(json_object_get(first, "wire_bytes")), 41000);
    assert_true(json_is_real(json_object_get(first, "ms")));
    assert_int_equal(json_integer_value(json_object_get(first, "work_set_bytes")), 41500);
    assert_int_equal(json_integer_value(json_object_get(first, "pages_whole")), 5);
    assert_int_equal(json_integer_value(json_object_get(first, "pages_segments")), 3);
    assert_int_equal(json_integer_value(json_object_get(first, "pages_copied")), 4);
    assert_int_equal(json_integer_value(json_object_get(first, "pages_seeded")), 6);
    assert_int_equal(json_integer_value(json_object_get(first, "pages_unchanged")), 1);
    assert_int_equal(json_integer_value(json_object_get(first, "pages_zero")), 2);
}

static void test_seed(void **state)
{
    g_autoptr(MigrateReport) report = migrate_report_new();
    g_autoptr(json_t) without = migrate_report_to_json(report);
    g_autoptr(json_t) object = NULL;
    json_t *seed;

    assert_true(json_is_null(json_object_get(without, "seed")));
    report->seed = g_strdup("/srv/a.image");
    report->seed_digests = 7;
    report->seed_list_bytes = 59;
    report->seed_pages = 3;
    report->seed_lacking_pages = 2;
    object = migrate_report_to_json(report);
    seed = json_object_get(object, "seed");
    assert_string_equal(json_string_value(json_object_get(seed, "image")), "/srv/a.image");
    assert_true(json_is_null(json_object_get(seed, "id")));
    assert_int_equal(json_integer_value(json_object_get(seed, "digests")), 7);
    assert_int_equal(json_integer_value(json_object_get(seed, "list_bytes")), 59);
    assert_int_equal(json_integer_value(json_object_get(seed, "pages")), 3);
    assert_int_equal(json_integer_value(json_object_get(seed, "bytes")), 3 * 4096);
    assert_int_equal(json_integer_value(json_object_get(seed, "lacking_pages")), 2);
}

static double number_at(json_t *object, const char *outer, const char *inner)
{
    json_t *value = json_object_get(json_object_get(object, outer), inner);

    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void test_work_set(void **state)
{
    g_autoptr(MigrateReport) report = migrate_report_new();
    g_autoptr(json_t) object = NULL;
    json_t *compress;

    report->predicted_total_ms = 2000;
    report->predicted_downtime_ms = 0;
    report->memory_intensive = TRUE;
    report->deferred_bytes = 4096;
    report->throttle_means = g_strdup("duty");
    report->least_run_share = 0.25;
    report->throttled_ms = 700;
    report->segments = SENT_STORE_FINGERPRINT;
    report->memory_budget_bytes = 1 << 26;
    report->store_bytes = 1 << 20;
    report->streams = 3;
    report->reclaim = MIGRATE_RECLAIM_PARTLY;
    report->reclaimed_bytes = 1 << 24;
    report->packed_zstd = (MigratePacked){1000, 400};
    object = migrate_report_to_json(report);
    assert_true(json_number_value(json_object_get(object, "predicted_total_ms")) == 2000);
    assert_true(json_is_real(json_object_get(object, "predicted_downtime_ms")));
    assert_true(json_is_true(json_object_get(object, "memory_intensive")));
    assert_int_equal(json_integer_value(json_object_get(object, "deferred_bytes")), 4096);
    assert_string_equal(json_text_or(json_object_get(object, "throttle"), "means", ""), "duty");
    assert_true(number_at(object, "throttle", "least_run_share") == 0.25);
    assert_true(number_at(object, "throttle", "ms") == 700);
    assert_string_equal(json_text_or(object, "segments", ""), "fingerprint");
    assert_int_equal(json_integer_value(json_object_get(object, "memory_budget_bytes")), 1 << 26);
    assert_int_equal(json_integer_value(json_object_get(object, "store_bytes")), 1 << 20);
    assert_int_equal(json_integer_value(json_object_get(object, "streams")), 3);
    assert_string_equal(json_text_or(object, "reclaim", ""), "partly");
    assert_int_equal(json_integer_value(json_object_get(object, "reclaimed_bytes")), 1 << 24);
    compress = json_object_get(object, "compress");
    assert_int_equal(json_object_size(compress), 3);
    assert_true(number_at(compress, "none", "bytes_in") == 0);
    assert_true(number_at(compress, "zstd", "bytes_in") == 1000);
    assert_true(number_at(compress, "zstd", "bytes_out") == 400);
}

/* A move that failed before there was anything to tell. */
static void test_nothing_known(void **state)
{
    g_autoptr(MigrateReport) report = migrate_report_new();
    g_autoptr(json_t) object = migrate_report_to_json(report);

    assert_true(json_is_null(json_object_get(object, "predicted_total_ms")));
    assert_true(json_is_null(json_object_get(object, "predicted_downtime_ms")));
    assert_true(json_is_false(json_object_get(object, "memory_intensive")));
    assert_true(json_is_null(json_object_get(object, "throttle")));
    assert_true(json_is_null(json_object_get(object, "reclaim")));
    assert_int_equal(json_integer_value(json_object_get(object, "reclaimed_bytes")), 0);
    assert_string_equal(json_text_or(object, "segments", ""), "off");
}

static void test_statuses(void **state)
{
    static const char *const names[] = {"completed", "failed", "cancelled", "ended", "failed"};

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
    /* Unset: the guest runs freely. */
    assert_true(json_number_value(json_object_get(object, "run_share")) == 1);
    json_decref(object);
    progress.run_share = 0.5;
    progress.work_set_bytes = 7000;
    progress.deferred_bytes = 8192;
    progress.disk_bytes = 9000;
    progress.disk_bytes_done = 4500;
    progress.disk_same_bytes = 3500;
    progress.disk_wire_bytes = 1100;
    object = migrate_progress_to_json(&progress);
    assert_true(json_number_value(json_object_get(object, "run_share")) == 0.5);
    assert_int_equal(json_integer_value(json_object_get(object, "work_set_bytes")), 7000);
    assert_int_equal(json_integer_value(json_object_get(object, "deferred_bytes")), 8192);
    assert_int_equal(json_integer_value(json_object_get(object, "disk_bytes")), 9000);
    assert_int_equal(json_integer_value(json_object_get(object, "disk_bytes_done")), 4500);
    assert_int_equal(json_integer_value(json_object_get(object, "disk_same_bytes")), 3500);
    assert_int_equal(json_integer_value(json_object_get(object, "disk_wire_bytes")), 1100);
}

static void test_names(void **state)
{
    for (ThrottleMode mode = THROTTLE_AUTO; mode <= THROTTLE_OFF; mode++) {
        ThrottleMode same;

        assert_true(throttle_mode_from_name(throttle_mode_name(mode), &same) && same == mode);
    }
    for (SentStoreMode mode = SENT_STORE_AUTO; mode <= SENT_STORE_OFF; mode++) {
        SentStoreMode same;

        assert_true(sent_store_mode_from_name(sent_store_mode_name(mode), &same) && same == mode);
    }
    assert_false(throttle_mode_from_name("", &(ThrottleMode){0}));
    assert_false(sent_store_mode_from_name("Auto", &(SentStoreMode){0}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contract), cmocka_unit_test(test_seed),
        cmocka_unit_test(test_work_set), cmocka_unit_test(test_nothing_known),
        cmocka_unit_test(test_statuses), cmocka_unit_test(test_progress),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

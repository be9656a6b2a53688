/* The table of options, and what is read and written by it. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "migrate/options.h"

static gboolean set(const char *name, MigrateOptionOrigin origin, const char *text,
                    MigrateOptions *options, GError **error)
{
    const MigrateOption *option = migrate_option_find(name);

    assert_non_null(option);
    return migrate_option_set_text(option, origin, text, options, error);
}

static void assert_set(const char *name, const char *text, MigrateOptions *options)
{
    g_autoptr(GError) error = NULL;

    if (!set(name, MIGRATE_FROM_COMMAND, text, options, &error))
        fail_msg("--%s %s: %s", name, text, error->message);
}

static void assert_refused(const char *name, MigrateOptionOrigin origin, const char *text,
                           VmferryErrorCode code, const char *message)
{
    MigrateOptions options = {0}, untouched = {0};
    g_autoptr(GError) error = NULL;

    if (set(name, origin, text, &options, &error))
        fail_msg("%s was taken: %s", name, text);
    assert_string_equal(error->message, message);
    assert_true(error_is(error, code));
    assert_memory_equal(&options, &untouched, sizeof options);
}

/* A text of which the value is not 0, for any option. */
static char *make_text(const MigrateOption *option)
{
    switch (option->kind) {
    case MIGRATE_OPTION_FLAG:
    case MIGRATE_OPTION_FILE:
        return g_strdup("true");
    case MIGRATE_OPTION_CHOICE:
        return g_strdup(option->choice(option->choices - 1));
    case MIGRATE_OPTION_HOST:
        return g_strdup("hostc:4747");
    case MIGRATE_OPTION_PATH:
        return g_strdup("/srv/saved/template.image");
    case MIGRATE_OPTION_DURATION:
    case MIGRATE_OPTION_COUNT:
    case MIGRATE_OPTION_SIZE:
    case MIGRATE_OPTION_RATE:
        break;
    }
    return g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)option->limit);
}

static void test_defaults(void **state)
{
    MigrateOptions options;

    migrate_options_init(&options);
    assert_int_equal(options.mode, MIGRATE_MODE_AUTO);
    assert_int_equal(options.safety, MIGRATE_SAFETY_NETWORK);
    assert_int_equal(options.checkpoint_ms, 50);
    assert_int_equal(options.max_downtime_ms, 300);
    assert_int_equal(options.downtime_cap_ms, 2000);
    assert_int_equal(options.deadline_ms, 0);
    assert_int_equal(options.bandwidth_bytes_per_second, 0);
    assert_int_equal(options.memory_budget_bytes, 0);
    assert_int_equal(options.streams, 0);
    assert_int_equal(options.tracker, TRACKER_AUTO);
    assert_int_equal(options.compress, PACKING_AUTO);
    assert_int_equal(options.throttle, THROTTLE_AUTO);
    assert_int_equal(options.segments, SENT_STORE_AUTO);
    assert_false(options.verify || options.allow_cpu_mismatch || options.trust_images);
    assert_false(options.reclaim_free || options.record || options.detach);
}

/* Every row is whole, no name stands twice, each default is valid. */
static void test_rows(void **state)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GHashTable) keys = g_hash_table_new(g_str_hash, g_str_equal);
    const MigrateOption *option;

    for (guint i = 0; (option = migrate_option_at(i)); i++) {
        gboolean flag = option->kind == MIGRATE_OPTION_FLAG;
        MigrateOptions options;

        assert_true(g_hash_table_add(names, (gpointer)option->name));
        assert_true(g_hash_table_add(keys, (gpointer)option->api_key));
        assert_true(option->help && (option->argument != NULL) == !flag);
        assert_true((option->kind == MIGRATE_OPTION_CHOICE) == (option->choices > 1));
        assert_true(!option->file_key || option->fallback);
        assert_true(!option->fallback || migrate_option_set_text(option, MIGRATE_FROM_FILE,
                                                                 option->fallback, &options, NULL));
    }
    assert_null(migrate_option_find("frob"));
}

/* Each option has a field of its own, of its own size, and comes through a request as it was. */
static void test_each_alone(void **state)
{
    const MigrateOption *option;

    for (guint i = 0; (option = migrate_option_at(i)); i++) {
        MigrateOptions options, nothing, read;
        g_autofree char *text = make_text(option);
        g_autoptr(json_t) request = json_object();

        memset(&options, 0, sizeof options);
        memset(&nothing, 0, sizeof nothing);
        memset(&read, 0, sizeof read);
        assert_set(option->name, text, &options);
        assert_memory_not_equal(&options, &nothing, sizeof options);
        migrate_options_write(&options, migrate_option_bit(option), request);
        assert_int_equal(json_object_size(request), 1);
        assert_non_null(json_object_get(request, option->api_key));
        /* No rule between options then. */
        read.downtime_cap_ms = G_MAXUINT;
        if (strcmp(option->name, "store") == 0)
            read.mode = MIGRATE_MODE_HYBRID;
        assert_true(migrate_options_read(request, &read, NULL));
        if (strcmp(option->name, "downtime-cap") != 0)
            read.downtime_cap_ms = 0;
        if (strcmp(option->name, "store") == 0)
            read.mode = MIGRATE_MODE_AUTO;
        if (memcmp(&options, &read, sizeof options) != 0)
            fail_msg("--%s is not the same behind a request", option->name);
    }
}

static void test_fields(void **state)
{
    MigrateOptions options = {0};

    assert_set("mode", "precopy", &options);
    assert_set("max-downtime", "50", &options);
    assert_set("downtime-cap", "1.5s", &options);
    assert_set("deadline", "24h", &options);
    assert_set("bandwidth", "100mbit", &options);
    assert_set("memory-budget", "64Mi", &options);
    assert_set("streams", "16", &options);
    assert_set("tracker", "uffd-sync", &options);
    assert_set("compress", "lz4", &options);
    assert_set("throttle", "duty", &options);
    assert_set("segments", "shadow", &options);
    assert_set("verify", "true", &options);
    assert_int_equal(options.mode, MIGRATE_MODE_PRECOPY);
    assert_int_equal(options.max_downtime_ms, 50);
    assert_int_equal(options.downtime_cap_ms, 1500);
    assert_int_equal(options.deadline_ms, 86400000);
    assert_int_equal(options.bandwidth_bytes_per_second, 12500000);
    assert_int_equal(options.memory_budget_bytes, 64 << 20);
    assert_int_equal(options.streams, 16);
    assert_int_equal(options.tracker, TRACKER_UFFD_SYNC);
    assert_int_equal(options.compress, PACKING_LZ4);
    assert_int_equal(options.throttle, THROTTLE_DUTY);
    assert_int_equal(options.segments, SENT_STORE_SHADOW);
    assert_true(options.verify);
    assert_set("bandwidth", "unlimited", &options);
    assert_int_equal(options.bandwidth_bytes_per_second, 0);
    assert_true(set("streams", MIGRATE_FROM_FILE, "auto", &options, NULL));
    assert_int_equal(options.streams, 0);
}

static void test_wrong_texts(void **state)
{
    static const char *const no_time[] = {"0", "0s", "0.5", "3600001", "61m", "2h", "1e300"};
    static const char *const no_size[] = {"0", "1023Ki", "1025Gi", "1e300"};

    for (guint i = 0; i < G_N_ELEMENTS(no_time); i++) {
        assert_refused("max-downtime", MIGRATE_FROM_COMMAND, no_time[i], VMFERRY_ERROR_INVALID,
                       "--max-downtime must be from 1 ms to 1 h");
        assert_refused("max-downtime", MIGRATE_FROM_FILE, no_time[i], VMFERRY_ERROR_INVALID,
                       "the value must be from 1 ms to 1 h");
    }
    for (guint i = 0; i < G_N_ELEMENTS(no_size); i++)
        assert_refused("memory-budget", MIGRATE_FROM_COMMAND, no_size[i], VMFERRY_ERROR_INVALID,
                       "--memory-budget must be from 1Mi to 1024Gi bytes");
    assert_refused("streams", MIGRATE_FROM_COMMAND, "17", VMFERRY_ERROR_INVALID,
                   "--streams must be from 1 to 16");
    assert_refused("streams", MIGRATE_FROM_COMMAND, "auto", VMFERRY_ERROR_INVALID,
                   "--streams: \"auto\" is not a valid number");
    assert_refused("streams", MIGRATE_FROM_COMMAND, "-1", VMFERRY_ERROR_INVALID,
                   "--streams: \"-1\" is not a valid number");
    assert_refused("streams", MIGRATE_FROM_FILE, "0", VMFERRY_ERROR_INVALID,
                   "the value must be auto, or from 1 to 16");
    assert_refused("compress", MIGRATE_FROM_COMMAND, "Zstd", VMFERRY_ERROR_INVALID,
                   "--compress: \"Zstd\" is not a valid choice; use auto, none, lz4 or zstd");
    assert_refused(
        "mode", MIGRATE_FROM_COMMAND, "split", VMFERRY_ERROR_INVALID,
        "--mode: \"split\" is not a valid choice; use auto, precopy, postcopy or hybrid");
    assert_refused("store", MIGRATE_FROM_COMMAND, "host c", VMFERRY_ERROR_INVALID,
                   "--store: \"host c\" is not a valid address: write HOST or HOST:PORT");
    assert_refused("store", MIGRATE_FROM_COMMAND, "etcd://c", VMFERRY_ERROR_INVALID,
                   "--store: \"etcd://c\" keeps no pages: a store is an agent, HOST or HOST:PORT");
    assert_refused("store", MIGRATE_FROM_API, "", VMFERRY_ERROR_INVALID,
                   "store: \"\" is not a valid address: write HOST or HOST:PORT");
    assert_refused("verify", MIGRATE_FROM_COMMAND, "yes", VMFERRY_ERROR_INVALID,
                   "--verify: \"yes\" is neither true nor false");
}

static MigrateOptionSet bits(const char *first, const char *second)
{
    MigrateOptionSet given = first ? migrate_option_bit(migrate_option_find(first)) : 0;

    return given | (second ? migrate_option_bit(migrate_option_find(second)) : 0);
}

static void test_downtimes_agree(void **state)
{
    MigrateOptions options = {.max_downtime_ms = 3000, .downtime_cap_ms = 2000};
    g_autoptr(GError) error = NULL;

    assert_true(
        migrate_options_agree(&options, bits("max-downtime", NULL), MIGRATE_FROM_API, NULL));
    assert_int_equal(options.downtime_cap_ms, 3000);
    options.downtime_cap_ms = 100;
    assert_true(
        migrate_options_agree(&options, bits("downtime-cap", NULL), MIGRATE_FROM_API, NULL));
    assert_int_equal(options.max_downtime_ms, 100);
    options.downtime_cap_ms = 99;
    assert_false(migrate_options_agree(&options, bits("downtime-cap", "max-downtime"),
                                       MIGRATE_FROM_FILE, &error));
    assert_string_equal(error->message, "downtime-cap of 99 ms is below max-downtime of 100 ms: "
                                        "it must be at least 100 ms here");
}

static void test_record_needs_a_reader(void **state)
{
    MigrateOptions options = {.record = TRUE, .detach = TRUE};
    g_autoptr(GError) error = NULL;

    assert_false(
        migrate_options_agree(&options, bits("record", "detach"), MIGRATE_FROM_COMMAND, &error));
    assert_string_equal(error->message,
                        "--record needs a reader until the move has ended: not with --detach");
    options.detach = FALSE;
    assert_true(migrate_options_agree(&options, bits("record", NULL), MIGRATE_FROM_COMMAND, NULL));
}

static void test_seed(void **state)
{
    MigrateOptions options = {.mode = MIGRATE_MODE_POSTCOPY, .seed = "/srv/web1.image"};
    g_autofree char *longest = g_strnfill(MIGRATE_SEED_BYTES - 1, '/');
    g_autofree char *longer = g_strnfill(MIGRATE_SEED_BYTES, '/');
    g_autoptr(GError) error = NULL;

    assert_false(migrate_options_agree(&options, bits("seed", NULL), MIGRATE_FROM_COMMAND, &error));
    assert_non_null(strstr(error->message, "--seed is of use before the switchover"));
    options.mode = MIGRATE_MODE_HYBRID;
    assert_true(migrate_options_agree(&options, bits("seed", NULL), MIGRATE_FROM_COMMAND, NULL));
    assert_refused("seed", MIGRATE_FROM_COMMAND, "web1.image", VMFERRY_ERROR_INVALID,
                   "--seed: \"web1.image\" is not an absolute path of at most 1023 bytes");
    assert_refused("seed", MIGRATE_FROM_API, "", VMFERRY_ERROR_INVALID,
                   "seed: \"\" is not an absolute path of at most 1023 bytes");
    assert_true(set("seed", MIGRATE_FROM_COMMAND, longest, &options, NULL));
    assert_string_equal(options.seed, longest);
    assert_false(set("seed", MIGRATE_FROM_COMMAND, longer, &options, NULL));
}

static void test_store_needs_a_mode(void **state)
{
    MigrateOptions options = {.mode = MIGRATE_MODE_AUTO, .store = "hostc"};
    g_autoptr(GError) error = NULL;

    assert_false(
        migrate_options_agree(&options, bits("store", NULL), MIGRATE_FROM_COMMAND, &error));
    assert_string_equal(error->message, "--store is for --mode \"postcopy\" or \"hybrid\"");
    options.mode = MIGRATE_MODE_HYBRID;
    assert_true(migrate_options_agree(&options, bits("store", NULL), MIGRATE_FROM_COMMAND, NULL));
}

static void test_keys(void **state)
{
    static const char *const others[] = {"destination", "disk_modes", NULL};
    g_autofree const char **keys = migrate_options_list_keys(others);

    assert_string_equal(keys[0], "destination");
    assert_true(g_strv_contains(keys, "memory_budget_bytes"));
    assert_true(g_strv_contains(keys, "detach"));
    assert_false(g_strv_contains(keys, "progress"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_each_alone),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_wrong_texts),
        cmocka_unit_test(test_downtimes_agree),
        cmocka_unit_test(test_record_needs_a_reader),
        cmocka_unit_test(test_store_needs_a_mode),
        cmocka_unit_test(test_seed),
        cmocka_unit_test(test_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "scratch.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/events.h"
#include "base/error.h"
#include "base/log.h"

static void add_many(EventLog *log, guint count)
{
    for (guint i = 0; i < count; i++)
        event_log_add(log, "web1", "test", NULL, "event %u", i);
}

static void test_reading(void **state)
{
    g_autoptr(EventLog) log = event_log_open(NULL);
    g_autoptr(GPtrArray) all = NULL;
    g_autoptr(GPtrArray) rest = NULL;
    g_autoptr(GPtrArray) none = NULL;
    g_autoptr(json_t) event = NULL;
    uint64_t last;

    add_many(log, 5);
    all = event_log_read(log, 0, 100, &last);
    assert_int_equal(all->len, 5);
    assert_int_equal(last, 5);
    event = json_loads(all->pdata[4], 0, NULL);
    assert_int_equal(json_count_or(event, "seq", 0), 5);
    assert_string_equal(json_text_or(event, "guest", ""), "web1");
    assert_string_equal(json_text_or(event, "type", ""), "test");
    assert_string_equal(json_text_or(event, "text", ""), "event 4");
    assert_int_equal(strlen(json_text_or(event, "time", "")),
                     strlen("2020-01-01T00:00:00.000000Z"));
    rest = event_log_read(log, 3, 1, &last);
    assert_int_equal(rest->len, 1);
    assert_int_equal(last, 4);
    none = event_log_read(log, 77, 10, &last);
    assert_int_equal(none->len, 0);
    assert_int_equal(last, 77);
}

static void test_ring_is_bounded(void **state)
{
    g_autoptr(EventLog) log = event_log_open(NULL);
    g_autoptr(GPtrArray) all = NULL;
    g_autoptr(json_t) first = NULL;
    uint64_t last;

    add_many(log, EVENT_RING_SIZE + 10);
    all = event_log_read(log, 0, G_MAXUINT, &last);
    assert_int_equal(all->len, EVENT_RING_SIZE);
    first = json_loads(all->pdata[0], 0, NULL);
    assert_int_equal(json_count_or(first, "seq", 0), 11);
    assert_int_equal(event_log_get_last(log), EVENT_RING_SIZE + 10);
}

static void test_survives_a_restart(void **state)
{
    char *folder = scratch_new();
    g_autoptr(GPtrArray) all = NULL;
    EventLog *log = event_log_open(folder);
    uint64_t last;

    add_many(log, 3);
    event_log_close(log);
    log = event_log_open(folder);
    assert_int_equal(event_log_get_last(log), 3);
    add_many(log, 1);
    all = event_log_read(log, 0, 100, &last);
    assert_int_equal(all->len, 4);
    assert_int_equal(last, 4);
    event_log_close(log);
    scratch_remove(folder);
}

static goffset file_size(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    struct stat status;

    return stat(path, &status) == 0 ? status.st_size : -1;
}

static void test_files_are_rotated(void **state)
{
    char *folder = scratch_new();
    EventLog *log = event_log_open(folder);
    g_autofree char *text = g_strnfill(3000, 'x');
    guint count = 2 * EVENT_FILE_LIMIT / 3000 + 10;

    for (guint i = 0; i < count; i++)
        event_log_add(log, NULL, "long", NULL, "%s", text);
    assert_true(file_size(folder, "events.ndjson") <= (goffset)EVENT_FILE_LIMIT);
    assert_true(file_size(folder, "events.ndjson.1") <= (goffset)EVENT_FILE_LIMIT);
    event_log_close(log);
    log = event_log_open(folder);
    assert_int_equal(event_log_get_last(log), count);
    event_log_close(log);
    scratch_remove(folder);
}

static void test_hostile_files(void **state)
{
    char *folder = scratch_new();
    g_autoptr(GPtrArray) all = NULL;
    EventLog *log;
    uint64_t last;

    scratch_write(folder, "events.ndjson.1", "{\"seq\":7,\"type\":\"old\"}\n");
    scratch_write(folder, "events.ndjson",
                  "\n[]\nnonsense\n{\"seq\":3}\n{\"seq\":-1}\n{\"seq\":9223372036854775807}\n"
                  "{\"seq\":8,\"type\":\"new\"}\n{\"seq\":9,\"ty");
    log = event_log_open(folder);
    assert_int_equal(event_log_get_last(log), 8);
    /* Half a line at the end does not spoil the next one. */
    event_log_add(log, NULL, "next", NULL, "next");
    event_log_close(log);
    log = event_log_open(folder);
    all = event_log_read(log, 0, 100, &last);
    assert_int_equal(last, 9);
    event_log_close(log);
    scratch_remove(folder);
}

static void test_full_disk_breaks_nothing(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = g_build_filename(folder, "events.ndjson", NULL);
    EventLog *log = event_log_open(folder);

    assert_int_equal(symlink("/dev/full", path), 0);
    add_many(log, 3);
    assert_int_equal(event_log_get_last(log), 3);
    event_log_close(log);
    scratch_remove(folder);
}

static void count_calls(gpointer user)
{
    (*(guint *)user)++;
}

static void test_listener(void **state)
{
    g_autoptr(EventLog) log = event_log_open(NULL);
    guint calls = 0;

    event_log_set_listener(log, count_calls, &calls);
    add_many(log, 2);
    event_log_set_listener(log, NULL, NULL);
    add_many(log, 1);
    assert_int_equal(calls, 2);
}

/* Words of a guest or peer may be anything. */
static void test_strange_texts(void **state)
{
    g_autoptr(EventLog) log = event_log_open(NULL);
    g_autofree char *huge = g_strnfill(1 << 20, 'y');
    g_autoptr(GPtrArray) all = NULL;
    uint64_t last;

    event_log_add(log, "web1", "odd", NULL, "\xff\xfe%s", "\n\"\\");
    event_log_add(log, "web1", "odd", json_pack("{s:s}", "words", huge), "%s", huge);
    all = event_log_read(log, 0, 10, &last);
    assert_int_equal(all->len, 2);
    for (guint i = 0; i < all->len; i++) {
        g_autoptr(json_t) event = json_loads(all->pdata[i], 0, NULL);

        assert_non_null(event);
        assert_null(strchr(all->pdata[i], '\n'));
        assert_true(strlen(all->pdata[i]) < 70000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_ring_is_bounded),
        cmocka_unit_test(test_survives_a_restart),
        cmocka_unit_test(test_files_are_rotated),
        cmocka_unit_test(test_hostile_files),
        cmocka_unit_test(test_full_disk_breaks_nothing),
        cmocka_unit_test(test_listener),
        cmocka_unit_test(test_strange_texts),
    };

    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

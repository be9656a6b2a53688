#include "scratch.h"

#include <string.h>
#include <unistd.h>

#include "agent/departures.h"
#include "base/error.h"
#include "base/log.h"

#define ID "0123456789abcdef0123456789abcdef"

typedef struct {
    char *folder;
    StateStore *store;
    DepartureLog *log;
} Fixture;

static void open_log(Fixture *f)
{
    f->store = state_store_open(f->folder, NULL);
    assert_non_null(f->store);
    f->log = departure_log_open(f->store, NULL);
    assert_non_null(f->log);
}

static void reopen(Fixture *f)
{
    departure_log_close(f->log);
    state_store_close(f->store);
    open_log(f);
}

static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->folder = scratch_new();
    open_log(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    departure_log_close(f->log);
    state_store_close(f->store);
    scratch_remove(f->folder);
    g_free(f);
    return 0;
}

static void add(Fixture *f, const char *guest, const char *destination)
{
    GuestRecord record = {
        .name = (char *)guest, .destination = (char *)destination, .transaction = (char *)ID};

    departure_log_add(f->log, &record);
}

static void assert_went_to(Fixture *f, const char *guest, const char *destination)
{
    g_autoptr(Departure) departure = departure_log_find(f->log, guest);

    if (!destination) {
        assert_null(departure);
        return;
    }
    assert_non_null(departure);
    assert_string_equal(departure->guest, guest);
    assert_string_equal(departure->destination, destination);
    assert_string_equal(departure->transaction, ID);
    assert_true(ABS(departure->time - g_get_real_time() / G_USEC_PER_SEC) < 60);
}

static void test_survives_a_restart(void **state)
{
    Fixture *f = *state;

    add(f, "web1", "hostb");
    add(f, "web2", "hostb");
    add(f, "web1", "hostc"); /* it was back meanwhile */
    reopen(f);
    assert_went_to(f, "web1", "hostc");
    assert_went_to(f, "web2", "hostb");
    departure_log_forget(f->log, "web1");
    departure_log_forget(f->log, "web1");
    assert_went_to(f, "web1", NULL);
    reopen(f);
    assert_went_to(f, "web1", NULL);
    assert_went_to(f, "web2", "hostb");
}

static void test_records_without_a_move(void **state)
{
    GuestRecord nowhere = {.name = (char *)"web1", .transaction = (char *)ID};
    GuestRecord nameless = {.name = (char *)"web1", .destination = (char *)"hostb"};
    Fixture *f = *state;

    departure_log_add(f->log, &nowhere);
    departure_log_add(f->log, &nameless);
    assert_went_to(f, "web1", NULL);
    assert_false(scratch_exists(f->folder, "departed/web1.json"));
}

static void write_departure(Fixture *f, const char *guest, guint time)
{
    g_autofree char *name = g_strdup_printf("departed/%s.json", guest);
    g_autofree char *text = g_strdup_printf("{\"format\":1,\"name\":\"%s\",\"destination\":\"b\","
                                            "\"transaction\":\"" ID "\",\"moved_at\":%u}",
                                            guest, time);

    scratch_write(f->folder, name, text);
}

static guint count_files(Fixture *f)
{
    g_autoptr(GPtrArray) names = state_store_list(f->store, STORE_DEPARTURE, NULL);

    return names->len;
}

static void test_oldest_are_forgotten(void **state)
{
    Fixture *f = *state;
    g_autoptr(GPtrArray) list = NULL;

    for (guint i = 0; i < DEPARTURES_MAX + 10; i++) {
        g_autofree char *guest = g_strdup_printf("web%u", i);

        write_departure(f, guest, 1000 + i);
    }
    reopen(f);
    assert_int_equal(count_files(f), DEPARTURES_MAX);
    add(f, "new", "hostb");
    assert_int_equal(count_files(f), DEPARTURES_MAX);
    list = departure_log_list(f->log);
    assert_int_equal(list->len, DEPARTURES_MAX);
    assert_string_equal(((Departure *)list->pdata[0])->guest, "new");
    assert_string_equal(((Departure *)list->pdata[1])->guest, "web265");
    assert_string_equal(((Departure *)list->pdata[DEPARTURES_MAX - 1])->guest, "web11");
}

static void test_hostile_files_are_put_aside(void **state)
{
#define RECORD(name, destination, transaction, time)                                               \
    "{\"format\":1,\"name\":" name ",\"destination\":" destination ",\"transaction\":" transaction \
    ",\"moved_at\":" time "}"
    static const char *const texts[] = {
        "",
        "nonsense",
        "[]",
        "{}",
        RECORD("\"web2\"", "\"b\"", "\"" ID "\"", "1"),
        RECORD("\"../x\"", "\"b\"", "\"" ID "\"", "1"),
        RECORD("\"web1\"", "\"\"", "\"" ID "\"", "1"),
        RECORD("\"web1\"", "7", "\"" ID "\"", "1"),
        RECORD("\"web1\"", "\"b\"", "\"abc\"", "1"),
        RECORD("\"web1\"", "\"b\"", "\"" ID "\"", "-1"),
        RECORD("\"web1\"", "\"b\"", "\"" ID "\"", "\"1\""),
    };
    Fixture *f = *state;

    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        scratch_write(f->folder, "departed/web1.json", texts[i]);
        reopen(f);
        assert_went_to(f, "web1", NULL);
        assert_false(scratch_exists(f->folder, "departed/web1.json"));
        assert_true(scratch_exists(f->folder, "departed/web1.json.bad"));
    }
    scratch_write(f->folder, "departed/web1.json", RECORD("\"web1\"", "\"b\"", "\"" ID "\"", "1"));
    reopen(f);
    assert_int_equal(count_files(f), 1);
}

static void test_full_disk(void **state)
{
    Fixture *f = *state;
    g_autofree char *path = g_build_filename(f->folder, "departed/web1.json.new", NULL);

    assert_int_equal(symlink("/dev/full", path), 0);
    add(f, "web1", "hostb");
    assert_went_to(f, "web1", "hostb");
    assert_false(scratch_exists(f->folder, "departed/web1.json"));
}

static void test_words(void **state)
{
    static const struct {
        int64_t age;
        const char *text;
    } cases[] = {{-5, "just now"},        {0, "just now"},         {1, "1 second ago"},
                 {59, "59 seconds ago"},  {60, "1 minute ago"},    {3 * 60 + 59, "3 minutes ago"},
                 {3600, "1 hour ago"},    {86399, "23 hours ago"}, {86400, "1 day ago"},
                 {1000000, "11 days ago"}};
    Departure departure = {(char *)"web1", (char *)"hostb", (char *)ID, 5000000};

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = departure_describe(&departure, departure.time + cases[i].age);
        g_autofree char *wanted = g_strconcat("web1 moved to hostb ", cases[i].text, NULL);

        assert_string_equal(text, wanted);
    }
}

#define WITH_LOG(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_LOG(test_survives_a_restart),          WITH_LOG(test_records_without_a_move),
        WITH_LOG(test_oldest_are_forgotten),        WITH_LOG(test_full_disk),
        WITH_LOG(test_hostile_files_are_put_aside), cmocka_unit_test(test_words),
    };

    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

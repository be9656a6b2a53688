/* What agents say of their hosts: read, and not believed where it cannot be. */
#include "cluster.h"

#include "engine/load.h"

static const TestGuest two[] = {{"web1", 0.5, 0.01, 512, 0}, {"db1", 1.2, 0.2, 1024, 0}, {0}};

static void test_reads(void **state)
{
    g_autoptr(json_t) object = test_load("hosta", 5000, 4, 1.5, two);
    g_autoptr(GError) error = NULL;
    g_autoptr(Load) load = load_parse(object, &error);
    const LoadGuest *guest;

    assert_non_null(load);
    assert_string_equal(load->host, "hosta");
    assert_true(load->cpus == 4 && load->cpu_used == 1.5);
    assert_true(load->link_speed == 125e6 && load->network == 2000);
    assert_true(load->cpu_pressure == 0.1);
    assert_int_equal(load->guests->len, 2);
    guest = load->guests->pdata[1];
    assert_string_equal(guest->name, "db1");
    assert_true(guest->cpu_used == 1.2 && guest->cpu_wait == 0.2);
}

static double guests_network(const char *links, const char *moves)
{
    g_autoptr(json_t) object = test_load("hosta", 5000, 4, 1.5, two);
    g_autoptr(Load) load = NULL;

    json_object_set_new(object, "links", json_loads(links, 0, NULL));
    json_object_set_new(object, "moves", json_loads(moves, 0, NULL));
    load = load_parse(object, NULL);
    assert_non_null(load);
    return load->guests_network;
}

#define LINK(received, sent)                                                                       \
    "{\"received_bytes_per_s\": " #received ", \"sent_bytes_per_s\": " #sent "}"

/* What moves take is no traffic of guests: of the link that carries them, and of the way that it takes. */
static void test_traffic_without_moves(void **state)
{
    assert_true(guests_network("[" LINK(900, 100) "]", LINK(0, 0)) == 900);
    assert_true(guests_network("[" LINK(900, 100) "]", "null") == 900);
    assert_true(guests_network("[" LINK(900, 100) "]", LINK(700, 0)) == 200);
    /* One comes, one goes. */
    assert_true(guests_network("[" LINK(900, 800) "]", LINK(700, 700)) == 200);
    /* A link of their own, and one of the guests'. */
    assert_true(guests_network("[" LINK(750, 10) "," LINK(1000, 20) "]", LINK(700, 0)) == 1000);
    assert_true(guests_network("[" LINK(1000, 20) "," LINK(750, 10) "]", LINK(700, 0)) == 1000);
    /* Read a moment apart. */
    assert_true(guests_network("[" LINK(690, 0) "," LINK(20, 20) "]", LINK(700, 0)) == 20);
    assert_true(guests_network("[]", LINK(700, 0)) == CLUSTER_UNKNOWN);
    assert_true(guests_network("[" LINK(null, null) "]", LINK(700, 0)) == CLUSTER_UNKNOWN);
}

/* Whatever is missing or null is not known, and nothing else is lost by it. */
static void test_unknown(void **state)
{
    static const char *const keys[] = {"cpu_used", "pressure", "links",  "memory_available_bytes",
                                       "wall",     "agent_id", "boot_id"};

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        for (guint null = 0; null < 2; null++) {
            g_autoptr(json_t) object = test_load("hosta", 5000, 4, 1.5, two);
            g_autoptr(Load) load = NULL;

            json_object_del(object, keys[i]);
            if (null)
                json_object_set_new(object, keys[i], json_null());
            load = load_parse(object, NULL);
            assert_non_null(load);
            assert_int_equal(load->guests->len, 2);
        }
    }
}

static void refuse(json_t *change, const char *words)
{
    g_autoptr(json_t) object = test_load("hosta", 5000, 4, 1.5, two);
    g_autoptr(Load) load = NULL;
    GError *error = NULL;

    json_object_update_new(object, change);
    load = load_parse(object, &error);
    assert_null(load);
    expect_error(error, words);
}

static void test_absurd(void **state)
{
    refuse(json_pack("{s:f}", "cpu_used", -1.0), "\"cpu_used\" is negative");
    refuse(json_pack("{s:f}", "cpu_used", 400.0), "\"cpu_used\" is more than can be");
    refuse(json_pack("{s:s}", "cpu_used", "much"), "is not a number");
    refuse(json_pack("{s:{s:{s:f}}}", "pressure", "cpu", "some", 3.0), "more than can be");
    refuse(json_pack("{s:n}", "cpus"), "\"cpus\" is missing");
    refuse(json_pack("{s:n}", "version"), "\"version\" is missing");
    refuse(json_pack("{s:I}", "memory_available_bytes", (json_int_t)9 << 30), "more than all");
    refuse(json_pack("{s:{}}", "guests"), "\"guests\" is not a list");
    refuse(json_pack("{s:[i]}", "guests", 1), "a guest: \"name\" is missing");
    refuse(json_pack("{s:[{s:s}]}", "guests", "name", "../x"), "not a valid guest's name");
    refuse(json_pack("{s:[{s:s, s:f}]}", "guests", "name", "w", "cpu_wait", 2.0),
           "guest w: \"cpu_wait\" is more than can be");
    refuse(json_pack("{s:[{s:s, s:I}]}", "guests", "name", "w", "memory_bytes", (json_int_t)-5),
           "guest w: \"memory_bytes\" is negative");
}

static void test_limits(void **state)
{
    json_t *guests = json_array(), *entry = json_pack("{s:s}", "name", "w");

    for (guint i = 0; i <= LOAD_MAX_GUESTS; i++)
        json_array_append(guests, entry);
    json_decref(entry);
    refuse(json_pack("{s:o}", "guests", guests), "too long");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),   cmocka_unit_test(test_traffic_without_moves),
        cmocka_unit_test(test_unknown), cmocka_unit_test(test_absurd),
        cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* STORE, STORED, UNCOVERED and LEASE: their bytes, round trips, and everything malformed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "wire/lease_frame.h"
#include "wire/messages.h"
#include "wire/store_frame.h"

#define ID "0123456789abcdef0123456789abcdef"
#define OTHER_ID "fedcba9876543210fedcba9876543210"

static WireRegion regions[] = {{(char *)"pc.ram", 134217728}, {(char *)"vga.vram", 16777216}};

static StoreMessage make_message(void)
{
    return (StoreMessage){
        .transaction = (char *)ID,
        .guest = (char *)"web1",
        .guest_id = (char *)OTHER_ID,
        .term = 7,
        .source = (char *)"hosta",
        .destination = (char *)"hostb:4747",
        .destination_agent = (char *)ID,
        .bytes = 134217728,
        .regions = regions,
        .region_count = G_N_ELEMENTS(regions),
    };
}

static void test_store_round_trip(void **state)
{
    StoreMessage message = make_message();
    g_autofree char *text = store_message_encode(&message);
    g_autoptr(StoreMessage) back = store_message_decode(text, strlen(text), NULL);

    assert_non_null(back);
    assert_string_equal(back->transaction, ID);
    assert_string_equal(back->guest, "web1");
    assert_string_equal(back->guest_id, OTHER_ID);
    assert_int_equal(back->term, 7);
    assert_string_equal(back->source, "hosta");
    assert_string_equal(back->destination, "hostb:4747");
    assert_string_equal(back->destination_agent, ID);
    assert_int_equal(back->bytes, 134217728);
    assert_int_equal(back->region_count, 2);
    assert_string_equal(back->regions[1].name, "vga.vram");
    assert_int_equal(back->regions[1].bytes, 16777216);
}

/* Each key is needed, and nothing of a wrong kind is taken. */
static void test_store_damages(void **state)
{
    static const struct {
        const char *key, *value; /* JSON; NULL: without the key */
    } damages[] = {
        {"transaction", NULL},
        {"transaction", "\"../../etc\""},
        {"guest", "\"\""},
        {"guest_id", "\"12\""},
        {"term", "0"},
        {"term", "9007199254740993"},
        {"destination_agent", NULL},
        {"destination_agent", "\"somebody\""},
        {"source", "7"},
        {"bytes", NULL},
        {"bytes", "-1"},
        {"bytes", "150994945"}, /* one more than there are */
        {"regions", "[]"},
        {"regions", NULL},
        {"regions", "[7]"},
        {"regions", "[{\"name\": \"a\", \"bytes\": 4095}]"},
        {"regions", "[{\"name\": \"a\", \"bytes\": 0}]"},
        {"regions", "[{\"name\": \"\", \"bytes\": 4096}]"},
        {"regions", "[{\"name\": \"a\", \"bytes\": 4096}, {\"name\": \"a\", \"bytes\": 4096}]"},
        {"regions", "[{\"name\": \"a\", \"bytes\": 70368744177664}, "
                    "{\"name\": \"b\", \"bytes\": 4096}]"},
    };
    StoreMessage message = make_message();
    g_autofree char *text = store_message_encode(&message);

    for (guint i = 0; i < G_N_ELEMENTS(damages); i++) {
        g_autoptr(json_t) object = json_loads(text, 0, NULL);
        g_autofree char *damaged = NULL;
        g_autoptr(GError) error = NULL;
        StoreMessage *back;

        json_object_del(object, damages[i].key);
        if (damages[i].value)
            json_object_set_new(object, damages[i].key,
                                json_loads(damages[i].value, JSON_DECODE_ANY, NULL));
        damaged = json_dumps(object, 0);
        back = store_message_decode(damaged, strlen(damaged), &error);
        if (back || !error_is(error, VMFERRY_ERROR_INVALID))
            fail_msg("%s: %s was taken", damages[i].key, damages[i].value);
    }
}

static void test_stored(void **state)
{
    static const uint8_t golden[] = {1, 7, 2, 0, 0, 0, 0, 0, 0};
    StoredFrame frame = {TRUE, 0x207}, back;
    uint8_t bytes[FRAME_STORED_BYTES];

    stored_frame_encode(&frame, bytes);
    assert_memory_equal(bytes, golden, sizeof golden);
    assert_true(stored_frame_decode(bytes, sizeof bytes, &back, NULL));
    assert_true(back.sealed == TRUE && back.pages == 0x207);
    assert_false(stored_frame_decode(bytes, sizeof bytes - 1, &back, NULL));
    bytes[0] = 2;
    assert_false(stored_frame_decode(bytes, sizeof bytes, &back, NULL));
    bytes[0] = 0;
    bytes[8] = 1; /* more than any guest has */
    assert_false(stored_frame_decode(bytes, sizeof bytes, &back, NULL));
}

static void test_uncovered(void **state)
{
    uint8_t bytes[FRAME_UNCOVERED_BYTES];
    uint64_t back;

    uncovered_frame_encode(1000000, bytes);
    assert_true(uncovered_frame_decode(bytes, sizeof bytes, &back, NULL));
    assert_int_equal(back, 1000000);
    assert_false(uncovered_frame_decode(bytes, sizeof bytes - 1, &back, NULL));
    memset(bytes, 0xff, sizeof bytes);
    assert_false(uncovered_frame_decode(bytes, sizeof bytes, &back, NULL));
}

static void test_lease(void **state)
{
    static const uint8_t golden[] = {2, 1, 0, 0, 0, 0, 0, 0, 0xb8, 0x0b, 0, 0};
    uint8_t bytes[FRAME_LEASE_BYTES];
    LeaseFrame back;

    lease_frame_encode(&(LeaseFrame){258, 3000}, bytes);
    assert_memory_equal(bytes, golden, sizeof golden);
    assert_true(lease_frame_decode(bytes, sizeof bytes, &back, NULL));
    assert_int_equal(back.number, 258);
    assert_int_equal(back.length_ms, 3000);
    assert_false(lease_frame_decode(bytes, sizeof bytes - 1, &back, NULL));
    lease_frame_encode(&(LeaseFrame){1, 60001}, bytes);
    assert_false(lease_frame_decode(bytes, sizeof bytes, &back, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store_round_trip),
        cmocka_unit_test(test_store_damages),
        cmocka_unit_test(test_stored),
        cmocka_unit_test(test_uncovered),
        cmocka_unit_test(test_lease),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

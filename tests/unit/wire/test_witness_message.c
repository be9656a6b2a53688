#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "wire/frame.h"
#include "wire/witness_message.h"

#define ID "0123456789abcdef0123456789abcdef"
#define OTHER "ffffffffffffffffffffffffffffffff"

static void test_requests(void **state)
{
    WitnessRequest said = {.number = 7,
                           .transaction = (char *)ID,
                           .guest = (char *)"web1",
                           .guest_id = (char *)OTHER,
                           .term = 3,
                           .destination = (char *)OTHER,
                           .destination_name = (char *)"b.example.org",
                           .lease_ms = 3000};

    for (guint kind = WITNESS_REGISTER; kind <= WITNESS_ASK; kind++) {
        g_auto(WitnessRequest) heard = {0};
        g_autofree char *text = NULL;

        said.kind = (WitnessRequestKind)kind;
        text = witness_request_encode(&said);
        assert_true(witness_request_decode(text, strlen(text), &heard, NULL));
        assert_int_equal(heard.number, 7);
        assert_int_equal(heard.kind, kind);
        assert_string_equal(heard.transaction, ID);
        if (kind == WITNESS_REGISTER) {
            assert_string_equal(heard.guest, "web1");
            assert_string_equal(heard.guest_id, OTHER);
            assert_int_equal(heard.term, 3);
            assert_string_equal(heard.destination, OTHER);
            assert_string_equal(heard.destination_name, "b.example.org");
            assert_int_equal(heard.lease_ms, 3000);
        } else {
            assert_null(heard.destination);
        }
    }
}

#define REGISTRATION(destination, lease, more)                                                     \
    "{\"number\":1,\"request\":\"register\",\"transaction\":\"" ID "\",\"guest\":\"web1\","        \
    "\"guest_id\":\"" ID "\",\"term\":2,\"destination\":\"" destination "\",\"lease_ms\":" lease   \
    "" more "}"

static void test_wrong_requests(void **state)
{
    static const char *const wrong[] = {
        "",
        "[]",
        "{}",
        "{\"number\":-1,\"request\":\"ask\",\"transaction\":\"" ID "\"}",
        "{\"number\":9007199254740993,\"request\":\"ask\",\"transaction\":\"" ID "\"}",
        "{\"number\":1,\"request\":\"sing\",\"transaction\":\"" ID "\"}",
        "{\"number\":1,\"request\":\"ask\",\"transaction\":\"../../etc/passwd\"}",
        "{\"number\":1,\"request\":\"register\",\"transaction\":\"" ID "\"}",
        REGISTRATION("b", "3000", ""),
        REGISTRATION(OTHER, "999", ""),
        REGISTRATION(OTHER, "60001", ""),
        REGISTRATION(OTHER, "3000", ",\"destination_name\":7"),
        REGISTRATION(OTHER, "3000", ",\"destination_name\":\"a\\nb\""),
    };
    const char *right = REGISTRATION(OTHER, "3000", "");
    WitnessRequest heard;

    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;

        assert_false(witness_request_decode(wrong[i], strlen(wrong[i]), &heard, &error));
        assert_non_null(error);
    }
    assert_true(witness_request_decode(right, strlen(right), &heard, NULL));
    witness_request_clear(&heard);
}

static void test_answers(void **state)
{
    WitnessAnswer said = {.number = 7, .state = WITNESS_SOURCE_MAY, .lease_ms = 3, .wait_ms = 20};
    g_autofree char *plain = NULL, *refused = NULL;
    g_auto(WitnessAnswer) heard = {0};

    plain = witness_answer_encode(&said);
    assert_true(witness_answer_decode(plain, strlen(plain), &heard, NULL));
    assert_int_equal(heard.number, 7);
    assert_int_equal(heard.state, WITNESS_SOURCE_MAY);
    assert_int_equal(heard.lease_ms, 3);
    assert_int_equal(heard.wait_ms, 20);
    assert_null(heard.refusal);
    error_set(&said.refusal, VMFERRY_ERROR_BUSY, "a lease\nlives, %01500d", 0);
    refused = witness_answer_encode(&said);
    assert_true(witness_answer_decode(refused, strlen(refused), &heard, NULL));
    assert_true(error_is(heard.refusal, VMFERRY_ERROR_BUSY));
    assert_true(g_str_has_prefix(heard.refusal->message, "a lease lives, 000"));
    g_clear_error(&said.refusal);
}

static void test_wrong_answers(void **state)
{
    static const char *const wrong[] = {
        "{}",
        "{\"number\":1,\"state\":\"fine\"}",
        "{\"number\":1,\"state\":\"undecided\",\"lease_ms\":60001}",
        "{\"number\":1,\"state\":\"undecided\",\"wait_ms\":-1}",
        "{\"number\":1,\"state\":\"undecided\",\"code\":7}",
        "{\"number\":1,\"state\":\"undecided\",\"code\":\"busy\",\"message\":7}",
    };
    WitnessAnswer heard;

    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++)
        assert_false(witness_answer_decode(wrong[i], strlen(wrong[i]), &heard, NULL));
}

static void test_frames(void **state)
{
    FrameHeader header = {FRAME_WITNESS_REQUEST, WITNESS_FRAME_BYTES};

    assert_true(frame_header_check(&header, NULL));
    header.length++;
    assert_false(frame_header_check(&header, NULL));
    assert_int_equal(frame_type_traffic(FRAME_WITNESS_ANSWER), TRAFFIC_CONTROL);
    /* Numbers between those in use are unknown. */
    header = (FrameHeader){FRAME_WITNESS_REQUEST - 1, 0};
    if (g_str_equal(frame_type_name(header.type), "unknown"))
        assert_false(frame_header_check(&header, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests), cmocka_unit_test(test_wrong_requests),
        cmocka_unit_test(test_answers),  cmocka_unit_test(test_wrong_answers),
        cmocka_unit_test(test_frames),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

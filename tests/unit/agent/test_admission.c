/* Who makes room for whom at the peer port. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "agent/admission.h"
#include "base/error.h"
#include "base/fd.h"

typedef struct {
    int ours, theirs;
    AdmissionPlace *place;
} Peer;

static void come(Admission *admission, Peer *peer, const char *text)
{
    struct sockaddr_in plain = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    gboolean four = inet_pton(AF_INET, text, &plain.sin_addr) == 1;
    int pair[2];

    if (!four)
        assert_int_equal(inet_pton(AF_INET6, text, &six.sin6_addr), 1);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    *peer = (Peer){pair[0], pair[1], NULL};
    peer->place = admission_enter(admission, peer->ours,
                                  four ? (struct sockaddr *)&plain : (struct sockaddr *)&six);
}

static gboolean is_cut(const Peer *peer)
{
    struct pollfd p = {.fd = peer->theirs, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void go(Peer *peer)
{
    if (peer->place)
        admission_leave(peer->place);
    fd_close(&peer->ours);
    fd_close(&peer->theirs);
}

static void test_an_address_makes_room_for_itself(void **state)
{
    Admission *admission = admission_new();
    Peer other, peers[ADMISSION_PER_ADDRESS + 2];

    come(admission, &other, "10.0.0.2");
    for (guint i = 0; i < G_N_ELEMENTS(peers); i++)
        come(admission, &peers[i], "10.0.0.1");
    for (guint i = 0; i < G_N_ELEMENTS(peers); i++) {
        assert_int_equal(is_cut(&peers[i]), i < 2);
        assert_int_equal(admission_was_cut(peers[i].place), i < 2);
    }
    assert_false(is_cut(&other));
    go(&other);
    for (guint i = 0; i < G_N_ELEMENTS(peers); i++)
        go(&peers[i]);
    admission_free(admission);
}

static void test_the_greediest_makes_room_for_all(void **state)
{
    Admission *admission = admission_new();
    Peer peers[ADMISSION_PENDING], honest;

    for (guint i = 0; i < ADMISSION_PENDING; i++) {
        g_autofree char *text = g_strdup_printf("10.1.%u.1", i < 3 ? 0 : i);

        come(admission, &peers[i], text);
    }
    come(admission, &honest, "10.2.0.1");
    assert_false(is_cut(&honest));
    for (guint i = 0; i < ADMISSION_PENDING; i++) {
        assert_int_equal(is_cut(&peers[i]), i == 0);
        go(&peers[i]);
    }
    go(&honest);
    admission_free(admission);
}

static void test_one_customer_is_one_address(void **state)
{
    Admission *admission = admission_new();
    Peer peers[ADMISSION_PER_ADDRESS + 1], mapped, plain;

    for (guint i = 0; i < G_N_ELEMENTS(peers); i++) {
        g_autofree char *text = g_strdup_printf("2001:db8:0:1:%x::1", i);

        come(admission, &peers[i], text);
        assert_false(is_cut(&peers[i]));
    }
    assert_true(is_cut(&peers[0]));
    for (guint i = 0; i < G_N_ELEMENTS(peers); i++)
        go(&peers[i]);
    for (guint i = 0; i < G_N_ELEMENTS(peers); i++)
        come(admission, &peers[i], i % 2 ? "::ffff:10.0.0.1" : "10.0.0.1");
    come(admission, &mapped, "::ffff:10.0.0.2");
    come(admission, &plain, "10.0.0.3");
    assert_true(is_cut(&peers[0]) && !is_cut(&mapped) && !is_cut(&plain));
    for (guint i = 0; i < G_N_ELEMENTS(peers); i++)
        go(&peers[i]);
    go(&mapped);
    go(&plain);
    admission_free(admission);
}

/* Peers that were let in are in nobody's way, and moves not in a question's. */
static void test_those_let_in_count_apart(void **state)
{
    Admission *admission = admission_new();
    Peer moves[ADMISSION_MOVES], late, question;
    GError *error = NULL;

    for (guint i = 0; i < ADMISSION_MOVES; i++) {
        come(admission, &moves[i], "10.0.0.1");
        assert_true(admission_pass(moves[i].place, ADMITTED_MOVE, NULL));
    }
    come(admission, &late, "10.0.0.1");
    assert_false(admission_pass(late.place, ADMITTED_MOVE, &error));
    assert_true(error_is(error, VMFERRY_ERROR_BUSY));
    g_clear_error(&error);
    come(admission, &question, "10.0.0.1");
    assert_true(admission_pass(question.place, ADMITTED_QUESTION, NULL));
    go(&moves[0]);
    assert_true(admission_pass(late.place, ADMITTED_MOVE, NULL));
    for (guint i = 1; i < ADMISSION_MOVES; i++) {
        assert_false(is_cut(&moves[i]));
        go(&moves[i]);
    }
    go(&late);
    go(&question);
    admission_free(admission);
}

/* Each connection has a thread: also those that end are few.  Who is too fast for that keeps
 * nobody else waiting. */
static void test_those_that_end_are_bounded(void **state)
{
    Admission *admission = admission_new();
    Peer peers[4 * ADMISSION_PENDING], honest;
    guint served = 0;

    for (guint i = 0; i < G_N_ELEMENTS(peers); i++) {
        come(admission, &peers[i], "10.0.0.1");
        served += peers[i].place != NULL;
    }
    assert_int_equal(served, 2 * ADMISSION_PER_ADDRESS);
    come(admission, &honest, "10.0.0.2");
    assert_non_null(honest.place);
    go(&honest);
    for (guint i = 0; i < G_N_ELEMENTS(peers); i++)
        go(&peers[i]);
    come(admission, &honest, "10.0.0.1");
    assert_non_null(honest.place);
    go(&honest);
    admission_free(admission);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_address_makes_room_for_itself),
        cmocka_unit_test(test_the_greediest_makes_room_for_all),
        cmocka_unit_test(test_one_customer_is_one_address),
        cmocka_unit_test(test_those_let_in_count_apart),
        cmocka_unit_test(test_those_that_end_are_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

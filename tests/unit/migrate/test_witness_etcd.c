/* A witness that is etcd: the rules against a real one, and what an evil one may answer. */
#include "etcd_server.h"

#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/name.h"
#include "migrate/etcd.h"
#include "migrate/takeover_gate.h"
#include "migrate/witness_etcd.h"
#include "migrate/witness_open.h"
#include "policy/lease.h"

#define GUEST_ID "fedcba9876543210fedcba9876543210"
#define SOURCE "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DESTINATION "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define STRANGER "cccccccccccccccccccccccccccccccc"
#define LEASE_MS WITNESS_MIN_LEASE_MS
#define COUNTED_MS (LEASE_MS + LEASE_MS / 100 + LEASE_MARGIN_MS)
#define TIMEOUT_MS 20000
#define SHARE_MS 1000
#define NS_PER_MS ((uint64_t)1000000)

/* ---- a transaction of our own ---- */

typedef struct {
    char *transaction;
    Witness *source, *destination;
} Fixture;

static gboolean get_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    *ret = (ChannelOptions){.agent = user};
    return TRUE;
}

static Witness *make_witness(const char *address, const char *agent, const char *us)
{
    WitnessClientOptions options = {
        .address = address, .agent = agent, .get_channel = get_channel, .user = (gpointer)us};

    return witness_new(&options);
}

static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    *state = f;
    if (!etcd_server_is_there())
        return 0;
    f->transaction = random_id_new();
    f->source = make_witness(etcd_server_address(), NULL, SOURCE);
    f->destination = make_witness(etcd_server_address(), NULL, DESTINATION);
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    witness_free(f->source);
    witness_free(f->destination);
    g_free(f->transaction);
    g_free(f);
    return 0;
}

static gboolean ask(Fixture *f, Witness *witness, WitnessRequestKind kind, WitnessReply *ret,
                    GError **error)
{
    return witness_ask(witness, kind, f->transaction, TIMEOUT_MS, ret, error);
}

static WitnessReply assert_done(Fixture *f, Witness *witness, WitnessRequestKind kind)
{
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    if (!ask(f, witness, kind, &reply, &error))
        fail_msg("%s", error->message);
    assert_true(reply.answered);
    return reply;
}

static WitnessReply assert_refused(Fixture *f, Witness *witness, WitnessRequestKind kind,
                                   VmferryErrorCode code)
{
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    assert_false(ask(f, witness, kind, &reply, &error));
    if (!error_is(error, code))
        fail_msg("%s", error->message);
    assert_true(reply.answered);
    assert_int_equal(reply.lease_ms, 0);
    return reply;
}

static gboolean try_register(Fixture *f, Witness *witness, uint64_t term, guint lease_ms,
                             GError **error)
{
    WitnessRequest request = {.kind = WITNESS_REGISTER,
                              .transaction = f->transaction,
                              .guest = (char *)"web1",
                              .guest_id = (char *)GUEST_ID,
                              .term = term,
                              .destination = (char *)DESTINATION,
                              .destination_name = (char *)"hostB",
                              .lease_ms = lease_ms};

    return witness_call(witness, &request, TIMEOUT_MS, NULL, error);
}

static void register_guest(Fixture *f, guint lease_ms)
{
    g_autoptr(GError) error = NULL;

    if (!try_register(f, f->source, 2, lease_ms, &error))
        fail_msg("%s", error->message);
}

/* As the answer says when it may be asked again, it is granted then. */
static void claim_in_time(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    while (!ask(f, f->source, WITNESS_CLAIM, &reply, &error)) {
        assert_true(error_is(error, VMFERRY_ERROR_BUSY));
        assert_true(reply.answered);
        assert_true(reply.wait_ms > 0 && reply.wait_ms <= COUNTED_MS);
        clock_sleep_ns(reply.wait_ms * NS_PER_MS);
        g_clear_error(&error);
    }
    assert_int_equal(reply.state, WITNESS_SOURCE_MAY);
}

/* ---- the rules ---- */

static void test_the_rules(void **state)
{
    Fixture *f = *state;
    LeaseHolder holder = {0};
    uint64_t before;
    WitnessReply reply;

    etcd_server_need();
    assert_refused(f, f->destination, WITNESS_RENEW, VMFERRY_ERROR_NOT_FOUND);
    assert_refused(f, f->source, WITNESS_CLAIM, VMFERRY_ERROR_NOT_FOUND);
    register_guest(f, LEASE_MS);
    before = clock_boot_ns();
    reply = assert_done(f, f->destination, WITNESS_RENEW);
    assert_int_equal(reply.lease_ms, LEASE_MS);
    assert_true(reply.sent_ns > before && reply.sent_ns <= clock_boot_ns());
    lease_holder_grant(&holder, LEASE_OF_WITNESS, reply.sent_ns, reply.lease_ms);
    assert_refused(f, f->source, WITNESS_RENEW, VMFERRY_ERROR_REFUSED);
    assert_refused(f, f->destination, WITNESS_GIVE_BACK, VMFERRY_ERROR_REFUSED);
    claim_in_time(f);
    assert_false(lease_holder_may_run(&holder, clock_boot_ns()));
    reply = assert_refused(f, f->destination, WITNESS_RENEW, VMFERRY_ERROR_REFUSED);
    assert_int_equal(reply.state, WITNESS_SOURCE_MAY);
    assert_refused(f, f->destination, WITNESS_CLAIM, VMFERRY_ERROR_REFUSED);
    assert_refused(f, f->destination, WITNESS_FORGET, VMFERRY_ERROR_REFUSED);
    assert_done(f, f->source, WITNESS_CLAIM);
    assert_done(f, f->source, WITNESS_GIVE_BACK);
    assert_done(f, f->source, WITNESS_GIVE_BACK);
    reply = assert_done(f, f->destination, WITNESS_RENEW);
    assert_int_equal(reply.lease_ms, LEASE_MS);
    assert_refused(f, f->source, WITNESS_CLAIM, VMFERRY_ERROR_BUSY);
}

static void test_alone(void **state)
{
    Fixture *f = *state;
    WitnessReply reply;

    etcd_server_need();
    register_guest(f, LEASE_MS);
    reply = assert_done(f, f->destination, WITNESS_CLAIM);
    assert_int_equal(reply.state, WITNESS_DESTINATION_ALONE);
    assert_done(f, f->destination, WITNESS_CLAIM);
    assert_done(f, f->destination, WITNESS_RENEW);
    clock_sleep_ns((COUNTED_MS + 10) * NS_PER_MS);
    reply = assert_refused(f, f->source, WITNESS_CLAIM, VMFERRY_ERROR_REFUSED);
    assert_int_equal(reply.state, WITNESS_DESTINATION_ALONE);
    assert_refused(f, f->source, WITNESS_GIVE_BACK, VMFERRY_ERROR_REFUSED);
    assert_refused(f, f->source, WITNESS_FORGET, VMFERRY_ERROR_REFUSED);
    reply = assert_done(f, f->source, WITNESS_ASK);
    assert_int_equal(reply.state, WITNESS_DESTINATION_ALONE);
    assert_done(f, f->destination, WITNESS_FORGET);
    assert_refused(f, f->source, WITNESS_CLAIM, VMFERRY_ERROR_NOT_FOUND);
    assert_refused(f, f->destination, WITNESS_RENEW, VMFERRY_ERROR_NOT_FOUND);
    assert_done(f, f->source, WITNESS_FORGET);
}

static void test_registering(void **state)
{
    Fixture *f = *state;
    g_autoptr(Witness) stranger = make_witness(etcd_server_address(), NULL, STRANGER);
    g_autoptr(Witness) nobody = make_witness(etcd_server_address(), NULL, NULL);
    g_autoptr(GError) error = NULL;

    etcd_server_need();
    assert_false(try_register(f, nobody, 2, LEASE_MS, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    g_clear_error(&error);
    assert_false(try_register(f, f->destination, 2, LEASE_MS, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    g_clear_error(&error);
    register_guest(f, LEASE_MS);
    register_guest(f, LEASE_MS);
    assert_false(try_register(f, f->source, 3, LEASE_MS, &error));
    assert_true(error_is(error, VMFERRY_ERROR_EXISTS));
    g_clear_error(&error);
    assert_false(try_register(f, stranger, 2, LEASE_MS, &error));
    assert_true(error_is(error, VMFERRY_ERROR_EXISTS));
    assert_refused(f, stranger, WITNESS_ASK, VMFERRY_ERROR_NOT_FOUND);
    assert_refused(f, stranger, WITNESS_CLAIM, VMFERRY_ERROR_NOT_FOUND);
    assert_refused(f, stranger, WITNESS_FORGET, VMFERRY_ERROR_NOT_FOUND);
    assert_refused(f, nobody, WITNESS_RENEW, VMFERRY_ERROR_NOT_FOUND);
    /* It is taken to have been granted a lease. */
    assert_refused(f, f->source, WITNESS_CLAIM, VMFERRY_ERROR_BUSY);
}

/* ---- leases ---- */

static WitnessReply renew_for(Fixture *f, guint lease_ms)
{
    WitnessRequest request = {
        .kind = WITNESS_RENEW, .transaction = f->transaction, .lease_ms = lease_ms};
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    if (!witness_call(f->destination, &request, TIMEOUT_MS, &reply, &error))
        fail_msg("%s", error->message);
    return reply;
}

/* Who sees the last lease only waits for the one before as well. */
static void test_shorter_leases(void **state)
{
    Fixture *f = *state;
    LeaseHolder holder = {0};
    WitnessReply reply;

    etcd_server_need();
    register_guest(f, 3 * LEASE_MS);
    reply = renew_for(f, 0);
    assert_int_equal(reply.lease_ms, 3 * LEASE_MS);
    lease_holder_grant(&holder, LEASE_OF_WITNESS, reply.sent_ns, reply.lease_ms);
    assert_int_equal(renew_for(f, LEASE_MS).lease_ms, LEASE_MS);
    reply = assert_refused(f, f->source, WITNESS_CLAIM, VMFERRY_ERROR_BUSY);
    clock_sleep_ns(reply.wait_ms * NS_PER_MS);
    assert_false(lease_holder_may_run(&holder, clock_boot_ns()));
    assert_int_equal(renew_for(f, 100 * LEASE_MS).lease_ms, 3 * LEASE_MS);
    clock_sleep_ns(3 * LEASE_MS * NS_PER_MS);
    renew_for(f, LEASE_MS);
    reply = assert_refused(f, f->source, WITNESS_CLAIM, VMFERRY_ERROR_BUSY);
    assert_true(reply.wait_ms <= COUNTED_MS);
}

/* Whoever attends has been counting; each renewal is seen. */
static void test_attending(void **state)
{
    Fixture *f = *state;
    g_autoptr(TakeoverGate) gate = NULL;

    etcd_server_need();
    register_guest(f, LEASE_MS);
    gate = takeover_gate_new(f->source, f->transaction, LEASE_MS, TRUE);
    assert_done(f, f->destination, WITNESS_RENEW);
    clock_sleep_ns((COUNTED_MS + LEASE_MS / 2) * NS_PER_MS);
    assert_done(f, f->source, WITNESS_CLAIM);
    assert_done(f, f->source, WITNESS_GIVE_BACK);
    assert_done(f, f->destination, WITNESS_RENEW);
    assert_refused(f, f->source, WITNESS_CLAIM, VMFERRY_ERROR_BUSY);
}

/* ---- what comes late ---- */

/* The keys as they are now. */
static void get_keys(Fixture *f, EtcdKey *keys, char **names, Etcd *etcd, EtcdAnswer *ret)
{
    uint64_t sent;

    names[0] = g_strdup_printf("/vmferry/witness/%s/state", f->transaction);
    names[1] = g_strdup_printf("/vmferry/witness/%s/lease", f->transaction);
    for (guint i = 0; i < 2; i++)
        keys[i] = (EtcdKey){.key = names[i]};
    assert_true(
        etcd_commit(etcd, keys, 2, clock_now_ns() + TIMEOUT_MS * NS_PER_MS, &sent, ret, NULL));
    for (guint i = 0; i < 2; i++) {
        keys[i].is_compared = TRUE;
        keys[i].revision = ret->entries[i].revision;
        keys[i].value = ret->entries[i].value;
    }
}

static void assert_comes_late(Etcd *etcd, EtcdKey *keys, guint written)
{
    uint64_t sent, end_ns = clock_now_ns() + TIMEOUT_MS * NS_PER_MS;
    g_auto(EtcdAnswer) answer = {0};

    keys[written].is_written = TRUE;
    assert_true(etcd_commit(etcd, keys, 2, end_ns, &sent, &answer, NULL));
    assert_false(answer.written);
    assert_true(answer.entries[written].revision > keys[written].revision);
}

/* A consent that is given again, and a giving back, leave nothing that was sent before. */
static void test_late_requests(void **state)
{
    static const WitnessRequestKind kinds[] = {WITNESS_GIVE_BACK, WITNESS_CLAIM, WITNESS_CLAIM,
                                               WITNESS_GIVE_BACK, WITNESS_GIVE_BACK};
    Fixture *f = *state;
    g_autoptr(Etcd) etcd = NULL;

    etcd_server_need();
    etcd = etcd_new(etcd_server_address(), NULL);
    register_guest(f, LEASE_MS);
    assert_refused(f, f->source, WITNESS_CLAIM, VMFERRY_ERROR_BUSY);
    clock_sleep_ns(COUNTED_MS * NS_PER_MS);
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_auto(EtcdAnswer) before = {0};
        g_autofree char *state_name = NULL, *lease_name = NULL;
        char *names[2];
        EtcdKey keys[2];

        get_keys(f, keys, names, etcd, &before);
        state_name = names[0];
        lease_name = names[1];
        assert_done(f, f->source, kinds[i]);
        assert_comes_late(etcd, keys, 0);
    }
}

/* Nor does a renewal that was overtaken by another one. */
static void test_late_renewal(void **state)
{
    Fixture *f = *state;
    g_auto(EtcdAnswer) before = {0};
    g_autofree char *state_name = NULL, *lease_name = NULL;
    g_autoptr(Etcd) etcd = NULL;
    char *names[2];
    EtcdKey keys[2];

    etcd_server_need();
    etcd = etcd_new(etcd_server_address(), NULL);
    register_guest(f, LEASE_MS);
    get_keys(f, keys, names, etcd, &before);
    state_name = names[0];
    lease_name = names[1];
    assert_done(f, f->destination, WITNESS_RENEW);
    assert_comes_late(etcd, keys, 1);
}

/* ---- other clusters, and none ---- */

static void test_another_cluster(void **state)
{
    Fixture *f = *state;
    g_autofree char *id = NULL;
    g_autoptr(Witness) other = NULL;
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    etcd_server_need();
    other = make_witness(etcd_server_address(), STRANGER, DESTINATION);
    id = witness_etcd_find_id(etcd_server_address(), TIMEOUT_MS, NULL);
    assert_true(random_id_is_valid(id));
    register_guest(f, LEASE_MS);
    assert_false(ask(f, other, WITNESS_RENEW, &reply, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    assert_false(reply.answered);
    g_clear_pointer(&other, witness_free);
    other = make_witness(etcd_server_address(), id, DESTINATION);
    assert_done(f, other, WITNESS_RENEW);
}

static void test_restart(void **state)
{
    Fixture *f = *state;
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    etcd_server_need();
    register_guest(f, LEASE_MS);
    claim_in_time(f);
    etcd_server_kill(0);
    assert_false(witness_ask(f->source, WITNESS_CLAIM, f->transaction, 500, &reply, &error));
    assert_false(reply.answered);
    etcd_server_start(0);
    etcd_server_await();
    assert_refused(f, f->destination, WITNESS_RENEW, VMFERRY_ERROR_REFUSED);
    assert_done(f, f->source, WITNESS_CLAIM);
    assert_done(f, f->source, WITNESS_FORGET);
}

/* Nobody is there, somebody says nothing; the next one is asked in time. */
static void test_several_members(void **state)
{
    Fixture *f = *state;
    guint port;
    autofd int fd = listen_somewhere(&port);
    g_autofree char *address = NULL, *silent = NULL;
    g_autoptr(Witness) witness = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t begun_ns = clock_boot_ns();
    WitnessReply reply;

    etcd_server_need();
    register_guest(f, LEASE_MS);
    silent = g_strdup_printf("etcd://127.0.0.1:%u", port);
    address = g_strdup_printf("%s,[::1]:1,%s", silent, etcd_server_address() + strlen(ETCD_SCHEME));
    witness = make_witness(address, NULL, DESTINATION);
    if (!witness_ask(witness, WITNESS_RENEW, f->transaction, 3 * SHARE_MS, &reply, &error))
        fail_msg("%s", error->message);
    /* A lease counts from when it was sent to who has answered, */
    assert_true(reply.sent_ns - begun_ns >= (SHARE_MS - 1) * NS_PER_MS);
    /* who is the first one to be asked from now on. */
    begun_ns = clock_boot_ns();
    assert_done(f, witness, WITNESS_RENEW);
    assert_true(clock_boot_ns() - begun_ns < TIMEOUT_MS / 3 * NS_PER_MS);
    g_clear_pointer(&witness, witness_free);
    witness = make_witness(silent, NULL, DESTINATION);
    begun_ns = clock_boot_ns();
    assert_false(witness_ask(witness, WITNESS_RENEW, f->transaction, 100, &reply, &error));
    assert_true(clock_boot_ns() - begun_ns < TIMEOUT_MS / 3 * NS_PER_MS);
    assert_true(error_is(error, VMFERRY_ERROR_TIMEOUT));
    assert_false(reply.answered);
    assert_true(g_str_has_prefix(error->message, "witness etcd://127.0.0.1:"));
}

/* Two of three are enough, and one is not. */
static void test_majority(void **state)
{
    Fixture *f = *state;
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    etcd_server_need();
    register_guest(f, LEASE_MS);
    etcd_server_kill(0);
    etcd_server_await();
    assert_done(f, f->destination, WITNESS_RENEW);
    claim_in_time(f);
    etcd_server_kill(1);
    assert_false(witness_ask(f->destination, WITNESS_ASK, f->transaction, 1000, &reply, NULL));
    assert_false(reply.answered);
    assert_false(witness_ask(f->source, WITNESS_GIVE_BACK, f->transaction, 1000, &reply, &error));
    assert_false(reply.answered);
    etcd_server_start(0);
    etcd_server_await();
    assert_done(f, f->source, WITNESS_GIVE_BACK);
    assert_done(f, f->destination, WITNESS_RENEW);
    etcd_server_start(1);
}

/* ---- an evil one ---- */

typedef struct {
    int fd;
    const char *answer;
} Evil;

static gpointer answer_evilly(gpointer data)
{
    Evil *evil = data;
    autofd int fd = accept4(evil->fd, NULL, NULL, SOCK_CLOEXEC);
    char request[4096];

    if (fd >= 0 && recv(fd, request, sizeof request, 0) > 0)
        send(fd, evil->answer, strlen(evil->answer), MSG_NOSIGNAL);
    return NULL;
}

static void assert_not_answered(const char *answer)
{
    guint port;
    autofd int fd = listen_somewhere(&port);
    Evil evil = {fd, answer};
    g_autofree char *address = g_strdup_printf("etcd://127.0.0.1:%u", port);
    g_autofree char *transaction = random_id_new();
    g_autoptr(Witness) witness = make_witness(address, NULL, SOURCE);
    GThread *thread = g_thread_new("evil", answer_evilly, &evil);
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    assert_false(witness_ask(witness, WITNESS_CLAIM, transaction, 5000, &reply, &error));
    assert_false(reply.answered);
    assert_non_null(error);
    g_thread_join(thread);
}

#define OK "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"

static void test_garbage(void **state)
{
    g_autofree char *spaces = g_strnfill(ETCD_MAX_ANSWER_BYTES + 1, ' ');
    g_autofree char *large = g_strconcat(OK, "{", spaces, "}", NULL);
    const char *const answers[] = {
        "",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 503 No\r\nConnection: close\r\n\r\n{\"error\":\"etcdserver: no leader\"}",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        OK,
        OK "{}",
        OK "[]",
        OK "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"5\"},\"succeeded\":true}",
        large,
    };

    for (guint i = 0; i < G_N_ELEMENTS(answers); i++)
        assert_not_answered(answers[i]);
}

/* ---- its answers, by themselves ---- */

#define HEADER "\"header\":{\"cluster_id\":\"18446744073709551615\",\"revision\":\"5\"}"
#define ENTRY(more) "{\"response_range\":{\"kvs\":[{" more "}]}}"
#define READ(more) "{" HEADER ",\"responses\":[" ENTRY(more) "]}"

static gboolean decode(const char *text, gboolean writes, EtcdAnswer *ret)
{
    EtcdKey key = {.key = "a", .is_written = writes, .value = "b"};

    return etcd_answer_decode(text, strlen(text), &key, 1, ret, NULL);
}

static void test_decoding(void **state)
{
    static const char *const wrong[] = {
        "",
        "{",
        "{\"responses\":[{\"response_range\":{}}]}",
        "{\"header\":5,\"responses\":[{\"response_range\":{}}]}",
        "{\"header\":{\"cluster_id\":\"1\"},\"responses\":[{\"response_range\":{}}]}",
        "{\"header\":{\"revision\":\"1\"},\"responses\":[{\"response_range\":{}}]}",
        "{\"header\":{\"cluster_id\":1,\"revision\":\"1\"},"
        "\"responses\":[{\"response_range\":{}}]}",
        "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"-1\"},"
        "\"responses\":[{\"response_range\":{}}]}",
        "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"9223372036854775808\"},"
        "\"responses\":[{\"response_range\":{}}]}",
        "{" HEADER ",\"succeeded\":\"true\",\"responses\":[{\"response_range\":{}}]}",
        "{" HEADER "}",
        "{" HEADER ",\"responses\":[]}",
        "{" HEADER ",\"responses\":[5]}",
        "{" HEADER ",\"responses\":[{\"response_put\":{}}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":{}},{\"response_range\":{}}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":{\"kvs\":5}}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":{\"kvs\":[1]}}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":{\"kvs\":[{},{}]}}]}",
        READ("\"key\":\"Yg==\",\"mod_revision\":\"3\",\"value\":\"YQ==\""),
        READ("\"key\":\"YQ==\",\"value\":\"YQ==\""),
        READ("\"key\":\"YQ==\",\"mod_revision\":\"0\",\"value\":\"YQ==\""),
        READ("\"key\":\"YQ==\",\"mod_revision\":\"3 \",\"value\":\"YQ==\""),
        READ("\"key\":\"YQ==\",\"mod_revision\":\"3\",\"value\":\"YQ\""),
        READ("\"key\":\"YQ==\",\"mod_revision\":\"3\",\"value\":\"Y Q==\""),
    };
    g_auto(EtcdAnswer) answer = {0};

    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++)
        if (decode(wrong[i], FALSE, &answer))
            fail_msg("%s", wrong[i]);
    assert_true(
        decode(READ("\"key\":\"YQ==\",\"mod_revision\":\"3\",\"value\":\"Y2Q=\""), FALSE, &answer));
    assert_true(answer.cluster == G_MAXUINT64 && answer.revision == 5 && !answer.written);
    assert_int_equal(answer.entries[0].revision, 3);
    assert_string_equal(answer.entries[0].value, "cd");
    etcd_answer_clear(&answer);
    assert_true(decode("{" HEADER ",\"succeeded\":true}", TRUE, &answer));
    assert_true(answer.written);
    assert_false(decode("{" HEADER ",\"succeeded\":false}", TRUE, &answer));
    assert_false(decode("{" HEADER ",\"succeeded\":true}", FALSE, &answer));
}

static void test_addresses(void **state)
{
    static const char *const right[] = {"etcd://a", "etcd://a:1", "etcd://[::1]:2379,b,c:3", "a:1"};
    static const char *const wrong[] = {
        "etcd://",          "etcd://,",      "etcd://a,",
        "etcd://a:0",       "etcd://a/b",    "etcd://a b",
        "etcd://u@a",       "etcd://a?b",    "etcds://a",
        "http://a",         "etcd://a#b",    "etcd://a\"b",
        "etcd://a:1:2:zz,", "etcd://[::1]x", "etcd://1,2,3,4,5,6,7,8,9",
    };

    for (guint i = 0; i < G_N_ELEMENTS(right); i++)
        assert_true(witness_address_check(right[i], NULL));
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++)
        if (witness_address_check(wrong[i], NULL))
            fail_msg("%s", wrong[i]);
    assert_true(witness_address_is_foreign("etcd://a"));
    assert_false(witness_address_is_foreign("a"));
    assert_false(witness_address_is_foreign(NULL));
}

/* Passes on what is said to etcd, but for one request, which it keeps to itself. */
typedef struct {
    int listening, client;
    atomic_bool swallows;
} Swallower;

static Swallower swallower;

static gboolean pass_on(int from, int to)
{
    char bytes[16384];
    ssize_t got = recv(from, bytes, sizeof bytes, 0);

    if (from == swallower.client && got > 0 && atomic_exchange(&swallower.swallows, FALSE))
        return recv(from, bytes, sizeof bytes, 0) > 0; /* until it is given up */
    return got > 0 && send(to, bytes, (size_t)got, MSG_NOSIGNAL) == got;
}

static void serve(int client)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)etcd_server_port())};
    autofd int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct pollfd both[] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};

    swallower.client = client;
    assert_int_equal(connect(server, (struct sockaddr *)&address, sizeof address), 0);
    while (poll(both, 2, -1) > 0)
        if ((both[0].revents && !pass_on(client, server)) ||
            (both[1].revents && !pass_on(server, client)))
            return;
}

static gpointer serve_all(gpointer unused)
{
    int fd;

    while ((fd = accept(swallower.listening, NULL, NULL)) >= 0) {
        serve(fd);
        close(fd);
    }
    return NULL;
}

static WitnessReply renew(Fixture *f, Witness *witness, guint lease_ms)
{
    WitnessRequest request = {
        .kind = WITNESS_RENEW, .transaction = f->transaction, .lease_ms = lease_ms};
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    if (!witness_call(witness, &request, 2 * SHARE_MS, &reply, &error))
        fail_msg("%s", error->message);
    return reply;
}

/* A lease counts from the question that was answered: where a first one was lost, that is later than the attempt began.  A
 * shorter lease behind it must not make a source forget that. */
static void test_a_lost_question_and_a_shorter_lease(void **state)
{
    Fixture *f = *state;
    g_autofree char *address = NULL;
    WitnessReply longer, claimed;
    Witness *witness;
    GThread *thread;
    guint port;

    etcd_server_need();
    swallower.listening = listen_somewhere(&port);
    thread = g_thread_new("swallower", serve_all, NULL);
    address = g_strdup_printf("etcd://127.0.0.1:%u,127.0.0.1:%u", port, port);
    witness = make_witness(address, NULL, DESTINATION);
    register_guest(f, 2 * LEASE_MS);
    renew(f, witness, LEASE_MS);
    /* What an agent before this one may have been granted is over. */
    clock_sleep_ns(2 * LEASE_MS * NS_PER_MS);
    atomic_store(&swallower.swallows, TRUE);
    longer = renew(f, witness, 2 * LEASE_MS);
    assert_false(atomic_load(&swallower.swallows));
    assert_int_equal(renew(f, witness, LEASE_MS).lease_ms, LEASE_MS);
    claimed = assert_refused(f, f->source, WITNESS_CLAIM, VMFERRY_ERROR_BUSY);
    assert_true(clock_boot_ns() + claimed.wait_ms * NS_PER_MS >=
                longer.sent_ns + longer.lease_ms * NS_PER_MS);
    witness_free(witness);
    shutdown(swallower.listening, SHUT_RDWR);
    g_thread_join(thread);
    fd_close(&swallower.listening);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_rules),
        TEST(test_alone),
        TEST(test_registering),
        TEST(test_shorter_leases),
        TEST(test_attending),
        TEST(test_a_lost_question_and_a_shorter_lease),
        TEST(test_late_requests),
        TEST(test_late_renewal),
        TEST(test_another_cluster),
        TEST(test_restart),
        TEST(test_several_members),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_decoding),
        cmocka_unit_test(test_addresses),
    };
    const struct CMUnitTest of_three[] = {
        TEST(test_the_rules),
        TEST(test_majority),
    };

    return cmocka_run_group_tests(tests, etcd_server_set_up, etcd_server_tear_down) +
           cmocka_run_group_tests(of_three, etcd_server_set_up_three, etcd_server_tear_down);
}

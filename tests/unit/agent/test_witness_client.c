/* The client of a witness, and an agent that is one. */
#include "host.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "scratch.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "migrate/witness_client.h"
#include "policy/lease.h"

#define ID "0123456789abcdef0123456789abcdef"
#define GUEST_ID "fedcba9876543210fedcba9876543210"
#define SOURCE "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DESTINATION "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define LEASE_MS WITNESS_MIN_LEASE_MS
#define TIMEOUT_MS 20000

typedef struct {
    Host *host;
    char *address;
    Witness *source, *destination;
} Fixture;

static gboolean get_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    *ret = (ChannelOptions){.agent = user, .peer_timeout_ms = TIMEOUT_MS};
    return TRUE;
}

static Witness *make_client(const char *address, const char *agent, const char *us)
{
    WitnessClientOptions options = {
        .address = address, .agent = agent, .get_channel = get_channel, .user = (gpointer)us};

    return witness_client_new(&options);
}

/* A host that listens where it can be found again. */
static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->host = host_new();
    g_free(f->host->settings->listen);
    f->host->settings->listen = g_strdup("127.0.0.1:0");
    assert_true(host_start(f->host));
    f->address = g_strdup(agent_get_listening(f->host->agent));
    g_free(f->host->settings->listen);
    f->host->settings->listen = g_strdup(f->address);
    f->source = make_client(f->address, NULL, SOURCE);
    f->destination = make_client(f->address, NULL, DESTINATION);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    witness_free(f->source);
    witness_free(f->destination);
    host_free(f->host);
    g_free(f->address);
    g_free(f);
    return 0;
}

static gboolean ask(Witness *witness, WitnessRequestKind kind, WitnessReply *ret, GError **error)
{
    return witness_ask(witness, kind, ID, TIMEOUT_MS, ret, error);
}

static void assert_done(Witness *witness, WitnessRequestKind kind, WitnessReply *ret)
{
    g_autoptr(GError) error = NULL;

    if (!ask(witness, kind, ret, &error))
        fail_msg("%s", error->message);
}

static void assert_refused(Witness *witness, WitnessRequestKind kind, VmferryErrorCode code,
                           WitnessReply *ret)
{
    g_autoptr(GError) error = NULL;

    assert_false(ask(witness, kind, ret, &error));
    if (!error_is(error, code))
        fail_msg("%s", error->message);
    assert_true(ret->answered);
}

static void register_guest(Fixture *f)
{
    WitnessRequest request = {.kind = WITNESS_REGISTER,
                              .transaction = (char *)ID,
                              .guest = (char *)"web1",
                              .guest_id = (char *)GUEST_ID,
                              .term = 2,
                              .destination = (char *)DESTINATION,
                              .lease_ms = LEASE_MS};
    g_autoptr(GError) error = NULL;

    if (!witness_call(f->source, &request, TIMEOUT_MS, NULL, &error))
        fail_msg("%s", error->message);
}

/* As the answer says when it may be asked again, it is granted then. */
static void claim_in_time(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    while (!ask(f->source, WITNESS_CLAIM, &reply, &error)) {
        assert_true(error_is(error, VMFERRY_ERROR_BUSY));
        assert_true(reply.wait_ms > 0 && reply.wait_ms < 2 * LEASE_MS);
        clock_sleep_ns((uint64_t)reply.wait_ms * 1000000);
        g_clear_error(&error);
    }
    assert_int_equal(reply.state, WITNESS_SOURCE_MAY);
}

static void test_the_rules(void **state)
{
    uint64_t before = clock_boot_ns();
    Fixture *f = *state;
    LeaseHolder holder = {0};
    WitnessReply reply;

    register_guest(f);
    assert_done(f->destination, WITNESS_RENEW, &reply);
    assert_int_equal(reply.lease_ms, LEASE_MS);
    assert_true(reply.sent_ns > before && reply.sent_ns <= clock_boot_ns());
    lease_holder_grant(&holder, LEASE_OF_WITNESS, reply.sent_ns, reply.lease_ms);
    assert_refused(f->source, WITNESS_RENEW, VMFERRY_ERROR_REFUSED, &reply);
    claim_in_time(f);
    assert_false(lease_holder_may_run(&holder, clock_boot_ns()));
    assert_refused(f->destination, WITNESS_RENEW, VMFERRY_ERROR_REFUSED, &reply);
    assert_int_equal(reply.state, WITNESS_SOURCE_MAY);
    assert_done(f->source, WITNESS_GIVE_BACK, &reply);
    assert_done(f->destination, WITNESS_CLAIM, &reply);
    assert_int_equal(reply.state, WITNESS_DESTINATION_ALONE);
    assert_refused(f->source, WITNESS_CLAIM, VMFERRY_ERROR_REFUSED, &reply);
}

/* A kept connection that has ended is no reason to fail; what was decided holds. */
static void test_restart(void **state)
{
    Fixture *f = *state;
    WitnessReply reply;

    register_guest(f);
    assert_done(f->destination, WITNESS_RENEW, NULL);
    host_stop(f->host);
    assert_true(host_start(f->host));
    assert_done(f->destination, WITNESS_ASK, &reply);
    assert_int_equal(reply.state, WITNESS_UNDECIDED);
    claim_in_time(f);
    host_stop(f->host);
    assert_true(host_start(f->host));
    assert_refused(f->destination, WITNESS_CLAIM, VMFERRY_ERROR_REFUSED, &reply);
    assert_done(f->source, WITNESS_FORGET, NULL);
}

static void test_another_agent(void **state)
{
    Fixture *f = *state;
    g_autoptr(Witness) other = make_client(f->address, SOURCE, DESTINATION);
    g_autofree char *agent = NULL, *reached = NULL;
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    register_guest(f);
    agent = witness_client_get_agent(f->source);
    assert_int_equal(strlen(agent), 32);
    assert_false(ask(other, WITNESS_RENEW, &reply, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    assert_false(reply.answered);
    reached = witness_client_get_agent(other);
    assert_string_equal(reached, agent);
    g_clear_pointer(&other, witness_free);
    other = make_client(f->address, agent, DESTINATION);
    assert_done(other, WITNESS_RENEW, NULL);
}

/* Somebody listens there and says nothing, or nobody does. */
static void test_silence(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    autofd int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = sizeof address;
    g_autoptr(Witness) client = NULL;
    g_autofree char *where = NULL;
    g_autoptr(GError) error = NULL;
    WitnessReply reply;

    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    where = g_strdup_printf("127.0.0.1:%u", ntohs(address.sin_port));
    client = make_client(where, NULL, SOURCE);
    assert_false(witness_ask(client, WITNESS_CLAIM, ID, 100, &reply, &error));
    assert_false(reply.answered);
    g_clear_error(&error);
    fd_close(&fd);
    assert_false(witness_ask(client, WITNESS_CLAIM, ID, 100, &reply, &error));
    assert_true(g_str_has_prefix(error->message, "witness 127.0.0.1:"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_rules, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_restart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_another_agent, set_up, tear_down),
        cmocka_unit_test(test_silence),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* An agent whose peer port is besieged. */
#include "host.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fakes.h"
#include "scratch.h"

#include "base/clock.h"
#include "base/fd.h"
#include "wire/session.h"

#define DESCRIPTORS 64
#define SILENT 100
#define IDLE_NS 500000000ULL
#define TRANSACTION "0123456789abcdef0123456789abcdef"
#define TIMEOUT_MS 10000

static int connect_from(const char *source, guint16 port)
{
    struct sockaddr_in from = {.sin_family = AF_INET};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct pollfd p = {.fd = fd, .events = POLLOUT};

    inet_pton(AF_INET, source, &from.sin_addr);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&from, sizeof from) == 0 &&
        (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS))
        poll(&p, 1, 20);
    return fd;
}

/* A process that holds many connections and says nothing. */
static pid_t besiege(const char *source, guint16 port)
{
    int ready[2];
    pid_t pid;
    char byte;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (guint i = 0; i < SILENT; i++)
            (void)connect_from(source, port);
        (void)!write(ready[1], "r", 1);
        for (;;)
            pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static uint64_t cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static Host *start(guint16 *ret_port)
{
    Host *host = host_new();

    g_free(host->settings->listen);
    host->settings->listen = g_strdup("127.0.0.1:0");
    assert_true(host_start(host));
    *ret_port = (guint16)atoi(strrchr(agent_get_listening(host->agent), ':') + 1);
    return host;
}

static void assert_answers_peers(guint16 port)
{
    g_autofree char *address = g_strdup_printf("127.0.0.1:%u", port);
    ChannelOptions options = {.instance = "0123456789abcdef0123456789abcdef"};
    g_autoptr(GError) error = NULL;
    g_autoptr(Channel) channel = channel_connect(address, &options, 5000, NULL, &error);

    if (!channel || !handshake_connect(channel, "ping", NULL, NULL, &error))
        fail_msg("%s", error->message);
}

static void assert_answers_locally(Host *host)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = host_call(host, "GET", "/v1/guests", NULL, &error);

    if (!answer)
        fail_msg("%s", error->message);
}

static void test_the_silent_block_nobody(void **state)
{
    guint16 port;
    Host *host = start(&port);
    pid_t siege = besiege("127.0.0.2", port);

    assert_answers_peers(port);
    assert_answers_locally(host);
    end(siege);
    host_free(host);
}

/* With few descriptors, the peers leave some to others, and nothing spins. */
static void test_descriptors_are_left_to_others(void **state)
{
    static const char *const sources[] = {"127.0.0.2", "127.0.0.3", "127.0.0.4"};
    struct rlimit before, few;
    guint16 port;
    Host *host = start(&port);
    uint64_t used;
    pid_t sieges[G_N_ELEMENTS(sources)];

    getrlimit(RLIMIT_NOFILE, &before);
    few = before;
    few.rlim_cur = DESCRIPTORS;
    setrlimit(RLIMIT_NOFILE, &few);
    for (guint i = 0; i < G_N_ELEMENTS(sieges); i++)
        sieges[i] = besiege(sources[i], port);
    assert_answers_locally(host);
    used = cpu_ns();
    clock_sleep_ns(IDLE_NS);
    used = cpu_ns() - used;
    assert_true(used < IDLE_NS / 4);
    assert_answers_locally(host);
    for (guint i = 0; i < G_N_ELEMENTS(sieges); i++)
        end(sieges[i]);
    setrlimit(RLIMIT_NOFILE, &before);
    host_free(host);
}

/* No descriptor at all: the agent waits, and serves again once there are some. */
static void test_no_descriptor_is_no_spin(void **state)
{
    struct rlimit before, none;
    guint16 port;
    Host *host = start(&port);
    uint64_t used;
    int waiting = socket(AF_INET, SOCK_STREAM, 0), next;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    next = dup(waiting);
    close(next);
    getrlimit(RLIMIT_NOFILE, &before);
    none = before;
    none.rlim_cur = (rlim_t)next;
    setrlimit(RLIMIT_NOFILE, &none);
    assert_int_equal(connect(waiting, (struct sockaddr *)&to, sizeof to), 0);
    used = cpu_ns();
    clock_sleep_ns(IDLE_NS);
    used = cpu_ns() - used;
    setrlimit(RLIMIT_NOFILE, &before);
    assert_true(used < IDLE_NS / 4);
    assert_answers_peers(port);
    close(waiting);
    host_free(host);
}

/* ---- sessions ---- */

/* A destination that answers, by the first channel, what comes by the bulk one. */
static gboolean serve_two_channels(Session *session, GError **error)
{
    Frame frame;

    session_set_transaction(session, TRANSACTION);
    return session_send_bytes(session, FRAME_ACCEPTED, NULL, 0, error) &&
           session_await_channel(session, TRAFFIC_BULK, TIMEOUT_MS, error) &&
           session_receive(session, TRAFFIC_BULK, TIMEOUT_MS, &frame, error) &&
           session_send_bytes(session, FRAME_EPOCH_APPLIED, frame.payload, 4, error) &&
           session_expect(session, FRAME_PREPARE, TIMEOUT_MS, &frame, error);
}

static Session *begin_move(guint16 port, const ChannelOptions *options)
{
    g_autofree char *address = g_strdup_printf("127.0.0.1:%u", port);
    Session *session = session_connect(address, options, TIMEOUT_MS, NULL, NULL);
    HelloMessage peer = {0};
    Frame frame;

    assert_non_null(session);
    assert_true(session_greet(session, "migrate", &peer, NULL, NULL));
    hello_message_clear(&peer);
    session_set_transaction(session, TRANSACTION);
    assert_true(session_expect(session, FRAME_ACCEPTED, TIMEOUT_MS, &frame, NULL));
    return session;
}

static void assert_refused(GError *error, const char *words)
{
    assert_non_null(error);
    if (!strstr(error->message, words))
        fail_msg("%s", error->message);
    g_error_free(error);
}

/* A session that the agent serves takes a further channel, from nobody else. */
static void test_a_channel_joins(void **state)
{
    ChannelOptions options = {.agent = "0123456789abcdef0123456789abcdef", .instance = "a"};
    ChannelOptions other = {.agent = "0123456789abcdef0123456789abcdef", .instance = "b"};
    guint16 port;
    Host *host = start(&port);
    g_autoptr(Session) session = NULL;
    GError *error = NULL;
    Frame frame;

    fakes.serve = serve_two_channels;
    session = begin_move(port, &options);
    assert_false(session_join(session, TRAFFIC_BULK, &other, TIMEOUT_MS, NULL, &error));
    assert_refused(g_steal_pointer(&error), "nothing here that this peer could join");
    if (!session_join(session, TRAFFIC_BULK, &options, TIMEOUT_MS, NULL, &error))
        fail_msg("%s", error->message);
    assert_true(session_send_bytes(session, FRAME_EPOCH_SEAL, "\7\0\0\0\0\0\0\0\0\0\0", 12, NULL));
    assert_true(session_expect(session, FRAME_EPOCH_APPLIED, TIMEOUT_MS, &frame, NULL));
    assert_int_equal(frame.payload[0], 7);
    assert_answers_peers(port);
    assert_true(session_send_bytes(session, FRAME_PREPARE, NULL, 0, NULL));
    /* It has ended: both channels. */
    assert_false(session_receive(session, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, NULL));
    assert_false(session_receive(session, TRAFFIC_BULK, TIMEOUT_MS, &frame, NULL));
    assert_false(session_join(session, TRAFFIC_FAULT, &options, TIMEOUT_MS, NULL, &error));
    assert_refused(error, "nothing here that this peer could join");
    fakes_reset();
    host_free(host);
}

/* An agent that is stopped cuts all channels of a session. */
static void test_stopping_cuts_a_session(void **state)
{
    ChannelOptions options = {.agent = "0123456789abcdef0123456789abcdef", .instance = "a"};
    guint16 port;
    Host *host = start(&port);
    g_autoptr(Session) session = NULL;
    Frame frame;

    fakes.serve = serve_two_channels;
    session = begin_move(port, &options);
    assert_true(session_join(session, TRAFFIC_BULK, &options, TIMEOUT_MS, NULL, NULL));
    host_stop(host);
    /* Where it had accepted the channel and not taken it yet, it says so. */
    while (session_receive(session, TRAFFIC_BULK, TIMEOUT_MS, &frame, NULL))
        assert_int_equal(frame.type, FRAME_ERROR);
    fakes_reset();
    host_free(host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_silent_block_nobody),
        cmocka_unit_test(test_descriptors_are_left_to_others),
        cmocka_unit_test(test_no_descriptor_is_no_spin),
        cmocka_unit_test(test_a_channel_joins),
        cmocka_unit_test(test_stopping_cuts_a_session),
    };

    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The API over the network: who gets in, what they may do, and clients that do not behave. */
#include "scratch.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/api_tls.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "host.h"
#include "wire/pki.h"

#define MOST_MS 5000

typedef struct {
    Host *host;
    char *ca;
    char *address; /* of its API */
} Site;

static char *issue(Site *site, const char *name)
{
    char *folder = g_build_filename(site->host->folder, name, NULL);
    g_autoptr(GError) error = NULL;

    if (!pki_issue_engine(site->ca, name, 10, folder, &error))
        fail_msg("%s", error->message);
    return folder;
}

static void set_names(char ***field, const char *names)
{
    g_strfreev(*field);
    *field = g_strsplit(names, " ", -1);
}

static Site *site_new(void)
{
    static const char *const names[] = {"127.0.0.1", NULL};
    Site *site = g_new0(Site, 1);
    AgentSettings *settings;

    site->host = host_new();
    settings = site->host->settings;
    site->ca = g_build_filename(site->host->folder, "ca", NULL);
    assert_true(pki_init(site->ca, 10, NULL));
    g_free(settings->pki_dir);
    settings->pki_dir = g_build_filename(site->host->folder, "pki", NULL);
    assert_true(pki_issue(site->ca, "localhost", names, 10, settings->pki_dir, NULL));
    settings->insecure = FALSE;
    g_free(settings->api);
    settings->api = g_strdup("127.0.0.1:0");
    set_names(&settings->api_read, "reader");
    set_names(&settings->api_operate, "engine1");
    return site;
}

static void site_start(Site *site)
{
    g_autoptr(json_t) status = NULL;

    if (!host_start(site->host))
        fail_msg("%s", site->host->error->message);
    status = host_call(site->host, "GET", "/v1/status", NULL, NULL);
    assert_non_null(status);
    site->address = g_strdup(json_text_or(status, "api", ""));
    assert_true(g_str_has_prefix(site->address, "127.0.0.1:"));
}

static int set_up(void **state)
{
    Site *site = site_new();

    site_start(site);
    *state = site;
    return 0;
}

static int tear_down(void **state)
{
    Site *site = *state;

    host_free(site->host);
    g_free(site->ca);
    g_free(site->address);
    g_free(site);
    return 0;
}

static Client *connect_as(Site *site, const char *name)
{
    g_autofree char *folder = issue(site, name);
    g_autoptr(GError) error = NULL;
    Client *client = client_new_tls(site->address, folder, &error);

    if (!client)
        fail_msg("%s", error->message);
    client_set_timeouts(client, MOST_MS, MOST_MS);
    return client;
}

static void expect(Client *client, const char *method, const char *path, json_t *body, int code,
                   const char *words)
{
    GError *error = NULL;
    g_autoptr(json_t) answer = client_call(client, method, path, body, &error);

    assert_null(answer);
    assert_error_says(error, code, words);
}

/* ---- who may ---- */

static void test_access(void **state)
{
    g_autoptr(AgentSettings) settings = agent_settings_new();

    assert_int_equal(api_tls_find_access(settings, "engine1"), API_ACCESS_NONE);
    set_names(&settings->api_read, "engine1 Reader");
    assert_int_equal(api_tls_find_access(settings, "engine1"), API_ACCESS_READ);
    assert_int_equal(api_tls_find_access(settings, "reader"), API_ACCESS_READ);
    assert_int_equal(api_tls_find_access(settings, "reade"), API_ACCESS_NONE);
    set_names(&settings->api_operate, "engine1");
    assert_int_equal(api_tls_find_access(settings, "engine1"), API_ACCESS_OPERATE);
    assert_int_equal(api_tls_find_access(settings, ""), API_ACCESS_NONE);
}

static void refuse_start(Site *site, const char *words)
{
    GError *error = NULL;

    assert_false(host_start(site->host));
    error = g_steal_pointer(&site->host->error);
    assert_error_says(error, VMFERRY_ERROR_REFUSED, words);
}

static void test_refuses_to_listen(void **state)
{
    Site *site = site_new();
    gpointer fixture = site;

    site->host->settings->insecure = TRUE;
    refuse_start(site, "needs certificates, which --insecure does without");
    site->host->settings->insecure = FALSE;
    set_names(&site->host->settings->api_read, "");
    g_clear_pointer(&site->host->settings->api_read[0], g_free);
    g_clear_pointer(&site->host->settings->api_operate[0], g_free);
    refuse_start(site, "would answer nobody: name who may");
    set_names(&site->host->settings->api_read, "reader");
    g_free(site->host->settings->pki_dir);
    site->host->settings->pki_dir = g_strdup("/nonexistent");
    refuse_start(site, "`vmferry pki init` and `vmferry pki issue HOST`");
    tear_down(&fixture);
}

static void test_roles(void **state)
{
    g_autoptr(Client) reader = connect_as(*state, "reader");
    g_autoptr(Client) engine = connect_as(*state, "engine1");
    g_autoptr(Client) other = connect_as(*state, "other");
    g_autoptr(json_t) guests = client_call(reader, "GET", "/v1/guests", NULL, NULL);
    g_autoptr(json_t) status = client_call(engine, "GET", "/v1/status", NULL, NULL);

    assert_non_null(guests);
    assert_non_null(status);
    expect(reader, "POST", "/v1/guests/web1/cancel", NULL, VMFERRY_ERROR_PERMISSION,
           "reader may not change anything at ");
    expect(reader, "PATCH", "/v1/guests/web1/migrate", json_pack("{s:i}", "bandwidth", 1),
           VMFERRY_ERROR_PERMISSION, "reader may not change anything");
    expect(engine, "POST", "/v1/guests/web1/cancel", NULL, VMFERRY_ERROR_NOT_FOUND,
           "no guest \"web1\"");
    expect(engine, "PATCH", "/v1/guests/web1/migrate", json_pack("{s:i}", "bandwidth", 1),
           VMFERRY_ERROR_NOT_FOUND, "no guest \"web1\"");
    expect(other, "GET", "/v1/guests", NULL, VMFERRY_ERROR_PERMISSION,
           "other may not use the API at ");
    expect(other, "GET", "/v1/events", NULL, VMFERRY_ERROR_PERMISSION, "see [api]");
    expect(other, "GET", "/nothing", NULL, VMFERRY_ERROR_PERMISSION, "see [api]");
}

/* Nobody over the network runs a program, ends a guest, or decides which copy of it goes on. */
static void test_local_only(void **state)
{
    g_autoptr(Client) engine = connect_as(*state, "engine1");
    static const char words[] = "itself only, by its agent's Unix socket";

    expect(engine, "POST", "/v1/guests",
           json_pack("{s:s, s:[s]}", "name", "a", "command_line", "/bin/true"),
           VMFERRY_ERROR_PERMISSION, words);
    expect(engine, "POST", "/v1/guests", json_pack("{s:s, s:i}", "name", "a", "pid", 1),
           VMFERRY_ERROR_PERMISSION, words);
    expect(engine, "DELETE", "/v1/guests/a", NULL, VMFERRY_ERROR_PERMISSION, words);
    expect(engine, "POST", "/v1/guests/a/resolve", json_pack("{s:s}", "keep", "here"),
           VMFERRY_ERROR_PERMISSION, words);
    expect(engine, "POST", "/v1/guests/a/estimate", json_pack("{s:s}", "seconds", "2"),
           VMFERRY_ERROR_INVALID, "\"seconds\" is not a number");
}

static void test_other_ca(void **state)
{
    Site *site = *state;
    g_autofree char *ours = g_steal_pointer(&site->ca);
    g_autoptr(Client) stranger = NULL;

    site->ca = g_build_filename(site->host->folder, "ca2", NULL);
    assert_true(pki_init(site->ca, 10, NULL));
    stranger = connect_as(site, "engine1");
    expect(stranger, "GET", "/v1/guests", NULL, VMFERRY_ERROR_REFUSED,
           "its certificate is of another CA");
    g_free(site->ca);
    site->ca = g_steal_pointer(&ours);
}

/* It trusts our CA, and has a certificate of another one. */
static void test_certificate_of_other_ca(void **state)
{
    Site *site = *state;
    g_autofree char *ca = g_build_filename(site->host->folder, "ca2", NULL);
    g_autofree char *folder = g_build_filename(site->host->folder, "mixed", NULL);
    g_autofree char *bundle = g_build_filename(folder, "ca.crt", NULL);
    g_autofree char *ours = g_build_filename(site->ca, "ca.crt", NULL);
    g_autofree char *both = NULL;
    g_autofree char *theirs = NULL;
    g_autofree char *text = NULL;
    g_autoptr(Client) stranger = NULL;
    GError *error = NULL;

    assert_true(pki_init(ca, 10, NULL));
    assert_true(pki_issue_engine(ca, "engine1", 10, folder, NULL));
    /* The first one is checked against the certificate, the second one lets the agent's pass. */
    assert_true(g_file_get_contents(bundle, &theirs, NULL, NULL));
    assert_true(g_file_get_contents(ours, &text, NULL, NULL));
    both = g_strconcat(theirs, text, NULL);
    assert_true(g_file_set_contents(bundle, both, -1, NULL));
    stranger = client_new_tls(site->address, folder, &error);
    assert_non_null(stranger);
    assert_null(client_call(stranger, "GET", "/v1/guests", NULL, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED) ||
                error_is(error, VMFERRY_ERROR_DISCONNECTED));
    assert_non_null(strstr(error->message, "does not take our certificate"));
    g_error_free(error);
}

static void test_wrong_name_of_agent(void **state)
{
    Site *site = *state;
    g_autofree char *folder = issue(site, "engine1");
    g_autofree char *address = g_strdup_printf("127.0.0.2%s", strchr(site->address, ':'));
    g_autofree char *right = g_steal_pointer(&site->host->settings->api);
    g_autoptr(Client) client = NULL;

    /* It listens at all addresses, and its certificate is for two names. */
    host_stop(site->host);
    site->host->settings->api = g_strdup_printf("0.0.0.0%s", strchr(site->address, ':'));
    assert_true(host_start(site->host));
    client = client_new_tls(address, folder, NULL);
    assert_non_null(client);
    expect(client, "GET", "/v1/guests", NULL, VMFERRY_ERROR_REFUSED,
           "its certificate is not for this name");
}

/* ---- connections ---- */

static int connect_raw(const Site *site)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)atoi(strchr(site->address, ':') + 1)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* Strangers that say nothing, and plain text, keep nobody out. */
static void test_silent_strangers(void **state)
{
    int fds[100];
    g_autoptr(Client) reader = NULL;
    g_autoptr(json_t) answer = NULL;
    GError *error = NULL;
    char byte;

    for (guint i = 0; i < G_N_ELEMENTS(fds); i++) {
        fds[i] = connect_raw(*state);
        if (i % 2)
            assert_true(fd_write_all(fds[i], "GET / HTTP/1.1\r\n\r\n", 18, NULL) || TRUE);
    }
    reader = connect_as(*state, "reader");
    for (guint i = 0; i < 20 && !answer; i++) {
        g_clear_error(&error);
        answer = client_call(reader, "GET", "/v1/guests", NULL, &error);
    }
    if (!answer)
        fail_msg("%s", error->message);
    g_clear_error(&error);
    /* What they get is the end of the connection, or a TLS alert; never an answer. */
    for (guint i = 1; i < G_N_ELEMENTS(fds); i += 2)
        if (recv(fds[i], &byte, 1, MSG_DONTWAIT) == 1)
            assert_int_not_equal(byte, 'H');
    for (guint i = 0; i < G_N_ELEMENTS(fds); i++)
        close(fds[i]);
}

static gboolean take_none(json_t *object, gpointer user)
{
    return TRUE;
}

typedef struct {
    Client *client;
    gint *ending; /* atomic */
} Follower;

/* Again where too many came at once: a stranger is cut for the next one. */
static gpointer follow(gpointer data)
{
    Follower *follower = data;

    while (!g_atomic_int_get(follower->ending)) {
        client_stream(follower->client, "GET", "/v1/events?follow=1", NULL, take_none, NULL, NULL);
        clock_sleep_ns(10000000);
    }
    client_free(follower->client);
    return NULL;
}

/* Whoever follows over the network leaves room for the local socket, and an agent that stops does
 * not wait for it. */
static void test_streams_are_limited(void **state)
{
    Site *site = *state;
    g_autofree char *folder = issue(site, "reader");
    GThread *threads[40];
    static Follower followers[40]; /* outlive a failed assertion */
    static gint ending;
    g_autoptr(Client) more = NULL;
    GError *error = NULL;
    gboolean refused = FALSE;
    uint64_t end = clock_now_ns() + 8 * MOST_MS * 1000000ULL, begun;

    for (guint i = 0; i < G_N_ELEMENTS(threads); i++) {
        followers[i] = (Follower){client_new_tls(site->address, folder, NULL), &ending};
        threads[i] = g_thread_new("follow", follow, &followers[i]);
        clock_sleep_ns(20000000); /* fewer than are let wait for their handshake */
    }
    more = connect_as(site, "engine1");
    while (!refused && clock_now_ns() < end) {
        g_clear_error(&error);
        refused =
            !client_stream(more, "GET", "/v1/events?follow=0", NULL, take_none, NULL, &error) &&
            error_is(error, VMFERRY_ERROR_BUSY);
    }
    assert_true(refused);
    g_clear_error(&error);
    assert_true(
        client_stream(site->host->client, "GET", "/v1/events", NULL, take_none, NULL, &error));
    g_atomic_int_set(&ending, 1);
    begun = clock_now_ns();
    host_stop(site->host);
    assert_true(clock_now_ns() - begun < 6000000000ULL);
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        g_thread_join(threads[i]);
}

/* ---- the client's patience ---- */

static void test_client_does_not_wait_for_ever(void **state)
{
    Site *site = *state;
    g_autofree char *folder = issue(site, "reader");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    autofd int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_autofree char *silent = NULL;
    g_autoptr(Client) client = NULL;
    uint64_t begun = clock_now_ns();

    /* Nobody accepts there. */
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    silent = g_strdup_printf("127.0.0.1:%u", ntohs(address.sin_port));
    client = client_new_tls(silent, folder, NULL);
    client_set_timeouts(client, 300, 300);
    expect(client, "GET", "/v1/guests", NULL, VMFERRY_ERROR_TIMEOUT, "nobody answers there");
    assert_true(clock_now_ns() - begun < 3000000000ULL);
    fd_close(&fd);
    expect(client, "GET", "/v1/guests", NULL, VMFERRY_ERROR_DISCONNECTED,
           "cannot reach the agent at 127.0.0.1:");
}

static gpointer cancel_soon(gpointer stop)
{
    clock_sleep_ns(100000000);
    g_cancellable_cancel(stop);
    return NULL;
}

/* *client* speaks to somebody who never answers. */
static void expect_stop(Client *client)
{
    g_autoptr(GCancellable) stop = g_cancellable_new();
    uint64_t begun = clock_now_ns();
    GThread *thread;

    client_set_stop(client, stop);
    thread = g_thread_new("cancel", cancel_soon, stop);
    expect(client, "GET", "/v1/guests", NULL, VMFERRY_ERROR_CANCELLED, "not waited for any more");
    g_thread_join(thread);
    /* And later ones do not even begin. */
    expect(client, "POST", "/v1/guests", json_object(), VMFERRY_ERROR_CANCELLED, "not waited for");
    assert_true(clock_now_ns() - begun < 2000000000ULL);
}

static int listen_silently(int family, const struct sockaddr *address, socklen_t length)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, address, length), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static void test_client_is_stopped(void **state)
{
    Site *site = *state;
    g_autofree char *folder = issue(site, "reader");
    g_autofree char *path = g_build_filename(site->host->folder, "silent.sock", NULL);
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in inet = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof inet;
    g_autoptr(Client) near_one = client_new(path);
    g_autoptr(Client) far_one = NULL;
    g_autofree char *address = NULL;
    autofd int local_fd = -1;
    autofd int fd = listen_silently(AF_INET, (struct sockaddr *)&inet, sizeof inet);

    assert_true(strlen(path) < sizeof local.sun_path);
    strcpy(local.sun_path, path);
    local_fd = listen_silently(AF_UNIX, (struct sockaddr *)&local, sizeof local);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&inet, &length), 0);
    address = g_strdup_printf("127.0.0.1:%u", ntohs(inet.sin_port));
    far_one = client_new_tls(address, folder, NULL);
    expect_stop(near_one);
    expect_stop(far_one);
}

/* In the middle of an answer that goes on. */
static void test_stream_is_stopped(void **state)
{
    g_autoptr(Client) reader = connect_as(*state, "reader");
    g_autoptr(GCancellable) stop = g_cancellable_new();
    uint64_t begun = clock_now_ns();
    GError *error = NULL;
    GThread *thread;

    client_set_stop(reader, stop);
    thread = g_thread_new("cancel", cancel_soon, stop);
    assert_false(
        client_stream(reader, "GET", "/v1/events?follow=1", NULL, take_none, NULL, &error));
    assert_error_says(error, VMFERRY_ERROR_CANCELLED, "not waited for any more");
    g_thread_join(thread);
    assert_true(clock_now_ns() - begun < 2000000000ULL);
}

static void test_client_checks_what_it_is_given(void **state)
{
    Site *site = *state;
    GError *error = NULL;

    assert_null(client_new_tls("[::1", NULL, &error));
    g_clear_error(&error);
    assert_null(client_new_tls(site->address, "/nonexistent", &error));
    assert_error_says(error, VMFERRY_ERROR_NOT_FOUND, "--pki, made by `vmferry pki engine NAME`");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_access),
        cmocka_unit_test(test_refuses_to_listen),
        cmocka_unit_test_setup_teardown(test_roles, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_local_only, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_other_ca, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_certificate_of_other_ca, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrong_name_of_agent, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_silent_strangers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_streams_are_limited, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_client_does_not_wait_for_ever, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_client_is_stopped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stream_is_stopped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_client_checks_what_it_is_given, set_up, tear_down),
    };

    log_set_level(LOG_LEVEL_WARNING);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

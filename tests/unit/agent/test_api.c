/* The control API as a program sees it that is not our own client. */
#include "scratch.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/api.h"
#include "agent/api_call.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "host.h"

static int set_up(void **state)
{
    *state = host_new();
    assert_true(host_start(*state));
    return 0;
}

static int tear_down(void **state)
{
    host_free(*state);
    return 0;
}

static int connect_to(Host *host)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, host->settings->socket, sizeof address.sun_path);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* Reads to the end of the connection. */
static char *read_rest(int fd)
{
    GString *text = g_string_new(NULL);
    char buffer[4096];
    ssize_t got;

    while ((got = read(fd, buffer, sizeof buffer)) > 0)
        g_string_append_len(text, buffer, got);
    return g_string_free(text, FALSE);
}

static char *request(Host *host, const char *head, const char *body)
{
    autofd int fd = connect_to(host);
    g_autofree char *text = g_strdup_printf(
        "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", head,
        strlen(body), body);

    assert_true(fd_write_all(fd, text, strlen(text), NULL));
    return read_rest(fd);
}

static void assert_answer(Host *host, const char *head, const char *body, const char *status,
                          const char *words)
{
    g_autofree char *answer = request(host, head, body);
    g_autofree char *wanted = g_strdup_printf("HTTP/1.1 %s ", status);

    if (!g_str_has_prefix(answer, wanted) || !strstr(answer, words))
        fail_msg("%s: not %s with %s: %s", head, status, words, answer);
}

static void test_empty_agent(void **state)
{
    assert_answer(*state, "GET /v1/guests", "", "200", "{\"guests\":[]}");
    assert_answer(*state, "GET /v1/status", "", "200", "\"guests\":0");
    assert_answer(*state, "GET /v1/status", "", "200", "\"listening\":null");
    assert_answer(*state, "GET /v1/metrics", "", "200", "text/plain; version=0.0.4");
    assert_answer(*state, "GET /v1/metrics", "", "200", "\nvmferry_guests 0\n");
    assert_answer(*state, "GET /v1/metrics", "", "200", "\nvmferry_host_cpu_seconds_total ");
    assert_answer(*state, "GET /v1/load", "", "200", "\"guests\":[]}");
    assert_answer(*state, "GET /v1/load", "", "200", "\"version\":\"");
    assert_answer(*state, "GET /v1/events", "", "200", "Transfer-Encoding: chunked");
}

static void test_wrong_paths(void **state)
{
    assert_answer(*state, "GET /", "", "404", "\"not-found\"");
    assert_answer(*state, "GET /v2/guests", "", "404", "there is no such path");
    assert_answer(*state, "GET /v1/guests/", "", "404", "\"not-found\"");
    assert_answer(*state, "GET /v1/guests/a%2fb", "", "404", "\"not-found\"");
    assert_answer(*state, "GET /v1/guests/web1/frob", "", "404", "\"not-found\"");
    assert_answer(*state, "PUT /v1/guests", "", "405", "this path has no such method");
    assert_answer(*state, "GET /v1/guests/web1/migrate", "", "405", "\"unsupported\"");
    assert_answer(*state, "GET /v1/events?since=x", "", "400",
                  "\\\"since\\\" is not a valid number");
}

static void test_unknown_guest(void **state)
{
    assert_answer(*state, "GET /v1/guests/web1", "", "404", "no guest \\\"web1\\\" on this host");
    assert_answer(*state, "GET /v1/guests/web1/disks", "", "404", "no guest \\\"web1\\\"");
    assert_answer(*state, "DELETE /v1/guests/web1", "", "404", "no guest \\\"web1\\\"");
    assert_answer(*state, "POST /v1/guests/web1/cancel", "", "404", "no guest \\\"web1\\\"");
    assert_answer(*state, "POST /v1/guests/web1/migrate", "{\"destination\":\"b\"}", "404",
                  "no guest \\\"web1\\\"");
    assert_answer(*state, "POST /v1/guests/web1/resolve", "{\"keep\":\"here\"}", "404",
                  "no guest \\\"web1\\\"");
}

static void test_bad_bodies(void **state)
{
    static const struct {
        const char *head, *body, *words;
    } bad[] = {
        {"POST /v1/guests/a/protect", "{\"standby\":\"b\",\"witness\":5}", "\\\"witness\\\""},
        {"POST /v1/guests/a/protect", "{\"standby\":\"b\",\"witness\":\"etcd://c/x\"}",
         "not a valid address"},
        {"POST /v1/guests/a/protect", "{\"standby\":\"b\",\"witness\":\"c:x\"}",
         "not a valid address"},
        {"POST /v1/guests/a/migrate",
         "{\"destination\":\"b\",\"mode\":\"postcopy\",\"store\":\"etcd://c\"}", "keeps no pages"},
        {"POST /v1/guests/a/protect", "{\"standby\":\"b\",\"sync\":5}", "\\\"sync\\\""},
        {"POST /v1/guests/a/protect", "{\"standby\":\"b\",\"sync\":\"now\"}",
         "auto, output or timed"},
        {"POST /v1/guests/a/protect", "{\"standby\":\"b\",\"disk_sync\":\"x\"}", "replay or copy"},
        {"POST /v1/guests", "", "needs a JSON object"},
        {"POST /v1/guests", "[]", "the request's body: JSON is not an object"},
        {"POST /v1/guests", "{\"name\":", "the request's body: not JSON"},
        {"POST /v1/guests", "{}", "\\\"name\\\" is missing"},
        {"POST /v1/guests", "{\"name\":\"a/b\"}", "is not a valid name for a guest"},
        {"POST /v1/guests", "{\"name\":\"a\"}", "give either"},
        {"POST /v1/guests", "{\"name\":\"a\",\"pid\":1,\"command_line\":[\"q\"]}", "give either"},
        {"POST /v1/guests", "{\"name\":\"a\",\"command_line\":[]}", "is empty"},
        {"POST /v1/guests", "{\"name\":\"a\",\"command_line\":[7]}", "does not hold text at 0"},
        {"POST /v1/guests", "{\"name\":\"a\",\"command_line\":\"q\"}", "no array"},
        {"POST /v1/guests", "{\"name\":\"a\",\"command_line\":[\"q\"],\"directory\":\"x\"}",
         "not an absolute path"},
        {"POST /v1/guests", "{\"name\":\"a\",\"pid\":-5}", "is missing or no count"},
        {"POST /v1/guests", "{\"name\":\"a\",\"pdi\":5}",
         "\\\"pdi\\\" is not a key of this request"},
        {"POST /v1/guests/a/migrate", "{\"deadline\":5}", "\\\"deadline\\\" is not a key"},
        {"POST /v1/guests/a/migrate", "{}", "\\\"destination\\\" is missing"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"tracker\":\"x\"}",
         "tracker: \\\"x\\\" is not a valid choice; use auto, pagemap-scan or uffd-sync"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"bandwidth\":-1}", "no count"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"tracker\":7}", "no text"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"compress\":\"zip\"}",
         "use auto, none, lz4 or zstd"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"throttle\":\"x\"}",
         "use auto, cgroup, duty or off"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"segments\":\"x\"}",
         "use auto, fingerprint, shadow or off"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"max_downtime_ms\":0}",
         "max_downtime_ms must be from 1 ms to 1 h"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"downtime_cap_ms\":3600001}",
         "downtime_cap_ms must be from 1 ms to 1 h"},
        {"POST /v1/guests/a/migrate",
         "{\"destination\":\"b\",\"max_downtime_ms\":50,\"downtime_cap_ms\":49}",
         "downtime_cap_ms of 49 ms is below max_downtime_ms of 50 ms"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"deadline_ms\":0}",
         "deadline_ms must be from 1 ms to 24 h"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"deadline_ms\":\"2s\"}", "no count"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"memory_budget_bytes\":0}",
         "memory_budget_bytes must be from 1Mi to 1024Gi bytes"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"bandwidth\":10000000000001}",
         "bandwidth must be from 0 to 10000000000000 bytes"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"mode\":\"x\"}",
         "mode: \\\"x\\\" is not a valid choice; use auto, precopy, postcopy or hybrid"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"streams\":0}",
         "streams must be from 1 to 16"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"streams\":17}",
         "streams must be from 1 to 16"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"record\":1}",
         "is neither true nor false"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"record\":true,\"detach\":true}",
         "record needs a reader until the move has ended: not with detach"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"disks\":\"x\"}",
         "use auto, shared, copy or top"},
        {"POST /v1/guests/a/migrate",
         "{\"destination\":\"b\",\"keep_source\":true,\"delete_source\":true}",
         "keep_source and delete_source contradict each other"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"disk_modes\":[\"copy\"]}",
         "\\\"disk_modes\\\" is not an object"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"disk_modes\":{\"d0\":\"move\"}}",
         "disk d0: use auto, shared, copy or top"},
        {"POST /v1/guests/a/migrate", "{\"destination\":\"b\",\"disk_modes\":{\"d0\":true}}",
         "disk d0: use auto, shared, copy or top"},
        {"POST /v1/guests/a/resolve", "{\"keep\":\"both\"}", "is \\\"here\\\" or \\\"there\\\""},
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
        assert_answer(*state, bad[i].head, bad[i].body, "400", bad[i].words);
    assert_answer(*state, "POST /v1/guests/a/migrate",
                  "{\"destination\":\"b\",\"mode\":\"postcopy\",\"verify\":true}", "400",
                  "verify compares all memory before the guest runs there");
    assert_answer(*state, "POST /v1/guests", "{\"name\":\"a\",\"pid\":4000000}", "404",
                  "there is no process with pid 4000000");
}

static void test_long_bodies(void **state)
{
    Host *host = *state;
    g_autofree char *filling = g_strnfill(API_BODY_LIMIT + 1, ' ');
    g_autofree char *chunk = g_strdup_printf("%zx\r\n%s\r\n", strlen(filling), filling);
    autofd int fd = -1;
    static const char head[] = "POST /v1/guests HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n";
    g_autofree char *answer = NULL;

    assert_answer(host, "POST /v1/guests", filling, "413", "too long");
    fd = connect_to(host);
    assert_true(fd_write_all(fd, head, strlen(head), NULL));
    for (guint i = 0; i < 3; i++)
        assert_true(fd_write_all(fd, chunk, strlen(chunk), NULL));
    assert_true(fd_write_all(fd, "0\r\n\r\n", 5, NULL));
    answer = read_rest(fd);
    if (!g_str_has_prefix(answer, "HTTP/1.1 400 ") || !strstr(answer, "is longer than"))
        fail_msg("%s", answer);
}

static void test_nonsense(void **state)
{
    static const char *const texts[] = {"\r\n\r\n", "GET\r\n\r\n", "\x16\x03\x01",
                                        "GET /v1/guests HTTP/9.9\r\n\r\n"};
    Host *host = *state;

    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        autofd int fd = connect_to(host);

        assert_true(fd_write_all(fd, texts[i], strlen(texts[i]), NULL));
        shutdown(fd, SHUT_WR);
        g_free(read_rest(fd));
    }
    assert_answer(host, "GET /v1/guests", "", "200", "\"guests\"");
}

static void test_socket_mode(void **state)
{
    Host *host = *state;
    struct stat status;

    assert_int_equal(stat(host->settings->socket, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0660);
}

static gboolean take_one(json_t *object, gpointer user)
{
    *(char **)user = g_strdup(json_text_or(object, "type", "?"));
    return FALSE;
}

static gpointer follow_events(gpointer data)
{
    Host *host = data;
    g_autoptr(Client) client = client_new(host->socket);
    char *type = NULL;

    client_stream(client, "GET", "/v1/events?follow=1", NULL, take_one, &type, NULL);
    return type;
}

static void test_followed_events(void **state)
{
    Host *host = *state;
    GThread *reader = g_thread_new("reader", follow_events, host);
    json_t *guest = json_pack("{s:s, s:[s]}", "name", "web1", "command_line", "qemu-nothing");
    g_autofree char *type = NULL;
    GError *error = NULL;

    /* A launch that fails makes no event; one that is refused is told at once. */
    assert_null(host_call(host, "POST", "/v1/guests", guest, &error));
    assert_non_null(error);
    g_clear_error(&error);
    assert_null(host_call(host, "POST", "/v1/guests",
                          json_pack("{s:s, s:i}", "name", "web1", "pid", (int)getpid()), &error));
    assert_non_null(error);
    g_clear_error(&error);
    /* The end of the agent ends the stream. */
    host_stop(host);
    type = g_thread_join(reader);
    assert_null(type);
}

static void test_stale_socket(void **state)
{
    Host *host = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    host_stop(host);
    g_strlcpy(address.sun_path, host->settings->socket, sizeof address.sun_path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    fd_close(&fd);
    assert_true(host_start(host));
    assert_answer(host, "GET /v1/guests", "", "200", "\"guests\"");
    host_stop(host);
    scratch_write(host->folder, "agent.sock", "precious");
    assert_false(host_start(host));
    assert_error_says(g_steal_pointer(&host->error), VMFERRY_ERROR_EXISTS,
                      "is in the way and no socket");
}

static void test_error_statuses(void **state)
{
    for (guint code = VMFERRY_ERROR_FAILED; code <= VMFERRY_ERROR_IN_DOUBT; code++) {
        g_autoptr(GError) error = g_error_new(VMFERRY_ERROR, (gint)code, "x");
        guint status = api_status_from_error(error);

        assert_true(status >= 400 && status < 600);
    }
}

int main(void)
{
#define WITH_HOST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH_HOST(test_empty_agent),   WITH_HOST(test_wrong_paths),
        WITH_HOST(test_unknown_guest), WITH_HOST(test_bad_bodies),
        WITH_HOST(test_long_bodies),   WITH_HOST(test_nonsense),
        WITH_HOST(test_socket_mode),   WITH_HOST(test_followed_events),
        WITH_HOST(test_stale_socket),  cmocka_unit_test(test_error_statuses),
    };

    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The QMP client against a small server in a thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/json.h"
#include "base/fd.h"
#include "vmm/qemu/qmp.h"
#include "base/unix_socket.h"
#include "vmm/qemu/qmp_line.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"

/* What the server does with a command after qmp_capabilities. */
typedef void (*Handler)(int fd, json_t *command, int passed_fd);

typedef struct {
    int fd;
    Handler handler;
    const char *greeting;
    gboolean refuses_oob;
} Server;

static void say(int fd, const char *text)
{
    assert_true(fd_write_all(fd, text, strlen(text), NULL));
}

static void reply(int fd, json_t *command, const char *rest)
{
    g_autofree char *text = g_strdup_printf(
        "{%s, \"id\": %d}\r\n", rest, (int)json_integer_value(json_object_get(command, "id")));

    say(fd, text);
}

/* Reads once, with a descriptor if one comes. */
static ssize_t receive(int fd, char *buffer, size_t length, int *ret_fd)
{
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {buffer, length};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t got = recvmsg(fd, &message, 0);
    struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;

    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(ret_fd, CMSG_DATA(header), sizeof *ret_fd);
    return got;
}

static void negotiate(const Server *server, json_t *command)
{
    gboolean enables = json_object_get(command, "arguments") != NULL;

    assert_true(!enables || strstr(server->greeting, "oob"));
    if (enables && server->refuses_oob)
        reply(server->fd, command, "\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}");
    else
        reply(server->fd, command, "\"return\": {}");
}

static gpointer serve(gpointer data)
{
    Server *server = data;
    g_autoptr(QmpLines) lines = qmp_lines_new(1 << 20);
    json_t *command = NULL;
    int passed = -1;

    if (server->greeting)
        say(server->fd, server->greeting);
    for (;;) {
        char buffer[4096];
        ssize_t got = receive(server->fd, buffer, sizeof buffer, &passed);

        if (got <= 0)
            break;
        assert_true(qmp_lines_add(lines, buffer, (size_t)got, NULL));
        while (qmp_lines_next(lines, &command, NULL) && command) {
            const char *name = json_string_value(json_object_get(command, "execute"));

            if (g_strcmp0(name, "qmp_capabilities") == 0)
                negotiate(server, command);
            else
                server->handler(server->fd, command, passed);
            json_decref(command);
        }
    }
    close(server->fd);
    g_free(server);
    return NULL;
}

typedef struct {
    Server server;
    GThread *thread;
    Qmp *qmp;
} Fixture;

static Fixture start_server(Server description)
{
    Fixture fixture = {description, NULL, NULL};
    Server *server = g_new(Server, 1); /* freed by its thread */
    GError *error = NULL;
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    *server = fixture.server;
    server->fd = pair[1];
    fixture.thread = g_thread_new("server", serve, server);
    fixture.qmp = qmp_connect_fd(pair[0], "/test.qmp", 2000, &error);
    assert_null(error);
    return fixture;
}

static Fixture start(Handler handler)
{
    return start_server((Server){.handler = handler, .greeting = GREETING});
}

static void stop(Fixture *fixture)
{
    qmp_free(fixture->qmp);
    g_thread_join(fixture->thread);
}

static void expect_text(GError *error, VmferryErrorCode code, const char *text)
{
    assert_non_null(error);
    if (!strstr(error->message, text) || !error_is(error, code))
        fail_msg("\"%s\" (%s) does not hold \"%s\"", error->message,
                 vmferry_error_code_name(error->code), text);
    g_error_free(error);
}

static void answer_status(int fd, json_t *command, int passed)
{
    reply(fd, command, "\"return\": {\"status\": \"running\"}");
}

static void test_executes_a_command(void **unused)
{
    Fixture fixture = start(answer_status);
    json_t *value = qmp_execute(fixture.qmp, "query-status", NULL, 2000, NULL);

    assert_string_equal(json_string_value(json_object_get(value, "status")), "running");
    json_decref(value);
    stop(&fixture);
}

static void answer_error(int fd, json_t *command, int passed)
{
    reply(fd, command,
          "\"error\": {\"class\": \"GenericError\", "
          "\"desc\": \"Failed to get \\\"write\\\" lock\"}");
}

static void test_keeps_the_words_of_qemu(void **unused)
{
    Fixture fixture = start(answer_error);
    GError *error = NULL;

    assert_false(qmp_run(fixture.qmp, "cont", NULL, 2000, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "cont: QEMU says: Failed to get \"write\" lock");
    stop(&fixture);
}

#define OOB_GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n"

/* QEMU hangs in each command but those out of band. */
static void answer_oob(int fd, json_t *command, int passed)
{
    if (json_object_get(command, "exec-oob"))
        reply(fd, command, "\"return\": {}");
}

static gpointer hang_main(gpointer data)
{
    GError *error = NULL;

    assert_false(qmp_run(data, "stop", NULL, 500, &error));
    expect_text(error, VMFERRY_ERROR_TIMEOUT, "stop: QEMU gave no answer");
    return NULL;
}

static void test_out_of_band_overtakes(void **unused)
{
    Fixture fixture = start_server((Server){.handler = answer_oob, .greeting = OOB_GREETING});
    GThread *hanging = g_thread_new("hang", hang_main, fixture.qmp);
    GError *error = NULL;

    g_usleep(50000);
    assert_true(qmp_run_oob(fixture.qmp, "yank", json_object(), 200, &error));
    g_thread_join(hanging);
    stop(&fixture);
}

static void test_no_out_of_band(void **unused)
{
    Server servers[] = {{.handler = answer_status, .greeting = GREETING},
                        {.handler = answer_status, .greeting = OOB_GREETING, .refuses_oob = TRUE}};

    for (guint i = 0; i < G_N_ELEMENTS(servers); i++) {
        Fixture fixture = start_server(servers[i]);
        GError *error = NULL;

        assert_false(qmp_run_oob(fixture.qmp, "yank", NULL, 200, &error));
        expect_text(error, VMFERRY_ERROR_UNSUPPORTED, "no out-of-band execution on /test.qmp");
        assert_true(qmp_run(fixture.qmp, "query-status", NULL, 2000, NULL));
        stop(&fixture);
    }
}

/* Two events, one before and one glued behind the reply, and a reply to
 * nobody; all in pieces. */
static void answer_among_events(int fd, json_t *command, int passed)
{
    say(fd, "{\"event\": \"STOP\", \"da");
    g_usleep(20000);
    say(fd, "ta\": {\"n\": 1}}\r\n\r\n{\"return\": {}, \"id\": 999}\r\n");
    reply(fd, command, "\"return\": {\"n\": 2}");
    say(fd, "{\"event\": \"RESUME\"}\n");
}

static void count_event(const char *event, json_t *data, gpointer user)
{
    gint *seen = user;

    if (strcmp(event, "STOP") == 0 && json_integer_value(json_object_get(data, "n")) == 1)
        g_atomic_int_add(seen, 1);
    if (strcmp(event, "RESUME") == 0 && !data)
        g_atomic_int_add(seen, 100);
}

static void test_events_between_replies(void **unused)
{
    Fixture fixture = start(answer_among_events);
    gint seen = 0;
    json_t *value;

    qmp_set_event_func(fixture.qmp, count_event, &seen);
    value = qmp_execute(fixture.qmp, "query-n", NULL, 2000, NULL);
    assert_int_equal(json_integer_value(json_object_get(value, "n")), 2);
    json_decref(value);
    for (guint i = 0; i < 2000 && g_atomic_int_get(&seen) != 101; i++)
        g_usleep(1000);
    assert_int_equal(g_atomic_int_get(&seen), 101);
    stop(&fixture);
}

static void ignore_slow(int fd, json_t *command, int passed)
{
    if (strcmp(json_string_value(json_object_get(command, "execute")), "slow") != 0)
        answer_status(fd, command, passed);
}

static void test_time_out_hurts_only_its_command(void **unused)
{
    Fixture fixture = start(ignore_slow);
    GError *error = NULL;

    assert_false(qmp_run(fixture.qmp, "slow", NULL, 50, &error));
    expect_text(error, VMFERRY_ERROR_TIMEOUT, "slow: QEMU gave no answer within 50 ms");
    assert_true(qmp_run(fixture.qmp, "query-status", NULL, 2000, NULL));
    stop(&fixture);
}

static void hang_up(int fd, json_t *command, int passed)
{
    shutdown(fd, SHUT_RDWR);
}

static void test_disconnection_ends_waiting(void **unused)
{
    Fixture fixture = start(hang_up);
    GError *error = NULL;

    assert_false(qmp_run(fixture.qmp, "stop", NULL, 20000, &error));
    expect_text(error, VMFERRY_ERROR_DISCONNECTED, "QEMU closed the QMP socket /test.qmp");
    error = NULL;
    assert_false(qmp_run(fixture.qmp, "stop", NULL, 20000, &error));
    expect_text(error, VMFERRY_ERROR_DISCONNECTED, "stop: ");
    assert_false(qmp_is_connected(fixture.qmp));
    stop(&fixture);
}

static void answer_garbage(int fd, json_t *command, int passed)
{
    say(fd, "I am no JSON\n");
}

static void test_garbage_ends_the_connection(void **unused)
{
    Fixture fixture = start(answer_garbage);
    GError *error = NULL;

    assert_false(qmp_run(fixture.qmp, "stop", NULL, 20000, &error));
    expect_text(error, VMFERRY_ERROR_DISCONNECTED, "not JSON");
    stop(&fixture);
}

static void answer_oddly(int fd, json_t *command, int passed)
{
    reply(fd, command, "\"retrun\": 1");
}

static void test_reply_without_value(void **unused)
{
    Fixture fixture = start(answer_oddly);
    GError *error = NULL;

    assert_false(qmp_run(fixture.qmp, "stop", NULL, 2000, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "has no \"return\"");
    error = NULL;
    assert_null(qmp_execute_human(fixture.qmp, "info qtree", 2000, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "has no \"return\"");
    stop(&fixture);
}

static void answer_through_descriptor(int fd, json_t *command, int passed)
{
    assert_true(passed >= 0);
    say(passed, "x");
    close(passed);
    reply(fd, command, "\"return\": {}");
}

static void test_passes_descriptors(void **unused)
{
    Fixture fixture = start(answer_through_descriptor);
    json_t *value;
    int ends[2];
    char byte;

    assert_int_equal(pipe(ends), 0);
    value = qmp_execute_fd(fixture.qmp, "getfd", NULL, ends[1], 2000, NULL);
    assert_non_null(value);
    json_decref(value);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    close(ends[1]);
    stop(&fixture);
}

static void echo_argument(int fd, json_t *command, int passed)
{
    json_t *n = json_object_get(json_object_get(command, "arguments"), "n");
    g_autofree char *text = g_strdup_printf("\"return\": %d", (int)json_integer_value(n));

    reply(fd, command, text);
}

typedef struct {
    Qmp *qmp;
    int n;
} Caller;

static gpointer call_often(gpointer data)
{
    Caller *caller = data;

    for (int i = 0; i < 200; i++) {
        int n = caller->n * 1000 + i;
        json_t *value = qmp_execute(caller->qmp, "echo", json_pack("{s:i}", "n", n), 5000, NULL);

        assert_int_equal(json_integer_value(value), n);
        json_decref(value);
    }
    return NULL;
}

static void test_many_threads(void **unused)
{
    Fixture fixture = start(echo_argument);
    GThread *threads[8];
    Caller callers[8];

    for (int i = 0; i < 8; i++) {
        callers[i] = (Caller){fixture.qmp, i};
        threads[i] = g_thread_new("caller", call_often, &callers[i]);
    }
    for (int i = 0; i < 8; i++)
        g_thread_join(threads[i]);
    stop(&fixture);
}

/* Connects to a socket on which *greeting* is said (NULL: nothing). */
static GError *greeting_error(const char *greeting, gboolean close_after)
{
    GError *error = NULL;
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    if (greeting)
        say(pair[1], greeting);
    if (close_after)
        shutdown(pair[1], SHUT_WR);
    assert_null(qmp_connect_fd(pair[0], "/run/x.qmp", 100, &error));
    close(pair[1]);
    return error;
}

static void test_greetings(void **unused)
{
    expect_text(greeting_error(NULL, FALSE), VMFERRY_ERROR_BUSY,
                "QMP socket /run/x.qmp is busy: another program is connected to it (libvirt?)");
    expect_text(greeting_error("{\"hello\": 1}\n", FALSE), VMFERRY_ERROR_INVALID,
                "/run/x.qmp is not a QMP socket");
    expect_text(greeting_error("SSH-2.0-OpenSSH\r\n", FALSE), VMFERRY_ERROR_INVALID,
                "/run/x.qmp is not a QMP socket");
    expect_text(greeting_error("{\"QMP\"", TRUE), VMFERRY_ERROR_DISCONNECTED,
                "QEMU closed the QMP socket");
}

static void test_nobody_listens(void **unused)
{
    GError *error = NULL;

    assert_null(qmp_connect("/nonexistent/x.qmp", 100, &error));
    expect_text(error, VMFERRY_ERROR_NOT_FOUND, "QMP: connect to /nonexistent/x.qmp: No such file");
}

/* A path longer than a socket address holds. */
static void test_long_path(void **unused)
{
    g_autofree char *folder = g_dir_make_tmp("vmferry-test-XXXXXX", NULL);
    g_autofree char *deep = g_strdup_printf("%s/%0100d", folder, 0);
    g_autofree char *path = g_strdup_printf("%s/s", deep);
    g_autofree char *own = g_get_current_dir();
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "s"};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), fd;

    assert_int_equal(g_mkdir_with_parents(deep, 0700), 0);
    assert_int_equal(chdir(deep), 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(chdir(own), 0);
    assert_true(strlen(path) > sizeof address.sun_path);
    fd = unix_socket_connect(path, NULL);
    assert_true(fd >= 0);
    close(fd);
    close(listener);
    unlink(path);
    rmdir(deep);
    rmdir(folder);
}

/* QEMU lets one wait in its queue; the next one must not hang. */
/* Greets its first client and hangs until a second one comes. */
static gpointer serve_when_two(gpointer data)
{
    int listener = GPOINTER_TO_INT(data);
    Server *server = g_new0(Server, 1); /* freed by serve() */
    autofd int other = -1;

    server->fd = accept(listener, NULL, NULL);
    server->handler = answer_status;
    say(server->fd, GREETING);
    other = accept(listener, NULL, NULL);
    return serve(server);
}

static void test_frees_a_qemu_that_waits_for_another_client(void **unused)
{
    g_autofree char *folder = g_dir_make_tmp("vmferry-test-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "qmp", NULL);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    autofd int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_autoptr(GError) error = NULL;
    GThread *thread;
    Qmp *qmp;

    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 1), 0);
    thread = g_thread_new("server", serve_when_two, GINT_TO_POINTER(listener));
    qmp = qmp_connect_starting(path, 2000, &error);
    if (!qmp)
        fail_msg("%s", error->message);
    qmp_free(qmp);
    g_thread_join(thread);
    unlink(path);
    rmdir(folder);
}

static void test_full_queue(void **unused)
{
    g_autofree char *folder = g_dir_make_tmp("vmferry-test-XXXXXX", NULL);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), waiting[2];
    GError *error = NULL;

    g_snprintf(address.sun_path, sizeof address.sun_path, "%s/s", folder);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 1), 0);
    waiting[0] = unix_socket_connect(address.sun_path, NULL);
    waiting[1] = unix_socket_connect(address.sun_path, NULL);
    assert_true(waiting[0] >= 0 && waiting[1] >= 0);
    assert_null(qmp_connect(address.sun_path, 100, &error));
    expect_text(error, VMFERRY_ERROR_BUSY, "is busy: others wait for it already");
    close(waiting[0]);
    close(waiting[1]);
    close(listener);
    unlink(address.sun_path);
    rmdir(folder);
}

static void test_line_limit(void **unused)
{
    g_autoptr(QmpLines) lines = qmp_lines_new(16);
    g_autoptr(GError) error = NULL;
    json_t *message;

    assert_true(qmp_lines_add(lines, "{\"a\": 1}\n{\"b\"", 13, NULL));
    assert_true(qmp_lines_next(lines, &message, NULL));
    assert_non_null(message);
    json_decref(message);
    assert_true(qmp_lines_next(lines, &message, NULL));
    assert_null(message);
    assert_false(qmp_lines_add(lines, "0123456789abc", 13, &error));
    assert_non_null(strstr(error->message, "more than 16 bytes"));
}

static json_t *read_one(const char *line)
{
    g_autoptr(QmpLines) lines = qmp_lines_new(4096);
    json_t *message = NULL;

    assert_true(qmp_lines_add(lines, line, strlen(line), NULL));
    assert_true(qmp_lines_next(lines, &message, NULL));
    assert_non_null(message);
    return message;
}

/* QEMU's unsigned numbers are no nonsense, and equal ones stay equal. */
static void test_large_numbers(void **state)
{
    g_autoptr(json_t) message = read_one(
        "{\"a\": 18446744073709551615, \"b\": [18446744073709551615, -1], "
        "\"c\": 9223372036854775807, \"d\": \"18446744073709551615 \\\" 99999999999999999999\","
        " \"e\": 9223372036854775808}\n");

    assert_true(json_is_real(json_object_get(message, "a")));
    assert_true(json_equal(json_object_get(message, "a"),
                           json_array_get(json_object_get(message, "b"), 0)));
    assert_int_equal(json_integer_value(json_array_get(json_object_get(message, "b"), 1)), -1);
    assert_true(json_integer_value(json_object_get(message, "c")) == G_MAXINT64);
    assert_string_equal(json_string_value(json_object_get(message, "d")),
                        "18446744073709551615 \" 99999999999999999999");
    assert_true(json_is_real(json_object_get(message, "e")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large_numbers),
        cmocka_unit_test(test_executes_a_command),
        cmocka_unit_test(test_keeps_the_words_of_qemu),
        cmocka_unit_test(test_out_of_band_overtakes),
        cmocka_unit_test(test_no_out_of_band),
        cmocka_unit_test(test_events_between_replies),
        cmocka_unit_test(test_time_out_hurts_only_its_command),
        cmocka_unit_test(test_disconnection_ends_waiting),
        cmocka_unit_test(test_garbage_ends_the_connection),
        cmocka_unit_test(test_reply_without_value),
        cmocka_unit_test(test_passes_descriptors),
        cmocka_unit_test(test_many_threads),
        cmocka_unit_test(test_greetings),
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_long_path),
        cmocka_unit_test(test_frees_a_qemu_that_waits_for_another_client),
        cmocka_unit_test(test_full_queue),
        cmocka_unit_test(test_line_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

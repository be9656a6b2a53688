/* The client of the guest's agent, against agents that say all kinds of things; and where its channel is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/qemu/agent_channel.h"
#include "vmm/qemu/guest_agent.h"

#define LONG_MS 20000
#define SHORT_MS 250

/* Answers each line that comes with what its test says, "%d" for the number of a sync; until the other end closes. */
typedef struct {
    int fd;
    const char *const *answers; /* NULL-terminated; "" says nothing */
    guint flood;                /* pieces of zeroes that are said instead of the first one */
    GThread *thread;
    GString *heard;
} Fake;

static void say(Fake *fake, const char *text)
{
    if (*text)
        assert_true(send(fake->fd, text, strlen(text), MSG_NOSIGNAL) > 0);
}

static void flood(Fake *fake)
{
    static const char zeroes[4096];

    for (guint i = 0; i < fake->flood; i++)
        if (send(fake->fd, zeroes, sizeof(zeroes), MSG_NOSIGNAL) < 0)
            return;
}

static void answer(Fake *fake, const char *line, const char *form)
{
    const char *at = strstr(line, "\"id\":");
    g_auto(GStrv) parts = g_strsplit(form, "%d", 2);
    g_autofree char *number = g_strdup_printf("%d", at ? atoi(at + strlen("\"id\":")) : 0);
    g_autofree char *text = g_strjoinv(number, parts);

    say(fake, text);
}

static gpointer fake_main(gpointer data)
{
    Fake *fake = data;
    char line[512];
    size_t filled = 0;

    if (fake->flood > 0)
        flood(fake);
    while (filled < sizeof(line) - 1 && read(fake->fd, line + filled, 1) == 1) {
        if (line[filled++] != '\n')
            continue;
        line[filled] = '\0';
        g_string_append(fake->heard, line);
        filled = 0;
        if (!*fake->answers) {
            shutdown(fake->fd, SHUT_RDWR);
            break;
        }
        answer(fake, line, *fake->answers++);
    }
    return NULL;
}

static GuestAgent *begin(Fake *fake, const char *const *answers)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    fake->fd = pair[1];
    fake->answers = answers;
    fake->heard = g_string_new(NULL);
    fake->thread = g_thread_new("fake", fake_main, fake);
    return guest_agent_new(pair[0], NULL, NULL);
}

/* Frees the agent first. */
static void end(Fake *fake)
{
    g_clear_pointer(&fake->thread, g_thread_join);
    fd_close(&fake->fd);
    g_string_free(fake->heard, TRUE);
}

static void test_answers(void **state)
{
    static const char *const answers[] = {"\xff{\"return\": %d}\n", "{\"return\": 17}\n",
                                          "{\"error\": {\"class\": \"GenericError\", \"desc\": "
                                          "\"no clock\"}}\n",
                                          NULL};
    Fake fake = {0};
    GuestAgent *agent = begin(&fake, answers);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) time = NULL;

    assert_true(guest_agent_sync(agent, LONG_MS, &error));
    time = guest_agent_execute(agent, "guest-get-time", NULL, LONG_MS, &error);
    assert_int_equal(json_integer_value(time), 17);
    assert_null(guest_agent_execute(agent, "guest-set-time", json_pack("{s:i}", "time", 5), LONG_MS,
                                    &error));
    assert_true(error_is(error, VMFERRY_ERROR_FAILED));
    assert_non_null(strstr(error->message, "no clock"));
    guest_agent_free(agent);
    g_thread_join(g_steal_pointer(&fake.thread));
    assert_true(fake.heard->str[0] == (char)0xff);
    assert_non_null(strstr(fake.heard->str, "{\"execute\":\"guest-get-time\"}\n"));
    assert_non_null(strstr(fake.heard->str, "\"arguments\":{\"time\":5}"));
    end(&fake);
}

/* Half a line, an answer to somebody else, and a mark of theirs come first. */
static void test_what_came_before_is_dropped(void **state)
{
    static const char *const answers[] = {
        "rn\": {}}\n{\"return\": 3}\n\xff{\"return\": 4}\nnonsense\n\xff{\"return\": %d}\n", NULL};
    Fake fake = {0};
    GuestAgent *agent = begin(&fake, answers);

    assert_true(guest_agent_sync(agent, LONG_MS, NULL));
    guest_agent_free(agent);
    end(&fake);
}

static void check_sync_fails(const char *const *answers, guint pieces, VmferryErrorCode code,
                             const char *words)
{
    Fake fake = {.flood = pieces};
    GuestAgent *agent = begin(&fake, answers);
    g_autoptr(GError) error = NULL;

    assert_false(
        guest_agent_sync(agent, code == VMFERRY_ERROR_TIMEOUT ? SHORT_MS : LONG_MS, &error));
    assert_true(error_is(error, code));
    assert_non_null(strstr(error->message, words));
    guest_agent_free(agent);
    end(&fake);
}

static void test_what_is_no_answer(void **state)
{
    static const char *const nothing[] = {"", NULL},
                             *const unmarked[] = {"{\"return\": %d}\n", NULL},
                             *const other[] = {"\xff{\"return\": 1}\n{\"return\": \"%d\"}\n", NULL},
                             *const words[] = {"\xffhello\n", NULL}, *const closes[] = {NULL};

    check_sync_fails(nothing, 0, VMFERRY_ERROR_TIMEOUT, "does not answer");
    check_sync_fails(unmarked, 0, VMFERRY_ERROR_TIMEOUT, "does not answer");
    check_sync_fails(other, 0, VMFERRY_ERROR_TIMEOUT, "does not answer");
    check_sync_fails(words, 0, VMFERRY_ERROR_INVALID, "no answer");
    check_sync_fails(closes, 0, VMFERRY_ERROR_DISCONNECTED, "ended");
    check_sync_fails(nothing, 1000, VMFERRY_ERROR_INVALID, "too much");
}

static void test_line_without_end(void **state)
{
    g_autofree char *zeroes = g_strnfill(100000, '0');
    g_autofree char *line = g_strconcat("\xff", zeroes, NULL);
    const char *const answers[] = {line, NULL};

    check_sync_fails(answers, 0, VMFERRY_ERROR_INVALID, "no answer");
}

static gboolean always(gpointer user)
{
    return TRUE;
}

static void test_is_given_up(void **state)
{
    g_autoptr(GError) error = NULL;
    GuestAgent *agent;
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    agent = guest_agent_new(pair[0], always, NULL);
    assert_false(guest_agent_sync(agent, LONG_MS, &error));
    assert_true(error_is(error, VMFERRY_ERROR_CANCELLED));
    guest_agent_free(agent);
    close(pair[1]);
}

static void test_channel(void **state)
{
    static const struct {
        const char *line, *refusal; /* NULL: it has one */
    } cases[] = {
        {"qemu -chardev socket,id=a,path=/run/a,server=on,wait=off -device virtio-serial -device "
         "virtserialport,chardev=a,name=org.qemu.guest_agent.0",
         NULL},
        {"qemu -chardev socket,id=a,path=/run/a,server=on,wait=off -device "
         "{\"driver\":\"virtserialport\",\"chardev\":\"a\",\"name\":\"org.qemu.guest_agent.0\"}",
         NULL},
        {"qemu -m 1G", "has no channel"},
        {"qemu -device virtserialport,chardev=a,name=com.redhat.spice.0", "has no channel"},
        {"qemu -chardev pty,id=a -device virtserialport,chardev=a,name=org.qemu.guest_agent.0",
         "not a Unix socket"},
        {"qemu -chardev socket,id=a,host=x,port=1,server=on -device "
         "virtserialport,chardev=a,name=org.qemu.guest_agent.0",
         "not a Unix socket"},
        {"qemu -device virtserialport,chardev=b,name=org.qemu.guest_agent.0", "not a Unix socket"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(GStrv) words = g_strsplit(cases[i].line, " ", -1);
        g_autoptr(GError) error = NULL;

        assert_int_equal(qemu_check_agent(words, &error), cases[i].refusal == NULL);
        if (cases[i].refusal)
            assert_non_null(strstr(error->message, cases[i].refusal));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_what_came_before_is_dropped),
        cmocka_unit_test(test_what_is_no_answer),
        cmocka_unit_test(test_line_without_end),
        cmocka_unit_test(test_is_given_up),
        cmocka_unit_test(test_channel),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

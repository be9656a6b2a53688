/* Bytes between a stream and a socket: all of them, and no longer than they move. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "wire/relay.h"

#define MANY (4u << 20)
#define SILENCE_MS 200

typedef struct {
    int far, near; /* the ends of those who speak */
    Stream *stream;
    int inner; /* the relay's end of near */
    int wake_fd;
    GThread *thread;
    gboolean done;
    GError *error;
    guint silence_ms;
} Site;

static gpointer run(gpointer data)
{
    Site *site = data;

    site->done =
        relay_run(site->stream, site->inner, site->wake_fd, site->silence_ms, &site->error);
    close(site->inner);
    g_clear_pointer(&site->stream, stream_free);
    return NULL;
}

static void start(Site *site, guint silence_ms)
{
    int outside[2], inside[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, outside), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, inside), 0);
    *site = (Site){.far = outside[0],
                   .near = inside[0],
                   .inner = inside[1],
                   .stream = stream_new(outside[1]),
                   .wake_fd = eventfd(0, EFD_CLOEXEC),
                   .silence_ms = silence_ms};
    site->thread = g_thread_new("relay", run, site);
}

static void end(Site *site, gboolean done, int code)
{
    g_thread_join(site->thread);
    assert_int_equal(site->done, done);
    if (!done)
        assert_int_equal(site->error->code, code);
    g_clear_error(&site->error);
    fd_close(&site->far);
    fd_close(&site->near);
    fd_close(&site->wake_fd);
}

static void read_exactly(int fd, size_t count, uint8_t byte)
{
    uint8_t buffer[8192];

    while (count > 0) {
        ssize_t got = read(fd, buffer, MIN(sizeof buffer, count));

        assert_true(got > 0);
        for (ssize_t i = 0; i < got; i++)
            assert_int_equal(buffer[i], byte);
        count -= (size_t)got;
    }
}

static void write_exactly(int fd, size_t count, uint8_t byte)
{
    g_autofree uint8_t *bytes = g_malloc(count);
    size_t at = 0;

    memset(bytes, byte, count);
    while (at < count) {
        ssize_t put = write(fd, bytes + at, count - at);

        if (put < 0)
            g_usleep(1000); /* not blocking, and full */
        else
            at += (size_t)put;
    }
}

static gpointer write_many(gpointer data)
{
    write_exactly(((Site *)data)->near, MANY, 'n');
    fd_close(&((Site *)data)->near);
    return NULL;
}

/* What the near side has sent before its end arrives, also where it is read late. */
static void test_all_goes_out(void **state)
{
    Site site;
    GThread *writer;

    start(&site, 10000);
    write_exactly(site.far, 100, 'f');
    while (TRUE) { /* it does not block */
        uint8_t buffer[100];
        ssize_t got = recv(site.near, buffer, sizeof buffer, MSG_WAITALL | MSG_PEEK);

        if (got == sizeof buffer)
            break;
        g_usleep(1000);
    }
    read_exactly(site.near, 100, 'f');
    writer = g_thread_new("write", write_many, &site);
    g_usleep(20000);
    read_exactly(site.far, MANY, 'n');
    g_thread_join(writer);
    end(&site, TRUE, 0);
}

static void test_far_side_ends(void **state)
{
    Site site;

    start(&site, 10000);
    fd_close(&site.far);
    end(&site, FALSE, VMFERRY_ERROR_DISCONNECTED);
}

static void test_silence(void **state)
{
    Site site;

    start(&site, SILENCE_MS);
    end(&site, FALSE, VMFERRY_ERROR_TIMEOUT);
}

/* A far side that takes nothing is as silent as one that says nothing. */
static void test_far_side_does_not_read(void **state)
{
    g_autofree uint8_t *bytes = g_malloc0(MANY);
    Site site;

    start(&site, SILENCE_MS);
    for (guint i = 0; i < 64; i++)
        if (write(site.near, bytes, MANY / 64) < 0)
            break;
    end(&site, FALSE, VMFERRY_ERROR_TIMEOUT);
}

static void test_woken(void **state)
{
    Site site;

    start(&site, 60000);
    assert_int_equal(eventfd_write(site.wake_fd, 1), 0);
    end(&site, FALSE, VMFERRY_ERROR_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_goes_out), cmocka_unit_test(test_far_side_ends),
        cmocka_unit_test(test_silence),      cmocka_unit_test(test_far_side_does_not_read),
        cmocka_unit_test(test_woken),
    };

    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

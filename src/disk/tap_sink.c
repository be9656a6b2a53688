/* The agent's end of a block tap. */
#include "disk/tap_sink.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/helper.h"
#include "disk/tap_private.h"
#include "disk/tap_process.h"

#define START_MS 10000
#define END_MS 3000

struct TapSink {
    pid_t pid;
    int socket; /* the reader's */
    TapReader *reader;
    guint count;
    char (*addresses)[TAP_ADDRESS_BYTES];
};

static gboolean check_options(const TapSinkOptions *options, GError **error)
{
    gboolean right = options->count > 0 && options->count <= TAP_MAX_DISKS;

    for (guint i = 0; right && i < options->count; i++)
        right =
            options->disks[i].bytes > 0 &&
            (!options->disks[i].address || strlen(options->disks[i].address) < TAP_ADDRESS_BYTES);
    if (!right)
        error_set(error, VMFERRY_ERROR_INVALID,
                  "block tap: no disks, more than %u, an empty one or a bad address",
                  TAP_MAX_DISKS);
    return right;
}

static gboolean give_order(const TapSinkOptions *options, int fd, GError **error)
{
    TapOrder order = {.buffer_bytes = options->buffer_bytes,
                      .stall_ms = options->stall_ms,
                      .wait_ms = options->wait_ms,
                      .client = options->client,
                      .count = options->count};
    g_autofree TapDiskOrder *disks = g_new0(TapDiskOrder, options->count);

    for (guint i = 0; i < options->count; i++) {
        disks[i].bytes = options->disks[i].bytes;
        if (options->disks[i].address)
            g_strlcpy(disks[i].address, options->disks[i].address, TAP_ADDRESS_BYTES);
    }
    return fd_write_all(fd, &order, sizeof order, error) &&
           fd_write_all(fd, disks, options->count * sizeof *disks, error);
}

static gboolean take_answer(TapSink *sink, int fd, GError **error)
{
    TapAnswer answer;
    int ready = fd_wait_readable(fd, START_MS, error);

    if (ready == 0)
        error_set(error, VMFERRY_ERROR_TIMEOUT, "its process does not answer");
    if (ready <= 0 || !fd_read_all(fd, &answer, sizeof answer, error))
        return FALSE;
    if (answer.code >= 0) {
        answer.problem[sizeof answer.problem - 1] = '\0';
        error_set(error, (VmferryErrorCode)answer.code, "%s", answer.problem);
        return FALSE;
    }
    if (!fd_read_all(fd, sink->addresses, sink->count * sizeof *sink->addresses, error))
        return FALSE;
    for (guint i = 0; i < sink->count; i++)
        sink->addresses[i][TAP_ADDRESS_BYTES - 1] = '\0';
    return TRUE;
}

static gboolean start(TapSink *sink, const TapSinkOptions *options, int *fd, int theirs,
                      GError **error)
{
    g_autofree uint64_t *bytes = g_new(uint64_t, options->count);

    sink->pid = helper_start(tap_process_name, &theirs, 1, error);
    if (sink->pid < 0 || !give_order(options, *fd, error) || !take_answer(sink, *fd, error))
        return FALSE;
    for (guint i = 0; i < options->count; i++)
        bytes[i] = options->disks[i].bytes;
    sink->socket = *fd;
    sink->reader = tap_reader_new(fd_steal(fd), bytes, options->count);
    return TRUE;
}

TapSink *tap_sink_start(const TapSinkOptions *options, GError **error)
{
    autofd int ours = -1, theirs = -1;
    TapSink *sink;
    int ends[2];

    if (!check_options(options, error))
        return NULL;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        error_set_errno(error, errno, "block tap: socketpair");
        return NULL;
    }
    ours = ends[0];
    theirs = ends[1];
    sink = g_new0(TapSink, 1);
    sink->count = options->count;
    sink->addresses = g_malloc0_n(options->count, sizeof *sink->addresses);
    if (start(sink, options, &ours, theirs, error))
        return sink;
    g_prefix_error(error, "block tap: ");
    fd_close(&ours);
    tap_sink_free(sink);
    return NULL;
}

/* The end of its socket is its order to end. */
void tap_sink_free(TapSink *sink)
{
    if (!sink)
        return;
    tap_reader_free(sink->reader);
    if (sink->pid > 0 && !helper_wait(sink->pid, END_MS)) {
        kill(sink->pid, SIGKILL);
        helper_wait(sink->pid, -1);
    }
    g_free(sink->addresses);
    g_free(sink);
}

pid_t tap_sink_get_pid(const TapSink *sink)
{
    return sink->pid;
}

const char *tap_sink_get_address(const TapSink *sink, guint disk)
{
    return sink->addresses[disk];
}

int tap_sink_read(TapSink *sink, int timeout_ms, TapEvent *ret, GError **error)
{
    return tap_reader_next(sink->reader, timeout_ms, ret, error);
}

gboolean tap_sink_send_barrier(TapSink *sink, uint64_t number, GError **error)
{
    ssize_t sent = send(sink->socket, &number, sizeof number, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (sent == (ssize_t)sizeof number)
        return TRUE;
    if (sent < 0 && errno == EAGAIN)
        error_set(error, VMFERRY_ERROR_TIMEOUT, "block tap: its process does not answer");
    else
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "block tap: its process is gone");
    return FALSE;
}

void tap_sink_close(TapSink *sink)
{
    shutdown(sink->socket, SHUT_RDWR);
}

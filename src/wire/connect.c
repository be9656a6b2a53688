#include "wire/connect.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "wire/dns.h"
#include "wire/socket_wait.h"

/* What an errno of connect() means to a user. */
static void set_connect_error(GError **error, int errnum)
{
    if (errnum == ECONNREFUSED)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "Connection refused; is `vmferry agent` running there?");
    else if (errnum == ETIMEDOUT)
        error_set(error, VMFERRY_ERROR_TIMEOUT,
                  "no answer; is the host up, and does a firewall let the port through?");
    else
        error_set(error, vmferry_error_code_from_errno(errnum), "%s", g_strerror(errnum));
}

static gboolean finish_connect(int fd, uint64_t deadline_ns, int cancel_fd, GError **error)
{
    int errnum = 0;
    socklen_t length = sizeof errnum;

    switch (socket_wait(fd, POLLOUT, cancel_fd, deadline_ns)) {
    case SOCKET_WOKEN:
        error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
        return FALSE;
    case SOCKET_TIMED_OUT:
        set_connect_error(error, ETIMEDOUT);
        return FALSE;
    case SOCKET_READY:
        break;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &length) < 0)
        errnum = errno;
    if (errnum != 0)
        set_connect_error(error, errnum);
    return errnum == 0;
}

static int connect_one(const struct sockaddr_storage *address, const ConnectRequest *request,
                       uint64_t deadline_ns, GError **error)
{
    int segment = (int)request->segment_bytes;
    autofd int fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t length =
        address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);

    if (fd < 0) {
        set_connect_error(error, errno);
        return -1;
    }
    if (segment > 0 && setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment) < 0) {
        error_set_errno(error, errno, "TCP_MAXSEG");
        return -1;
    }
    if (connect(fd, (const struct sockaddr *)address, length) < 0 && errno != EINPROGRESS &&
        errno != EINTR) {
        set_connect_error(error, errno);
        return -1;
    }
    return finish_connect(fd, deadline_ns, request->cancel_fd, error) ? fd_steal(&fd) : -1;
}

/* Shares what is left of the time among the addresses still to be tried. */
static uint64_t share_of(uint64_t deadline_ns, guint addresses_left)
{
    uint64_t now = clock_now_ns();

    if (deadline_ns == SOCKET_WAIT_FOREVER || deadline_ns <= now)
        return deadline_ns;
    return now + (deadline_ns - now) / addresses_left;
}

int connect_socket(const ConnectRequest *request, GError **error)
{
    g_autoptr(GPtrArray) all =
        dns_look_up(request->address, request->deadline_ns, request->cancel_fd, error);
    int fd = -1;

    for (guint i = 0; all && fd < 0 && i < all->len; i++) {
        g_autoptr(GError) failure = NULL;

        fd = connect_one(all->pdata[i], request, share_of(request->deadline_ns, all->len - i),
                         &failure);
        if (fd < 0 && (i + 1 == all->len || error_is(failure, VMFERRY_ERROR_CANCELLED))) {
            g_propagate_error(error, g_steal_pointer(&failure));
            break;
        }
    }
    if (fd < 0)
        g_prefix_error(error, "cannot reach %s: ", request->address->label);
    return fd;
}

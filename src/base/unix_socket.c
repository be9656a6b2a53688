#include "base/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/net_namespace.h"

static gboolean fill_address(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    return g_strlcpy(address->sun_path, path, sizeof address->sun_path) < sizeof address->sun_path;
}

/* A long path is reached through a descriptor of its folder. */
static gboolean fill_long_address(struct sockaddr_un *address, const char *path, int *ret_folder,
                                  GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *name = g_path_get_basename(path);
    g_autofree char *through = NULL;

    *ret_folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*ret_folder < 0) {
        error_set_errno(error, errno, "open %s", folder);
        return FALSE;
    }
    through = g_strdup_printf("/proc/self/fd/%d/%s", *ret_folder, name);
    if (fill_address(address, through))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s: socket name is too long", path);
    return FALSE;
}

char *unix_socket_abstract(pid_t pid, const char *name, gboolean padded)
{
    return g_strdup_printf("/proc/%d/ns/net%c%s", (int)pid, padded ? '#' : '@', name);
}

/* The namespace file and the name of an abstract address; FALSE for a path. */
static gboolean split_abstract(const char *where, char **ret_netns, const char **ret_name)
{
    int digits = 0, end = 0;

    if (sscanf(where, "/proc/%*[0-9]%n/ns/net%n", &digits, &end) == EOF || end == 0 ||
        (where[end] != '@' && where[end] != '#'))
        return FALSE;
    *ret_netns = g_strndup(where, (gsize)end);
    *ret_name = where + end;
    return TRUE;
}

/* *name* begins with its mark. */
static gboolean fill_abstract(UnixAddress *ret, const char *netns, const char *name, GError **error)
{
    size_t length = strlen(name + 1);
    struct stat theirs, ours;

    if (length >= sizeof ret->address.sun_path) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: socket name is too long", name + 1);
        return FALSE;
    }
    ret->address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->address.sun_path + 1, name + 1, length);
    if (name[0] == '@')
        ret->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
    if (stat(netns, &theirs) == 0 && stat("/proc/self/ns/net", &ours) == 0 &&
        theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev)
        return TRUE;
    ret->netns = open(netns, O_RDONLY | O_CLOEXEC);
    if (ret->netns >= 0)
        return TRUE;
    error_set_errno(error, errno, "open %s", netns);
    return FALSE;
}

gboolean unix_address_resolve(const char *where, UnixAddress *ret, GError **error)
{
    g_autofree char *netns = NULL;
    const char *name;

    *ret = (UnixAddress){.length = sizeof ret->address, .folder = -1, .netns = -1};
    if (split_abstract(where, &netns, &name))
        return fill_abstract(ret, netns, name, error);
    return fill_address(&ret->address, where) ||
           fill_long_address(&ret->address, where, &ret->folder, error);
}

void unix_address_clear(UnixAddress *address)
{
    fd_close(&address->folder);
    fd_close(&address->netns);
}

static int make_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* *user*: an int, the descriptor or -errno. */
static void make_socket_there(gpointer user)
{
    int *fd = user;

    *fd = make_socket();
    if (*fd < 0)
        *fd = -errno;
}

/* A socket belongs to the namespace that it was made in. */
static int make_socket_for(const UnixAddress *address, GError **error)
{
    int fd = -1;

    if (address->netns < 0)
        make_socket_there(&fd);
    else if (!net_namespace_run(address->netns, make_socket_there, &fd, error))
        return -1;
    if (fd >= 0)
        return fd;
    error_set_errno(error, -fd, "socket");
    return -1;
}

/* Never waits: a listener whose queue is full is busy. */
static gboolean connect_now(int fd, const UnixAddress *address, const char *path, GError **error)
{
    while (connect(fd, (const struct sockaddr *)&address->address, address->length) < 0) {
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN)
            error_set(error, VMFERRY_ERROR_BUSY,
                      "socket %s is busy: others wait for it already, or its owner hangs", path);
        else
            error_set_errno(error, errno, "connect to %s", path);
        return FALSE;
    }
    return TRUE;
}

int unix_socket_connect(const char *path, GError **error)
{
    g_auto(UnixAddress) address = {.folder = -1, .netns = -1};
    autofd int fd = -1;

    if (!unix_address_resolve(path, &address, error))
        return -1;
    fd = make_socket_for(&address, error);
    if (fd < 0 || !connect_now(fd, &address, path, error))
        return -1;
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0) {
        error_set_errno(error, errno, "fcntl");
        return -1;
    }
    return fd_steal(&fd);
}

int unix_socket_listen(const char *where, int queue, GError **error)
{
    g_auto(UnixAddress) address = {.folder = -1, .netns = -1};
    autofd int fd = -1;

    if (!unix_address_resolve(where, &address, error))
        return -1;
    fd = make_socket_for(&address, error);
    if (fd < 0)
        return -1;
    if (bind(fd, (const struct sockaddr *)&address.address, address.length) == 0 &&
        listen(fd, queue) == 0)
        return fd_steal(&fd);
    error_set_errno(error, errno, "listen on %s", where);
    return -1;
}

gboolean unix_socket_in_use(const char *path)
{
    g_autoptr(GError) failure = NULL;
    autofd int fd = unix_socket_connect(path, &failure);

    return fd >= 0 || error_is(failure, VMFERRY_ERROR_BUSY);
}

/* The descriptor travels with the first bytes. */
static ssize_t send_some(int socket_fd, const char *data, size_t length, int passed_fd)
{
    char control[CMSG_SPACE(sizeof passed_fd)] = {0};
    struct iovec part = {.iov_base = (char *)data, .iov_len = length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (passed_fd >= 0) {
        struct cmsghdr *header;

        message.msg_control = control;
        message.msg_controllen = sizeof control;
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof passed_fd);
        memcpy(CMSG_DATA(header), &passed_fd, sizeof passed_fd);
    }
    return sendmsg(socket_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* A full buffer (the reader hangs) must not hold the caller past *deadline*. */
static gboolean wait_writable(int fd, gint64 deadline, GError **error)
{
    gint64 left_ms = (deadline - g_get_monotonic_time()) / 1000;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int ready = left_ms > 0 ? poll(&p, 1, (int)MIN(left_ms, G_MAXINT)) : 0;

    if (ready > 0 || (ready < 0 && errno == EINTR))
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "the other end does not read what is sent to it");
    return FALSE;
}

gboolean unix_socket_send(int fd, const char *data, size_t length, int passed_fd, gint64 deadline,
                          size_t *ret_sent, GError **error)
{
    *ret_sent = 0;
    while (*ret_sent < length) {
        ssize_t put =
            send_some(fd, data + *ret_sent, length - *ret_sent, *ret_sent == 0 ? passed_fd : -1);

        if (put >= 0) {
            *ret_sent += (size_t)put;
        } else if (errno == EAGAIN) {
            if (!wait_writable(fd, deadline, error))
                return FALSE;
        } else if (errno != EINTR) {
            error_set(error, VMFERRY_ERROR_DISCONNECTED, "the other end has closed its socket: %s",
                      g_strerror(errno));
            return FALSE;
        }
    }
    return TRUE;
}

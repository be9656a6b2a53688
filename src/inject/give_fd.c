/*
 * Giving a descriptor to another process
 *
 * pidfd_getfd(2) only takes.  So the process makes a pair of sockets, we take
 * one end, send the descriptor through it, and the process receives it.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/error.h"
#include "base/fd.h"
#include "inject/inject.h"

/* What recvmsg(2) needs, as it lies in the process's memory. */
typedef struct {
    struct msghdr message;
    struct iovec part;
    char byte;
    char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
} Receiving;
G_STATIC_ASSERT(sizeof(Receiving) <= INJECT_SCRATCH_BYTES);

static gboolean call(Inject *inject, const char *what, long number, const uint64_t arguments[6],
                     int64_t *ret_value, GError **error)
{
    if (!inject_call(inject, number, arguments, ret_value, error))
        return FALSE;
    if (*ret_value >= 0)
        return TRUE;
    error_set_errno(error, (int)-*ret_value, "%s in process %d", what, (int)inject_get_pid(inject));
    return FALSE;
}

static void close_there(Inject *inject, int fd)
{
    int64_t ignored;

    inject_call(inject, SYS_close, (uint64_t[6]){(uint64_t)fd}, &ignored, NULL);
}

static gboolean make_pair(Inject *inject, int ret_pair[2], GError **error)
{
    const uint64_t arguments[6] = {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0,
                                   inject_get_scratch(inject)};
    int64_t value;

    return call(inject, "socketpair", SYS_socketpair, arguments, &value, error) &&
           inject_read_scratch(inject, ret_pair, 2 * sizeof(int), error);
}

static gboolean send_fd(int socket, int fd, GError **error)
{
    char control[CMSG_SPACE(sizeof fd)] __attribute__((aligned(8))) = {0};
    struct iovec part = {.iov_base = (char[1]){0}, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
        return TRUE;
    error_set_errno(error, errno, "send a descriptor");
    return FALSE;
}

/* The descriptor's number there; -1 with *error*. */
static int receive_there(Inject *inject, int socket, GError **error)
{
    uint64_t at = inject_get_scratch(inject);
    Receiving receiving = {
        .message = {.msg_iov = (void *)(uintptr_t)(at + G_STRUCT_OFFSET(Receiving, part)),
                    .msg_iovlen = 1,
                    .msg_control = (void *)(uintptr_t)(at + G_STRUCT_OFFSET(Receiving, control)),
                    .msg_controllen = sizeof receiving.control},
        .part = {(void *)(uintptr_t)(at + G_STRUCT_OFFSET(Receiving, byte)), 1},
    };
    const uint64_t arguments[6] = {(uint64_t)socket, at, MSG_CMSG_CLOEXEC | MSG_DONTWAIT};
    const struct cmsghdr *header = (const struct cmsghdr *)receiving.control;
    int64_t value;
    int fd;

    if (!inject_write_scratch(inject, &receiving, sizeof receiving, error) ||
        !call(inject, "recvmsg", SYS_recvmsg, arguments, &value, error) ||
        !inject_read_scratch(inject, &receiving, sizeof receiving, error))
        return -1;
    memcpy(&fd, receiving.control + CMSG_LEN(0), sizeof fd);
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS && fd >= 0)
        return fd;
    error_set(error, VMFERRY_ERROR_FAILED, "process %d did not take the descriptor",
              (int)inject_get_pid(inject));
    return -1;
}

static int pass_through(Inject *inject, const int pair[2], int fd, GError **error)
{
    autofd int ours = inject_take_fd(inject_get_pid(inject), pair[0], error);

    return ours >= 0 && send_fd(ours, fd, error) ? receive_there(inject, pair[1], error) : -1;
}

int inject_give_fd(Inject *inject, int fd, GError **error)
{
    int pair[2], given;

    if (!make_pair(inject, pair, error))
        return -1;
    given = pass_through(inject, pair, fd, error);
    close_there(inject, pair[0]);
    close_there(inject, pair[1]);
    return given;
}

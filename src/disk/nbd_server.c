#include "disk/nbd_server_private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/name.h"
#include "base/unix_socket.h"
#include "disk/nbd_protocol.h"

#define LISTEN_QUEUE 16
/* Of answers that the client does not take. */
#define UNSENT_MAX_BYTES (64u << 10)

enum { EVENT_WAKE, EVENT_SOCKET };

typedef struct {
    GList link; /* in *waiting* */
    uint64_t id, cookie;
    uint64_t since_ns;
} WaitingRequest;

/* ---- with the lock held ---- */

static gboolean watch(NbdServer *server, int fd, uint32_t events, guint what, GError **error)
{
    struct epoll_event event = {.events = events, .data.u32 = what};

    if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0)
        return TRUE;
    error_set_errno(error, errno, "epoll_ctl");
    return FALSE;
}

static void unwatch_and_close(NbdServer *server, int *fd)
{
    if (*fd >= 0)
        epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, *fd, NULL);
    fd_close(fd);
}

static void wake(NbdServer *server)
{
    eventfd_write(server->wake_fd, 1);
}

static void drop_unsent(NbdServer *server)
{
    g_byte_array_set_size(server->unsent, 0);
    server->unsent_from = 0;
    if (server->zeros_unsent)
        wake(server);
    server->zeros_unsent = FALSE;
}

static void forget_waiting(NbdServer *server)
{
    GList *link;

    while ((link = g_queue_pop_head_link(&server->waiting)))
        g_free(link->data);
}

/* The first one says why. */
static void close_locked(NbdServer *server, const GError *why)
{
    if (server->closed)
        return;
    server->closed = TRUE;
    server->why = why ? g_error_copy(why) : NULL;
    unwatch_and_close(server, &server->listen_fd);
    unwatch_and_close(server, &server->client_fd);
    drop_unsent(server);
    forget_waiting(server);
    wake(server);
}

static void update_interest(NbdServer *server)
{
    uint32_t interest = (server->want_input ? (uint32_t)EPOLLIN : 0) |
                        (server->unsent->len > 0 ? (uint32_t)EPOLLOUT : 0);
    struct epoll_event event = {.events = interest, .data.u32 = EVENT_SOCKET};

    if (server->client_fd < 0 || interest == server->interest)
        return;
    server->interest = interest;
    epoll_ctl(server->epoll_fd, EPOLL_CTL_MOD, server->client_fd, &event);
}

/* As much as the client takes now; all is dropped where it takes no more for ever. */
static void send_unsent(NbdServer *server)
{
    while (server->client_fd >= 0 && server->unsent->len > server->unsent_from) {
        ssize_t sent = send(server->client_fd, server->unsent->data + server->unsent_from,
                            server->unsent->len - server->unsent_from, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent < 0 && errno == EAGAIN)
            return;
        if (sent < 0 && errno != EINTR)
            break;
        if (sent > 0)
            server->unsent_from += (size_t)sent;
    }
    drop_unsent(server);
}

static void close_deaf_client(NbdServer *server)
{
    g_autoptr(GError) why = NULL;

    error_set(&why, VMFERRY_ERROR_TIMEOUT, "NBD client: does not take the answers to its requests");
    close_locked(server, why);
}

/* Where bytes to send are appended; what was sent already is cut off. */
static GByteArray *open_unsent(NbdServer *server)
{
    if (server->unsent_from > 0)
        g_byte_array_remove_range(server->unsent, 0, (guint)server->unsent_from);
    server->unsent_from = 0;
    return server->unsent;
}

static void flush_answers(NbdServer *server)
{
    size_t allowed = UNSENT_MAX_BYTES + (server->zeros_unsent ? NBD_MAX_REQUEST_BYTES : 0);

    send_unsent(server);
    if (server->unsent->len - server->unsent_from > allowed)
        close_deaf_client(server);
    update_interest(server);
}

static void append_reply(NbdServer *server, uint64_t cookie, int problem)
{
    GByteArray *unsent = open_unsent(server);

    byte_write_be32(unsent, NBD_SIMPLE_REPLY_MAGIC);
    byte_write_be32(unsent, (uint32_t)problem);
    byte_write_be64(unsent, cookie);
}

static gboolean check_open(NbdServer *server, GError **error)
{
    if (!server->closed)
        return TRUE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "closed");
    return FALSE;
}

static void set_gone(GError **error)
{
    error_set(error, VMFERRY_ERROR_DISCONNECTED, "is gone");
}

/* ---- the thread: waiting, receiving ---- */

static gboolean wait_for_events(NbdServer *server, uint32_t *ret_of_socket, GError **error)
{
    struct epoll_event events[2];
    int count = epoll_wait(server->epoll_fd, events, G_N_ELEMENTS(events), -1);

    *ret_of_socket = 0;
    if (count < 0 && errno != EINTR) {
        error_set_errno(error, errno, "epoll_wait");
        return FALSE;
    }
    for (int i = 0; i < count; i++) {
        eventfd_t times;

        if (events[i].data.u32 == EVENT_WAKE)
            eventfd_read(server->wake_fd, &times);
        else
            *ret_of_socket = events[i].events;
    }
    return TRUE;
}

/* Sends what is unsent meanwhile.  Where no input is wanted, epoll would report the client's end
 * over and over: that is the end. */
static gboolean wait_for_client(NbdServer *server, gboolean want_input, GError **error)
{
    uint32_t happened;

    g_mutex_lock(&server->lock);
    server->want_input = want_input;
    update_interest(server);
    g_mutex_unlock(&server->lock);
    if (!wait_for_events(server, &happened, error))
        return FALSE;
    lock_guard(&server->lock);
    if (!check_open(server, error))
        return FALSE;
    if (!want_input && (happened & (EPOLLHUP | EPOLLERR))) {
        set_gone(error);
        return FALSE;
    }
    if (happened & EPOLLOUT)
        flush_answers(server);
    return TRUE;
}

/* What is there already; 0 where nothing is, -1 with *error*. */
static ssize_t receive_some(NbdServer *server, uint8_t *buffer, size_t length, GError **error)
{
    lock_guard(&server->lock);
    ssize_t got;

    if (!check_open(server, error))
        return -1;
    got = recv(server->client_fd, buffer, length, MSG_DONTWAIT);
    if (got > 0)
        return got;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    set_gone(error);
    return -1;
}

gboolean nbd_receive(NbdServer *server, void *buffer, size_t length, GError **error)
{
    uint8_t *at = buffer;

    while (length > 0) {
        ssize_t got = receive_some(server, at, length, error);

        if (got < 0 || (got == 0 && !wait_for_client(server, TRUE, error)))
            return FALSE;
        at += got;
        length -= (size_t)got;
    }
    return TRUE;
}

static gboolean has_room(NbdServer *server)
{
    lock_guard(&server->lock);

    return !server->zeros_unsent && server->waiting.length < NBD_MAX_WAITING;
}

gboolean nbd_wait_for_room(NbdServer *server, GError **error)
{
    while (!has_room(server))
        if (!wait_for_client(server, FALSE, error))
            return FALSE;
    return TRUE;
}

/* ---- answers ---- */

void nbd_send(NbdServer *server, const GByteArray *bytes)
{
    lock_guard(&server->lock);

    byte_write_span(open_unsent(server), bytes->data, bytes->len);
    flush_answers(server);
}

void nbd_reply(NbdServer *server, uint64_t cookie, int problem)
{
    lock_guard(&server->lock);

    append_reply(server, cookie, problem);
    flush_answers(server);
}

void nbd_reply_zeros(NbdServer *server, uint64_t cookie, uint32_t length)
{
    lock_guard(&server->lock);
    guint before;

    append_reply(server, cookie, 0);
    before = server->unsent->len;
    g_byte_array_set_size(server->unsent, before + length);
    memset(server->unsent->data + before, 0, length);
    server->zeros_unsent = TRUE;
    flush_answers(server);
}

uint64_t nbd_await_answer(NbdServer *server, uint64_t cookie)
{
    WaitingRequest *request = g_new0(WaitingRequest, 1);
    lock_guard(&server->lock);

    request->link.data = request;
    request->id = ++server->last_id;
    request->cookie = cookie;
    request->since_ns = clock_now_ns();
    g_queue_push_tail_link(&server->waiting, &request->link);
    if (server->closed)
        forget_waiting(server);
    return server->last_id;
}

/* Few are waiting, and the oldest are answered first as a rule. */
static WaitingRequest *take_waiting(NbdServer *server, uint64_t id)
{
    for (GList *link = server->waiting.head; link; link = link->next) {
        WaitingRequest *request = link->data;

        if (request->id == id) {
            g_queue_unlink(&server->waiting, link);
            return request;
        }
    }
    return NULL;
}

/* As the protocol has it. */
static int known_problem(int problem)
{
    switch (problem) {
    case 0:
    case EPERM:
    case EIO:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EOVERFLOW:
    case ENOTSUP:
    case ESHUTDOWN:
        return problem;
    case EDQUOT:
    case EFBIG:
        return ENOSPC;
    case EACCES:
    case EROFS:
        return EPERM;
    default:
        return EIO;
    }
}

void nbd_server_answer(NbdServer *server, uint64_t id, int problem)
{
    lock_guard(&server->lock);
    g_autofree WaitingRequest *request = take_waiting(server, id);

    if (!request)
        return;
    if (server->waiting.length == NBD_MAX_WAITING - 1)
        wake(server);
    append_reply(server, request->cookie, known_problem(problem));
    flush_answers(server);
}

uint64_t nbd_server_get_wait_ns(NbdServer *server)
{
    lock_guard(&server->lock);
    const WaitingRequest *oldest = g_queue_peek_head(&server->waiting);

    return oldest ? MAX(clock_now_ns() - oldest->since_ns, 1) : 0;
}

/* ---- the thread: from the first connection to the end ---- */

static gboolean is_welcome(NbdServer *server, int fd)
{
    struct ucred peer;
    socklen_t length = sizeof peer;

    return server->options.client == 0 ||
           (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
            peer.pid == server->options.client);
}

/* Takes *fd* in any case. */
static gboolean adopt_client(NbdServer *server, int fd, GError **error)
{
    server->client_fd = fd;
    server->want_input = TRUE;
    server->interest = EPOLLIN;
    return watch(server, fd, EPOLLIN, EVENT_SOCKET, error);
}

/* TRUE also where nobody is there yet. */
static gboolean accept_one(NbdServer *server, GError **error)
{
    lock_guard(&server->lock);
    autofd int fd = -1;

    if (!check_open(server, error))
        return FALSE;
    fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
            return TRUE;
        error_set_errno(error, errno, "accept");
        return FALSE;
    }
    if (!is_welcome(server, fd))
        return TRUE;
    unwatch_and_close(server, &server->listen_fd);
    return adopt_client(server, fd_steal(&fd), error);
}

static gboolean has_client(NbdServer *server)
{
    lock_guard(&server->lock);

    return server->client_fd >= 0;
}

static gboolean accept_client(NbdServer *server, GError **error)
{
    uint32_t happened;

    while (!has_client(server))
        if (!wait_for_events(server, &happened, error) || !accept_one(server, error))
            return FALSE;
    return TRUE;
}

/* TRUE where the client has left in order. */
static gboolean serve(NbdServer *server, GError **error)
{
    gboolean transmit;

    return accept_client(server, error) && nbd_handshake(server, &transmit, error) &&
           (!transmit || nbd_transmit(server, error));
}

static gpointer serve_thread(gpointer data)
{
    NbdServer *server = data;
    g_autoptr(GError) error = NULL;

    if (!serve(server, &error))
        g_prefix_error(&error, "NBD client: ");
    nbd_server_close(server, error);
    /* *why* does not change any more. */
    server->options.ended(server->why, server->options.user);
    return NULL;
}

void nbd_server_close(NbdServer *server, const GError *why)
{
    lock_guard(&server->lock);

    close_locked(server, why);
}

/* ---- start and end ---- */

static NbdServer *server_new(const NbdServerOptions *options)
{
    NbdServer *server = g_new0(NbdServer, 1);

    server->options = *options;
    server->options.export_name = g_strdup(options->export_name);
    server->epoll_fd = server->wake_fd = server->listen_fd = server->client_fd = -1;
    server->unsent = g_byte_array_new();
    g_queue_init(&server->waiting);
    g_mutex_init(&server->lock);
    return server;
}

static gboolean make_epoll(NbdServer *server, GError **error)
{
    server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (server->epoll_fd >= 0 && server->wake_fd >= 0)
        return watch(server, server->wake_fd, EPOLLIN, EVENT_WAKE, error);
    error_set_errno(error, errno, "NBD server: epoll_create1, eventfd");
    return FALSE;
}

/* An abstract name belongs to a network namespace: the client's. */
static gboolean start_listening(NbdServer *server, GError **error)
{
    pid_t client = server->options.client;
    g_autofree char *id = random_id_new();
    g_autofree char *where = NULL;

    server->address = server->options.address ? g_strdup(server->options.address)
                                              : g_strdup_printf("vmferry-%s", id);
    where = unix_socket_abstract(client != 0 ? client : getpid(), server->address, FALSE);
    server->listen_fd = unix_socket_listen(where, LISTEN_QUEUE, error);
    return server->listen_fd >= 0 && watch(server, server->listen_fd, EPOLLIN, EVENT_SOCKET, error);
}

static gboolean start_thread(NbdServer *server, GError **error)
{
    server->thread = g_thread_try_new("nbd-server", serve_thread, server, error);
    return server->thread != NULL;
}

NbdServer *nbd_server_start(const NbdServerOptions *options, GError **error)
{
    g_autoptr(NbdServer) server = server_new(options);

    if (make_epoll(server, error) && start_listening(server, error) && start_thread(server, error))
        return g_steal_pointer(&server);
    return NULL;
}

NbdServer *nbd_server_start_connected(const NbdServerOptions *options, int fd, GError **error)
{
    g_autoptr(NbdServer) server = server_new(options);

    server->client_fd = fd;
    if (make_epoll(server, error) && adopt_client(server, fd, error) && start_thread(server, error))
        return g_steal_pointer(&server);
    return NULL;
}

static void close_for_free(NbdServer *server)
{
    g_autoptr(GError) why = NULL;

    error_set(&why, VMFERRY_ERROR_CANCELLED, "NBD server: not needed any more");
    nbd_server_close(server, why);
}

void nbd_server_free(NbdServer *server)
{
    if (!server)
        return;
    if (server->epoll_fd >= 0 && server->wake_fd >= 0)
        close_for_free(server);
    if (server->thread)
        g_thread_join(server->thread);
    fd_close(&server->listen_fd);
    fd_close(&server->client_fd);
    fd_close(&server->epoll_fd);
    fd_close(&server->wake_fd);
    forget_waiting(server);
    g_byte_array_unref(server->unsent);
    g_clear_error(&server->why);
    g_mutex_clear(&server->lock);
    g_free(server->payload);
    g_free(server->address);
    g_free((char *)server->options.export_name);
    g_free(server);
}

const char *nbd_server_get_address(NbdServer *server)
{
    return server->address;
}

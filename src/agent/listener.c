#include "agent/listener.h"

#include <errno.h>
#include <glib-unix.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/resource.h>

#include "agent/settings.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"

#define LISTEN_BACKLOG 128
/* Descriptors that connections leave to moves under way and to the control socket. */
#define DESCRIPTORS_KEPT 256
/* Where the system gives none, it is asked again after that long. */
#define ACCEPT_PAUSE_MS 250

struct Listener {
    GMainContext *main;
    int fd;
    GSource *source; /* of the main loop: connections, or the end of a pause */
    ListenerServe serve;
    gpointer user;
};

/* Descriptors are given out from the lowest on. */
gboolean listener_may_take(int newest)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return TRUE;
    return (rlim_t)newest < limit.rlim_cur - MIN(DESCRIPTORS_KEPT, limit.rlim_cur / 2);
}

static gboolean on_connection(gint fd, GIOCondition condition, gpointer data);

static void set_source(Listener *listener, GSource *source, GSourceFunc function)
{
    if (listener->source) {
        g_source_destroy(listener->source);
        g_source_unref(listener->source);
    }
    listener->source = source;
    g_source_set_callback(source, function, listener, NULL);
    g_source_attach(source, listener->main);
}

static gboolean on_pause_over(gpointer data)
{
    Listener *listener = data;

    set_source(listener, g_unix_fd_source_new(listener->fd, G_IO_IN), G_SOURCE_FUNC(on_connection));
    return G_SOURCE_REMOVE;
}

/* The connection stays in the queue and keeps the listener readable. */
static gboolean lacks_means(int errnum)
{
    return errnum == EMFILE || errnum == ENFILE || errnum == ENOBUFS || errnum == ENOMEM;
}

static gboolean on_connection(gint listening, GIOCondition condition, gpointer data)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    Listener *listener = data;
    int fd = accept4(listening, (struct sockaddr *)&address, &length, SOCK_CLOEXEC);

    if (fd >= 0) {
        listener->serve(fd, (struct sockaddr *)&address, listener->user);
        return G_SOURCE_CONTINUE;
    }
    if (!lacks_means(errno))
        return G_SOURCE_CONTINUE;
    log_debug("accept: %s", g_strerror(errno));
    set_source(listener, g_timeout_source_new(ACCEPT_PAUSE_MS), on_pause_over);
    return G_SOURCE_REMOVE;
}

static int bind_address(const struct addrinfo *info)
{
    autofd int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1;

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
        return -1;
    return fd_steal(&fd);
}

static int open_port(const char *address, guint16 default_port, GError **error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *list = NULL;
    g_autofree char *service = NULL;
    g_autofree char *host = NULL;
    guint16 port;
    int fd, problem;

    if (!settings_split_address(address, default_port, &host, &port, error))
        return -1;
    service = g_strdup_printf("%u", port);
    problem = getaddrinfo(host, service, &hints, &list);
    if (problem) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "listen on %s: %s", address,
                  gai_strerror(problem));
        return -1;
    }
    fd = bind_address(list);
    if (fd < 0)
        error_set_errno(error, errno, "listen on %s (is another agent running?)", address);
    freeaddrinfo(list);
    return fd;
}

Listener *listener_new(GMainContext *main, const char *address, guint16 port, ListenerServe serve,
                       gpointer user, GError **error)
{
    int fd = open_port(address, port, error);
    Listener *listener;

    if (fd < 0)
        return NULL;
    listener = g_new0(Listener, 1);
    *listener = (Listener){.main = main, .fd = fd, .serve = serve, .user = user};
    on_pause_over(listener);
    return listener;
}

void listener_free(Listener *listener)
{
    if (!listener)
        return;
    g_source_destroy(listener->source);
    g_source_unref(listener->source);
    fd_close(&listener->fd);
    g_free(listener);
}

char *listener_describe(const Listener *listener)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(listener->fd, (struct sockaddr *)&address, &length) < 0 ||
        getnameinfo((struct sockaddr *)&address, length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return NULL;
    return g_strdup_printf(strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/*
 * A long, slow, lossy link between two taps
 *
 *     link_relay TAP TAP SOCKET SEED [LINE]…
 *
 * Carries frames between two tap devices of its network namespace, as a long way would: rate, delay,
 * jitter, loss, reordering, duplicates, a small MTU, breaks (settings.h says how they are written,
 * model.h what they mean).  Each LINE is done at the start; others come through SOCKET while it runs
 * (control.h).  Ends with SIGTERM or SIGINT.
 *
 * One thread.  While packets flow it looks every 100 us at what has come and what is due: a packet
 * arrives up to that much after its time, never before, and a wake-up serves several.  With nothing
 * to do it sleeps until the next packet comes or is due.  It runs at real-time priority where it may,
 * as a router does not wait for its hosts' programs; how late packets were is in its statistics.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "control.h"

#define TICK_NS 100000
#define BUFFERS 65536 /* packets, for each direction: 130 MB where all are under way */
#define CLIENTS 16

typedef struct {
    int taps[LINK_WAYS];
    int signals, timer, listener, epoll;
    int clients[CLIENTS];
    const char *socket_path;
    Way ways[LINK_WAYS];
} Relay;

static int open_tap(const char *name, GError **error)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    autofd int fd = -1;

    if (strlen(name) >= sizeof request.ifr_name) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a name of an interface", name);
        return -1;
    }
    strcpy(request.ifr_name, name);
    /* TUNSETIFF would make what is not there, and nobody would be at its other side. */
    if (if_nametoindex(name) == 0) {
        error_set_errno(error, errno, "tap %s", name);
        return -1;
    }
    fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETOFFLOAD, 0) < 0) {
        error_set_errno(error, errno, "tap %s", name);
        return -1;
    }
    return fd_steal(&fd);
}

static int open_listener(const char *path, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    autofd int fd = -1;

    if (strlen(path) >= sizeof address.sun_path) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: too long for a socket", path);
        return -1;
    }
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4) < 0) {
        error_set_errno(error, errno, "socket %s", path);
        return -1;
    }
    return fd_steal(&fd);
}

static int open_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static gboolean watch(Relay *relay, int fd, GError **error)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    if (fd >= 0 && epoll_ctl(relay->epoll, EPOLL_CTL_ADD, fd, &event) == 0)
        return TRUE;
    error_set_errno(error, errno, "epoll");
    return FALSE;
}

static gboolean parse_seed(const char *text, guint64 *ret, GError **error)
{
    if (g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT64, ret, NULL))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a seed: write a number", text);
    return FALSE;
}

static gboolean do_lines(Relay *relay, char **lines, GError **error)
{
    for (; *lines; lines++) {
        json_t *answer = control_answer(relay->ways, *lines, clock_now_ns(), error);

        if (!answer)
            return FALSE;
        json_decref(answer);
    }
    return TRUE;
}

static void init(Relay *relay)
{
    relay->signals = relay->timer = relay->listener = relay->epoll = -1;
    for (guint i = 0; i < LINK_WAYS; i++)
        relay->taps[i] = -1;
    for (guint i = 0; i < CLIENTS; i++)
        relay->clients[i] = -1;
}

static gboolean open_all(Relay *relay, char **argv, GError **error)
{
    guint64 seed;

    if (!parse_seed(argv[3], &seed, error))
        return FALSE;
    for (guint i = 0; i < LINK_WAYS; i++) {
        relay->taps[i] = open_tap(argv[i], error);
        if (relay->taps[i] < 0)
            return FALSE;
    }
    for (guint i = 0; i < LINK_WAYS; i++)
        way_init(&relay->ways[i], relay->taps[i], relay->taps[!i], seed, i, BUFFERS);
    if (!do_lines(relay, argv + 4, error))
        return FALSE;
    relay->epoll = epoll_create1(EPOLL_CLOEXEC);
    relay->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    relay->signals = open_signals();
    /* Last: whoever sees it may give orders. */
    relay->listener = open_listener(argv[2], error);
    if (relay->listener < 0)
        return FALSE;
    relay->socket_path = argv[2];
    return watch(relay, relay->taps[0], error) && watch(relay, relay->taps[1], error) &&
           watch(relay, relay->timer, error) && watch(relay, relay->signals, error) &&
           watch(relay, relay->listener, error);
}

static void close_all(Relay *relay)
{
    if (relay->socket_path)
        unlink(relay->socket_path);
    for (guint i = 0; i < CLIENTS; i++)
        fd_close(&relay->clients[i]);
    for (guint i = 0; i < LINK_WAYS; i++) {
        way_clear(&relay->ways[i]);
        fd_close(&relay->taps[i]);
    }
    fd_close(&relay->listener);
    fd_close(&relay->signals);
    fd_close(&relay->timer);
    fd_close(&relay->epoll);
}

static void accept_client(Relay *relay)
{
    autofd int client = accept4(relay->listener, NULL, NULL, SOCK_CLOEXEC);

    for (guint i = 0; client >= 0 && i < CLIENTS; i++) {
        if (relay->clients[i] < 0 && watch(relay, client, NULL))
            relay->clients[i] = fd_steal(&client);
    }
}

static void serve_client(Relay *relay, int fd)
{
    for (guint i = 0; i < CLIENTS; i++) {
        if (relay->clients[i] == fd && !control_serve(fd, relay->ways))
            fd_close(&relay->clients[i]);
    }
}

static void set_timer(Relay *relay, guint64 at_ns)
{
    struct itimerspec at = {0};

    if (at_ns != G_MAXUINT64) {
        at.it_value.tv_sec = (time_t)(at_ns / LINK_NS_PER_S);
        at.it_value.tv_nsec = (long)(at_ns % LINK_NS_PER_S);
    }
    timerfd_settime(relay->timer, TFD_TIMER_ABSTIME, &at, NULL);
}

/* Does what is asked for, after *timeout_ms* at most (-1: when there is something); FALSE: to end. */
static gboolean serve(Relay *relay, int timeout_ms)
{
    struct epoll_event events[8];
    int count = epoll_wait(relay->epoll, events, G_N_ELEMENTS(events), timeout_ms);

    for (int i = 0; i < count; i++) {
        int fd = events[i].data.fd;

        if (fd == relay->signals)
            return FALSE;
        if (fd == relay->listener)
            accept_client(relay);
        else
            serve_client(relay, fd);
    }
    return TRUE;
}

/* TRUE where there was anything. */
static gboolean carry(Relay *relay)
{
    guint64 now_ns = clock_now_ns();
    guint count = 0;

    for (guint i = 0; i < LINK_WAYS; i++)
        count += way_read(&relay->ways[i], now_ns);
    for (guint i = 0; i < LINK_WAYS; i++)
        count += way_deliver(&relay->ways[i], now_ns);
    return count > 0;
}

/* Waits for the next tick while packets flow, else for the next packet. */
static gboolean wait_for_work(Relay *relay, gboolean busy)
{
    if (busy) {
        clock_sleep_ns(TICK_NS);
        return serve(relay, 0);
    }
    set_timer(relay, MIN(way_next_ns(&relay->ways[LINK_FORWARD]),
                         way_next_ns(&relay->ways[LINK_BACKWARD])));
    return serve(relay, -1);
}

static void get_priority(void)
{
    struct sched_param param = {.sched_priority = 1};

    prctl(PR_SET_TIMERSLACK, 1);
    if (sched_setscheduler(0, SCHED_RR, &param) < 0)
        fprintf(stderr, "link_relay: no real-time priority (%s): packets may be late\n",
                g_strerror(errno));
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    Relay relay = {0};
    gboolean good;

    if (argc < 5) {
        fprintf(stderr, "usage: link_relay TAP TAP SOCKET SEED [LINE]...\n");
        return 2;
    }
    init(&relay);
    good = open_all(&relay, argv + 1, &error);
    if (good) {
        get_priority();
        while (wait_for_work(&relay, carry(&relay))) {
        }
    } else {
        fprintf(stderr, "link_relay: %s\n", error->message);
    }
    close_all(&relay);
    return good ? 0 : 1;
}

#include "net/tap_plug.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/process.h"
#include "base/net_namespace.h"
#include "net/traffic_control.h"

#define PREFIX "vmferry"
#define KIND "ifb"
#define ALIAS_FORMAT "vmferry: output of process %d.%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
#define POLL_NS 1000000u

struct TapPlug {
    TrafficSocket *socket;
    int packets;  /* sees what the tap interface receives */
    int tap, ifb; /* interfaces */
    uint32_t handle;
    uint64_t waiting; /* the epoch of the last cut, while it is not released; 0: none */
    pid_t vmm;
    uint64_t vmm_start;
};

/* ---- names ---- */

typedef struct {
    char name[IFNAMSIZ];
    int name_space;
} TapInterface;

static void tap_interface_clear(TapInterface *tap)
{
    fd_close(&tap->name_space);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TapInterface, tap_interface_clear)

static gboolean read_tap(int fd, TapInterface *ret, GError **error)
{
    struct ifreq request = {0};

    *ret = (TapInterface){.name_space = -1};
    if (ioctl(fd, TUNGETIFF, &request) < 0) {
        error_set_errno(error, errno, "ask for a tap interface's name");
        return FALSE;
    }
    g_strlcpy(ret->name, request.ifr_name, sizeof ret->name);
    ret->name_space = ioctl(fd, TUNGETDEVNETNS);
    if (ret->name_space < 0)
        error_set_errno(error, errno, "ask for the network namespace of %s", ret->name);
    return ret->name_space >= 0;
}

/* At most IFNAMSIZ - 1 characters. */
static void name_ifb(int tap, char name[IFNAMSIZ])
{
    (void)snprintf(name, IFNAMSIZ, PREFIX "%x", (unsigned)tap);
}

/* The number of the tap interface, 0: not one of ours. */
static int read_name(const char *name)
{
    guint64 number;

    if (!g_str_has_prefix(name, PREFIX) ||
        !g_ascii_string_to_unsigned(name + strlen(PREFIX), 16, 1, G_MAXINT, &number, NULL))
        return 0;
    return (int)number;
}

/* A pid means something in its namespace only. */
static uint64_t get_pid_namespace(void)
{
    struct stat ours;

    return stat("/proc/self/ns/pid", &ours) == 0 ? ours.st_ino : 0;
}

static gboolean has_ended(const char *alias)
{
    int pid;
    guint64 start, pid_namespace;

    return alias && sscanf(alias, ALIAS_FORMAT, &pid, &start, &pid_namespace) == 3 &&
           pid_namespace == get_pid_namespace() && !process_is_same(pid, start);
}

/* Of an interface in the network namespace of the caller's thread. */
static gboolean is_left(const TrafficLink *link)
{
    int tap = read_name(link->name);
    char name[IF_NAMESIZE];

    return tap && (!if_indextoname((unsigned)tap, name) || has_ended(link->alias));
}

/* ---- taking out ---- */

static gboolean bear_absence(gboolean done, GError *failure, GError **error)
{
    if (done)
        return TRUE;
    if (error_is(failure, VMFERRY_ERROR_NOT_FOUND)) {
        g_error_free(failure);
        return TRUE;
    }
    g_propagate_error(error, failure);
    return FALSE;
}

static gboolean remove_ingress(TrafficSocket *socket, int tap, GError **error)
{
    GError *failure = NULL;
    gboolean done = traffic_remove_ingress(socket, tap, &failure);

    return bear_absence(done, failure, error);
}

static gboolean remove_ifb(TrafficSocket *socket, int ifb, GError **error)
{
    GError *failure = NULL;
    gboolean done = traffic_remove_link(socket, ifb, &failure);

    return bear_absence(done, failure, error);
}

/* The ingress first: where there is an ifb interface of ours it is ours, too. */
static gboolean take_out(TrafficSocket *socket, int tap, int ifb, GError **error)
{
    return remove_ingress(socket, tap, error) && remove_ifb(socket, ifb, error);
}

static void sweep(TrafficSocket *socket)
{
    g_autoptr(GError) problem = NULL;
    g_autoptr(GPtrArray) links = traffic_list_links(socket, KIND, &problem);

    for (guint i = 0; links && i < links->len; i++) {
        const TrafficLink *link = links->pdata[i];

        if (is_left(link) && !take_out(socket, read_name(link->name), link->index, &problem))
            break;
    }
    if (problem)
        log_warning("what held a guest's output is left: %s", problem->message);
}

void tap_plug_sweep(void)
{
    g_autoptr(TrafficSocket) socket = traffic_connect(NULL);

    if (socket)
        sweep(socket);
}

/* ---- in the tap interface's network namespace ---- */

typedef struct {
    const char *name; /* of the tap interface */
    gboolean (*work)(TrafficSocket *socket, const TrafficLink *tap, gpointer user, GError **error);
    gpointer user;
    gboolean done;
    GError *error;
} Visit;

static void visit(gpointer user)
{
    Visit *visit = user;
    g_autoptr(TrafficSocket) socket = traffic_connect(&visit->error);
    g_autoptr(TrafficLink) tap =
        socket ? traffic_find_link(socket, visit->name, &visit->error) : NULL;

    visit->done = tap && visit->work(socket, tap, visit->user, &visit->error);
}

static gboolean
work_at_tap(int tap_fd, gboolean (*work)(TrafficSocket *, const TrafficLink *, gpointer, GError **),
            gpointer user, GError **error)
{
    g_auto(TapInterface) tap = {.name_space = -1};
    Visit job = {.name = tap.name, .work = work, .user = user};

    if (!read_tap(tap_fd, &tap, error) || !net_namespace_run(tap.name_space, visit, &job, error))
        return FALSE;
    if (!job.done)
        g_propagate_prefixed_error(error, job.error, "interface %s: ", tap.name);
    return job.done;
}

/* NULL without *error*: none is there. */
static TrafficLink *find_ifb(TrafficSocket *socket, int tap, GError **error)
{
    GError *failure = NULL;
    char name[IFNAMSIZ];
    TrafficLink *link;

    name_ifb(tap, name);
    link = traffic_find_link(socket, name, &failure);
    if (!link)
        (void)bear_absence(FALSE, failure, error);
    return link;
}

static gboolean remove_from(TrafficSocket *socket, const TrafficLink *tap, gpointer user,
                            GError **error)
{
    GError *failure = NULL;
    g_autoptr(TrafficLink) ifb = find_ifb(socket, tap->index, &failure);

    if (ifb)
        return take_out(socket, tap->index, ifb->index, error);
    if (!failure)
        return TRUE;
    g_propagate_error(error, failure);
    return FALSE;
}

gboolean tap_plug_remove(int tap_fd, GError **error)
{
    return work_at_tap(tap_fd, remove_from, NULL, error);
}

/* ---- what can be held ---- */

/* An ifb interface whose own input would be plugged. */
static gboolean try_all(TrafficSocket *socket, GError **error)
{
    g_autoptr(TrafficLink) ifb = NULL;

    if (!traffic_make_ifb(socket, PREFIX, error))
        return FALSE;
    ifb = traffic_find_link(socket, PREFIX, error);
    return ifb && traffic_put_plug(socket, ifb->index, 1, error) &&
           traffic_add_ingress(socket, ifb->index, error) &&
           traffic_add_redirect(socket, ifb->index, ifb->index, error);
}

static void probe(gpointer user)
{
    GError **error = user;
    g_autoptr(TrafficSocket) socket = traffic_connect(error);

    if (socket)
        (void)try_all(socket, error);
}

gboolean tap_plug_probe(GError **error)
{
    GError *failure = NULL;

    if (!net_namespace_run(NET_NAMESPACE_FRESH, probe, &failure, error))
        return FALSE;
    if (failure)
        g_propagate_error(error, failure);
    return !failure;
}

static gboolean refuse_others(GError **error)
{
    error_set(
        error, VMFERRY_ERROR_REFUSED,
        "another program classifies what it receives (an ingress or clsact queueing discipline: a "
        "rate limit?)");
    return FALSE;
}

/* Whether the ingress is free is seen by making one. */
static gboolean check_there(TrafficSocket *socket, const TrafficLink *tap, gpointer user,
                            GError **error)
{
    GError *failure = NULL;
    g_autoptr(TrafficLink) ifb = NULL;

    sweep(socket);
    ifb = find_ifb(socket, tap->index, &failure);
    if (ifb)
        return TRUE;
    if (!failure && traffic_add_ingress(socket, tap->index, &failure))
        return remove_ingress(socket, tap->index, error);
    if (error_is(failure, VMFERRY_ERROR_EXISTS)) {
        g_error_free(failure);
        return refuse_others(error);
    }
    g_propagate_error(error, failure);
    return FALSE;
}

gboolean tap_plug_check(int tap_fd, GError **error)
{
    return tap_plug_probe(error) && work_at_tap(tap_fd, check_there, NULL, error);
}

/* ---- beginning ---- */

/* One byte of the first packets, and none of the others until these are drained.  What the guest receives
 * is not of interest. */
static gboolean open_packets(TapPlug *plug, GError **error)
{
    struct sock_filter one_byte = BPF_STMT(BPF_RET | BPF_K, 1);
    struct sock_fprog program = {.len = 1, .filter = &one_byte};
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = plug->tap};
    int one = 1, least = 0;

    plug->packets = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (plug->packets >= 0 &&
        setsockopt(plug->packets, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0 &&
        setsockopt(plug->packets, SOL_SOCKET, SO_RCVBUF, &least, sizeof least) == 0 &&
        setsockopt(plug->packets, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) == 0 &&
        bind(plug->packets, (struct sockaddr *)&address, sizeof address) == 0)
        return TRUE;
    error_set_errno(error, errno, "see what it receives");
    return FALSE;
}

static gboolean name_owner(const TapPlug *plug, GError **error)
{
    g_autofree char *alias =
        g_strdup_printf(ALIAS_FORMAT, (int)plug->vmm, plug->vmm_start, get_pid_namespace());

    return traffic_set_alias(plug->socket, plug->ifb, alias, error);
}

/* An ifb interface that is there was left by an owner that died. */
static gboolean make_ifb(TapPlug *plug, gboolean *ret_left, GError **error)
{
    GError *failure = NULL;
    g_autoptr(TrafficLink) ifb = find_ifb(plug->socket, plug->tap, &failure);
    char name[IFNAMSIZ];

    *ret_left = ifb != NULL;
    name_ifb(plug->tap, name);
    if (!ifb && !failure && traffic_make_ifb(plug->socket, name, &failure))
        ifb = traffic_find_link(plug->socket, name, &failure);
    if (ifb)
        plug->ifb = ifb->index;
    else
        g_propagate_error(error, failure);
    return ifb != NULL;
}

/* The ingress of one that was left is ours. */
static gboolean add_ingress(TapPlug *plug, gboolean left, GError **error)
{
    GError *failure = NULL;

    if (traffic_add_ingress(plug->socket, plug->tap, &failure))
        return TRUE;
    if (error_is(failure, VMFERRY_ERROR_EXISTS)) {
        g_error_free(failure);
        return left || refuse_others(error);
    }
    g_propagate_error(error, failure);
    return FALSE;
}

/* The redirection last: until then what the guest sends is not touched.  Where that fails one that was left
 * stays, and nothing passes. */
static gboolean put_in(TapPlug *plug, uint32_t limit_bytes, GError **error)
{
    gboolean left, ours;

    if (!make_ifb(plug, &left, error))
        return FALSE;
    plug->handle =
        name_owner(plug, error) ? traffic_put_plug(plug->socket, plug->ifb, limit_bytes, error) : 0;
    ours = plug->handle && traffic_set_up(plug->socket, plug->ifb, error) &&
           add_ingress(plug, left, error);
    if (ours && traffic_add_redirect(plug->socket, plug->tap, plug->ifb, error))
        return TRUE;
    if (ours && !left)
        (void)remove_ingress(plug->socket, plug->tap, NULL);
    if (!left)
        (void)remove_ifb(plug->socket, plug->ifb, NULL);
    return FALSE;
}

typedef struct {
    TapPlug *plug;
    uint32_t limit_bytes;
} Beginning;

static gboolean begin_there(TrafficSocket *socket, const TrafficLink *tap, gpointer user,
                            GError **error)
{
    Beginning *beginning = user;
    TapPlug *plug = beginning->plug;

    sweep(socket);
    plug->tap = tap->index;
    plug->socket = traffic_connect(error);
    return plug->socket && open_packets(plug, error) && put_in(plug, beginning->limit_bytes, error);
}

TapPlug *tap_plug_begin(int tap_fd, pid_t vmm, uint32_t limit_bytes, GError **error)
{
    TapPlug *plug = g_new0(TapPlug, 1);
    Beginning beginning = {plug, limit_bytes};

    plug->packets = -1;
    plug->vmm = vmm;
    if (process_get_start_time(vmm, &plug->vmm_start, error) &&
        work_at_tap(tap_fd, begin_there, &beginning, error))
        return plug;
    /* Nothing is there. */
    plug->ifb = 0;
    tap_plug_free(plug);
    return NULL;
}

/* ---- epochs ---- */

gboolean tap_plug_cut(TapPlug *plug, uint64_t epoch, GError **error)
{
    if (plug->waiting)
        return TRUE;
    if (!traffic_command_plug(plug->socket, plug->ifb, plug->handle, TRAFFIC_PLUG_CUT, error))
        return FALSE;
    plug->waiting = epoch;
    return TRUE;
}

gboolean tap_plug_release(TapPlug *plug, uint64_t epoch, GError **error)
{
    if (!plug->waiting || plug->waiting > epoch)
        return TRUE;
    if (!traffic_command_plug(plug->socket, plug->ifb, plug->handle, TRAFFIC_PLUG_RELEASE, error))
        return FALSE;
    plug->waiting = 0;
    return TRUE;
}

gboolean tap_plug_pass(TapPlug *plug, GError **error)
{
    return traffic_command_plug(plug->socket, plug->ifb, plug->handle, TRAFFIC_PLUG_PASS, error);
}

/* ---- what comes ---- */

int tap_plug_get_fd(const TapPlug *plug)
{
    return plug->packets;
}

gboolean tap_plug_drain(TapPlug *plug)
{
    gboolean any = FALSE;
    char byte;

    while (recv(plug->packets, &byte, sizeof byte, MSG_DONTWAIT | MSG_TRUNC) >= 0)
        any = TRUE;
    return any;
}

/* ---- the end ---- */

static gboolean is_through(TapPlug *plug, const char *name)
{
    g_autoptr(TrafficLink) ifb = NULL;
    uint32_t queued = 0;

    if (!traffic_count_queued(plug->socket, plug->ifb, &queued, NULL))
        return TRUE;
    ifb = queued == 0 ? traffic_find_link(plug->socket, name, NULL) : NULL;
    return ifb && ifb->under_way == 0;
}

static void await_through(TapPlug *plug)
{
    uint64_t deadline = clock_now_ns() + TAP_PLUG_END_MS * UINT64_C(1000000);
    char name[IFNAMSIZ];

    name_ifb(plug->tap, name);
    while (!is_through(plug, name) && clock_now_ns() < deadline)
        clock_sleep_ns(POLL_NS);
}

/* First all that waits, then what came until the redirection was gone. */
gboolean tap_plug_end(TapPlug *plug, GError **error)
{
    await_through(plug);
    if (!remove_ingress(plug->socket, plug->tap, error))
        return FALSE;
    await_through(plug);
    if (!remove_ifb(plug->socket, plug->ifb, error))
        return FALSE;
    plug->ifb = 0;
    return TRUE;
}

void tap_plug_free(TapPlug *plug)
{
    if (!plug)
        return;
    if (plug->ifb && !process_is_same(plug->vmm, plug->vmm_start))
        (void)take_out(plug->socket, plug->tap, plug->ifb, NULL);
    if (plug->socket)
        nl_socket_free(plug->socket);
    fd_close(&plug->packets);
    g_free(plug);
}

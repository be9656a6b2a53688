/*
 * Holding what a network card sends: a pair of filters of QEMU
 *
 * Theory of operation: filters stand in a row between a card and its back end.  Two of the kind
 * filter-redirector, at the card's side of it:
 *
 *     guest ──► divert ── character device "out" ══ socket ══► us
 *                                                               │
 *     network ◄── filters of others ◄── inject ◄── "in" ◄═══════┘
 *
 * The row is run from its tail for what the guest sends, so that the diverter is inserted *behind*
 * the injector; the other way round each packet would come back for ever.  Filters of other
 * programs see what was released, and no packet before that.
 *
 * Each command puts in or takes out one filter at once, in QEMU's main loop, where no packet is
 * under way between two filters.  The diverter comes last and goes first.
 *
 * The sockets are pairs that we make; QEMU is handed one end.  It writes with its big lock held,
 * and waits while the socket is full.  Its answer to the command that puts in the diverter comes
 * before that, so that the caller gets to reading.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/unix_socket.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/hold_traces.h"
#include "vmm/qemu/machine.h"

#define POLL_NS 2000000u
/* Of one that was left: that QEMU has seen its end. */
#define GONE_MS 500
/* A QEMU that does not answer for so long may be waiting for whoever holds its output. */
#define END_COMMAND_MS 3000
/* Numbers of holds that are tried then. */
#define YANK_NUMBERS 16u
/* A small packet takes 2 KiB of a socket's memory. */
#define SOCKET_BYTES (8 << 20)

/* ---- what can be held ---- */

/* QEMU looks at the back end first, so that a filter which lacks what it needs tells by the error
 * whether the back end is the matter.  Nothing is made. */
static char *find_obstacle(Qmp *qmp, const char *id, GError **error)
{
    static const char accepted[] = "'indev' or 'outdev'", says[] = "QEMU says: ";
    g_autoptr(GError) failure = NULL;
    json_t *arguments = json_pack("{s:s, s:s, s:s, s:s}", "qom-type", "filter-redirector", "id",
                                  QEMU_HOLD_PREFIX "probe", "netdev", id, "queue", "rx");

    if (qmp_run(qmp, "object-add", arguments, QMP_COMMAND_MS, &failure)) {
        (void)qmp_run(qmp, "object-del", json_pack("{s:s}", "id", QEMU_HOLD_PREFIX "probe"),
                      QMP_COMMAND_MS, NULL);
        return NULL;
    }
    if (strstr(failure->message, accepted))
        return NULL;
    if (strstr(failure->message, says))
        return g_strdup(strstr(failure->message, says) + strlen(says));
    g_propagate_error(error, g_steal_pointer(&failure));
    return NULL;
}

typedef struct {
    Qmp *qmp;
    GPtrArray *nics;
    GError *error;
} NicLister;

static void list_nic(QemuDevice *device, gpointer user)
{
    NicLister *lister = user;
    const char *id = g_hash_table_lookup(device->properties, "netdev");
    VmmNic *nic;

    if (!id || lister->error)
        return;
    nic = g_new0(VmmNic, 1);
    nic->device = device_describe(device);
    g_ptr_array_add(lister->nics, nic);
    if (!*id) {
        nic->obstacle = g_strdup("it is connected to nothing");
        return;
    }
    nic->id = g_strdup(id);
    nic->obstacle = find_obstacle(lister->qmp, id, &lister->error);
}

GPtrArray *qemu_list_nics(QemuVmm *qemu, GError **error)
{
    g_autofree char *text = qmp_execute_human(qemu->qmp, "info qtree", QMP_COMMAND_MS, error);
    g_autoptr(QemuBus) devices = text ? device_tree_parse(text, error) : NULL;
    g_autoptr(GPtrArray) nics = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_nic_free);
    NicLister lister = {.qmp = qemu->qmp, .nics = nics};

    if (!devices)
        return NULL;
    device_tree_visit(devices, list_nic, &lister);
    if (!lister.error)
        return g_steal_pointer(&nics);
    g_propagate_prefixed_error(error, lister.error, "list network cards: ");
    return NULL;
}

/* ---- what is there of a hold ---- */

static gboolean find_traces(Qmp *qmp, const char *name, GArray **ret, GError **error)
{
    g_autoptr(json_t) objects =
        qmp_execute(qmp, "qom-list", json_pack("{s:s}", "path", "/objects"), END_COMMAND_MS, error);
    g_autoptr(json_t) chardevs =
        objects ? qmp_execute(qmp, "query-chardev", NULL, END_COMMAND_MS, error) : NULL;

    if (!chardevs)
        return FALSE;
    *ret = qemu_hold_find(objects, chardevs, name);
    return TRUE;
}

static gboolean is_connected(const GArray *traces, QemuHoldPart part)
{
    for (guint i = 0; i < traces->len; i++) {
        const QemuHoldTrace *trace = &g_array_index(traces, QemuHoldTrace, i);

        if (trace->part == part && trace->connected)
            return TRUE;
    }
    return FALSE;
}

/* Waits until QEMU has read the ends of these character devices, and with that all that came
 * before; *ret: it has. */
static gboolean await_ends(Qmp *qmp, const char *name, QemuHoldPart part, int timeout_ms,
                           gboolean *ret, GError **error)
{
    uint64_t deadline = clock_now_ns() + (uint64_t)timeout_ms * 1000000u;

    do {
        g_autoptr(GArray) traces = NULL;

        if (!find_traces(qmp, name, &traces, error))
            return FALSE;
        *ret = !is_connected(traces, part);
        if (*ret)
            return TRUE;
        clock_sleep_ns(POLL_NS);
    } while (clock_now_ns() < deadline);
    return TRUE;
}

/* Those of numbers from *first* to *last*. */
static gboolean remove_parts(Qmp *qmp, const char *name, const GArray *traces, QemuHoldPart part,
                             guint first, guint last, GError **error)
{
    gboolean object = part == HOLD_DIVERT || part == HOLD_INJECT;

    for (guint i = 0; i < traces->len; i++) {
        const QemuHoldTrace *trace = &g_array_index(traces, QemuHoldTrace, i);
        g_autofree char *id = qemu_hold_part(name, trace->number, part);

        if (trace->part == part && trace->number >= first && trace->number <= last &&
            !qmp_run(qmp, object ? "object-del" : "chardev-remove", json_pack("{s:s}", "id", id),
                     END_COMMAND_MS, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean remove_all(Qmp *qmp, const char *name, const GArray *traces, guint first,
                           guint last, GError **error)
{
    for (guint part = 0; part < HOLD_PARTS; part++)
        if (!remove_parts(qmp, name, traces, (QemuHoldPart)part, first, last, error))
            return FALSE;
    return TRUE;
}

/* ---- begin ---- */

static void enlarge(int fd)
{
    int bytes = SOCKET_BYTES;

    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

static gboolean add_chardev(Qmp *qmp, const char *id, json_t *address, GError **error)
{
    json_t *backend =
        json_pack("{s:s, s:{s:o, s:b}}", "type", "socket", "data", "addr", address, "server", 0);

    return qmp_run(qmp, "chardev-add", json_pack("{s:s, s:o}", "id", id, "backend", backend),
                   QMP_COMMAND_MS, error);
}

/* QEMU's end is taken by the character device, or closed again. */
static int add_handed(Qmp *qmp, const char *id, GError **error)
{
    int pair[2];
    autofd int ours = -1, theirs = -1;
    g_autoptr(json_t) reply = NULL;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        error_set_errno(error, errno, "socketpair");
        return -1;
    }
    ours = pair[0];
    theirs = pair[1];
    enlarge(theirs);
    reply = qmp_execute_fd(qmp, "getfd", json_pack("{s:s}", "fdname", id), theirs, QMP_COMMAND_MS,
                           error);
    if (!reply)
        return -1;
    if (add_chardev(qmp, id, json_pack("{s:s, s:{s:s}}", "type", "fd", "data", "str", id), error))
        return fd_steal(&ours);
    (void)qmp_run(qmp, "closefd", json_pack("{s:s}", "fdname", id), QMP_COMMAND_MS, NULL);
    return -1;
}

static int accept_qemu(int listener, pid_t pid, GError **error)
{
    autofd int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    struct ucred peer = {0};
    socklen_t length = sizeof peer;

    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
        error_set_errno(error, errno, "accept QEMU's connection");
        return -1;
    }
    if (peer.pid == pid)
        return fd_steal(&fd);
    error_set(error, VMFERRY_ERROR_REFUSED, "process %d came instead of QEMU", (int)peer.pid);
    return -1;
}

/* Where no descriptors come through (relay.h) QEMU connects to us: it has when it answers. */
static int add_connecting(QemuVmm *qemu, const char *id, GError **error)
{
    g_autofree char *where = unix_socket_abstract(qemu->pid, id, FALSE);
    autofd int listener = unix_socket_listen(where, 1, error);

    if (listener < 0 || !add_chardev(qemu->qmp, id,
                                     json_pack("{s:s, s:{s:s, s:b}}", "type", "unix", "data",
                                               "path", id, "abstract", 1),
                                     error))
        return -1;
    return accept_qemu(listener, qemu->pid, error);
}

static int add_socket(QemuVmm *qemu, const char *name, guint number, QemuHoldPart part,
                      GError **error)
{
    g_autofree char *id = qemu_hold_part(name, number, part);

    return qemu->relayed ? add_connecting(qemu, id, error) : add_handed(qemu->qmp, id, error);
}

/* *behind* NULL: at the row's tail. */
static gboolean add_filter(Qmp *qmp, const VmmHold *wanted, guint number, QemuHoldPart part,
                           const char *behind, GError **error)
{
    gboolean divert = part == HOLD_DIVERT;
    g_autofree char *id = qemu_hold_part(wanted->name, number, part);
    g_autofree char *chardev = qemu_hold_part(wanted->name, number, divert ? HOLD_OUT : HOLD_IN);
    json_t *arguments = json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "qom-type", "filter-redirector",
                                  "id", id, "netdev", wanted->nic, "queue", "rx",
                                  divert ? "outdev" : "indev", chardev, "vnet_hdr_support", 1);

    if (behind) {
        json_object_set_new(arguments, "position", json_sprintf("id=%s", behind));
        json_object_set_new(arguments, "insert", json_string("behind"));
    }
    return qmp_run(qmp, "object-add", arguments, QMP_COMMAND_MS, error);
}

static gboolean add_filters(Qmp *qmp, const VmmHold *wanted, guint number, GError **error)
{
    g_autofree char *inject = qemu_hold_part(wanted->name, number, HOLD_INJECT);

    return add_filter(qmp, wanted, number, HOLD_INJECT, NULL, error) &&
           add_filter(qmp, wanted, number, HOLD_DIVERT, inject, error);
}

/* The number for the next one; one that was left has all below. */
static guint next_number(const GArray *traces)
{
    guint number = 0;

    for (guint i = 0; i < traces->len; i++)
        number = MAX(number, g_array_index(traces, QemuHoldTrace, i).number + 1);
    return number;
}

/* One that was left drops all that the guest sends, until it is taken out, when the new diverter
 * takes all. */
static gboolean put_in(QemuVmm *qemu, const VmmHold *wanted, guint number, const GArray *left,
                       VmmHoldEnds *ends, GError **error)
{
    ends->sent = add_socket(qemu, wanted->name, number, HOLD_OUT, error);
    if (ends->sent < 0)
        return FALSE;
    ends->back = add_socket(qemu, wanted->name, number, HOLD_IN, error);
    return ends->back >= 0 && add_filters(qemu->qmp, wanted, number, error) &&
           (number == 0 || remove_all(qemu->qmp, wanted->name, left, 0, number - 1, error));
}

static void take_back(Qmp *qmp, const char *name, guint number)
{
    g_autoptr(GArray) traces = NULL;

    if (find_traces(qmp, name, &traces, NULL))
        (void)remove_all(qmp, name, traces, number, number, NULL);
}

/* What is there of this hold already, and that it is dead. */
static gboolean find_left(Qmp *qmp, const char *name, GArray **ret, GError **error)
{
    g_autoptr(GArray) traces = NULL;
    gboolean sent_over = TRUE, back_over = TRUE;

    if (!find_traces(qmp, name, &traces, error) ||
        (traces->len > 0 && (!await_ends(qmp, name, HOLD_OUT, GONE_MS, &sent_over, error) ||
                             !await_ends(qmp, name, HOLD_IN, GONE_MS, &back_over, error))))
        return FALSE;
    if (sent_over && back_over) {
        *ret = g_steal_pointer(&traces);
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_EXISTS, "a hold of output called \"%s\" is there, and alive",
              name);
    return FALSE;
}

gboolean qemu_begin_hold(QemuVmm *qemu, const VmmHold *wanted, VmmHoldEnds *ret, GError **error)
{
    g_autoptr(GArray) left = NULL;
    VmmHoldEnds ends = {.sent = -1, .back = -1};
    guint number;

    *ret = ends;
    if (!qemu_hold_check_name(wanted->name, error) ||
        !find_left(qemu->qmp, wanted->name, &left, error))
        return FALSE;
    number = next_number(left);
    if (put_in(qemu, wanted, number, left, &ends, error)) {
        *ret = ends;
        return TRUE;
    }
    g_prefix_error(error, "hold the output of %s: ", wanted->nic);
    fd_close(&ends.sent);
    fd_close(&ends.back);
    take_back(qemu->qmp, wanted->name, number);
    return FALSE;
}

/* ---- end ---- */

/* Out of band, and by guess: QEMU waits for us to read, and tells nothing. */
static void yank(Qmp *qmp, const char *name)
{
    for (guint number = 0; number < YANK_NUMBERS; number++) {
        g_autofree char *id = qemu_hold_part(name, number, HOLD_OUT);
        json_t *instance = json_pack("{s:s, s:s}", "type", "chardev", "id", id);

        (void)qmp_run_oob(qmp, "yank", json_pack("{s:[o]}", "instances", instance), END_COMMAND_MS,
                          NULL);
    }
}

static gboolean take_out(Qmp *qmp, const char *name, GError **error)
{
    g_autoptr(GArray) traces = NULL;
    gboolean all_back;

    if (!find_traces(qmp, name, &traces, error))
        return FALSE;
    return traces->len == 0 || (remove_parts(qmp, name, traces, HOLD_DIVERT, 0, G_MAXUINT, error) &&
                                remove_parts(qmp, name, traces, HOLD_OUT, 0, G_MAXUINT, error) &&
                                await_ends(qmp, name, HOLD_IN, VMM_HOLD_END_MS, &all_back, error) &&
                                remove_parts(qmp, name, traces, HOLD_INJECT, 0, G_MAXUINT, error) &&
                                remove_parts(qmp, name, traces, HOLD_IN, 0, G_MAXUINT, error));
}

gboolean qemu_end_hold(QemuVmm *qemu, const char *name, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (!qemu_hold_check_name(name, error))
        return FALSE;
    if (take_out(qemu->qmp, name, &failure))
        return TRUE;
    if (error_is(failure, VMFERRY_ERROR_TIMEOUT)) {
        yank(qemu->qmp, name);
        g_clear_error(&failure);
        if (take_out(qemu->qmp, name, &failure))
            return TRUE;
    }
    g_propagate_prefixed_error(error, g_steal_pointer(&failure), "end a hold of output: ");
    return FALSE;
}

/*
 * The process of a block tap's sink
 *
 * Threads: each disk's NBD server has one, which puts a request into the buffer (waiting there for
 * room), answers it, and waits for the next one.  The main thread sends what is in the buffer to the
 * agent, and looks whether that is still there; only it takes records out.
 */
#include "disk/tap_process.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/helper.h"
#include "base/lock_guard.h"
#include "disk/nbd_server.h"
#include "disk/tap_private.h"
#include "disk/tap_sink.h"

#define SEND_RECORDS 64 /* at once */

typedef struct {
    GList link;   /* in *records* */
    size_t bytes; /* in the stream */
    TapRecordHead head;
    uint8_t body[];
} Record;

typedef struct Sink Sink;

typedef struct {
    Sink *sink;
    guint number;
    NbdServer *server;
} Disk;

struct Sink {
    TapOrder order;
    int socket, wake_fd;
    gint idle; /* atomic: the main thread has found nothing to send */
    Disk *disks;
    GMutex lock;       /* protects all below */
    GCond changed;     /* there is more room, or *given_up* */
    GQueue records;    /* of Record */
    uint64_t buffered; /* bytes, with what it takes to keep them */
    uint64_t sequence;
    gint64 taken; /* when the agent last took something */
    gboolean given_up;
};

/* ---- into the buffer, with the lock held ---- */

static uint64_t cost_of(size_t body)
{
    return sizeof(Record) + body;
}

static void put(Sink *sink, guint disk, TapEventKind kind, uint64_t offset, uint32_t length,
                const void *body, size_t body_bytes)
{
    Record *record = g_malloc(sizeof *record + body_bytes);

    record->link = (GList){.data = record};
    record->bytes = sizeof record->head + body_bytes;
    record->head = (TapRecordHead){.magic = TAP_RECORD_MAGIC,
                                   .kind = (uint16_t)kind,
                                   .disk = (uint16_t)disk,
                                   .sequence = ++sink->sequence,
                                   .offset = offset,
                                   .length = length};
    if (body_bytes > 0)
        memcpy(record->body, body, body_bytes);
    g_queue_push_tail_link(&sink->records, &record->link);
    sink->buffered += cost_of(body_bytes);
}

static void close_all(Sink *sink, const GError *why)
{
    sink->given_up = TRUE;
    for (guint i = 0; i < sink->order.count; i++)
        nbd_server_close(sink->disks[i].server, why);
    g_cond_broadcast(&sink->changed);
}

static void give_up(Sink *sink, const char *what, guint ms)
{
    g_autoptr(GError) why = NULL;

    error_set(&why, VMFERRY_ERROR_TIMEOUT,
              "the buffer of %" G_GUINT64_FORMAT " bytes is full and %s for %u ms",
              sink->order.buffer_bytes, what, ms);
    close_all(sink, why);
}

static gboolean has_room(const Sink *sink, uint64_t bytes)
{
    return sink->buffered == 0 || sink->buffered + bytes <= sink->order.buffer_bytes;
}

/* FALSE where the sink has given up. */
static gboolean wait_for_room(Sink *sink, uint64_t bytes)
{
    gint64 began = g_get_monotonic_time();

    while (!sink->given_up && !has_room(sink, bytes)) {
        gint64 now = g_get_monotonic_time();
        gint64 stalled = MAX(began, sink->taken) + sink->order.stall_ms * 1000ll;
        gint64 too_long = began + sink->order.wait_ms * 1000ll;

        if (now >= stalled)
            give_up(sink, "nothing of it was taken", sink->order.stall_ms);
        else if (now >= too_long)
            give_up(sink, "a request of the guest has waited", sink->order.wait_ms);
        else
            g_cond_wait_until(&sink->changed, &sink->lock, MIN(stalled, too_long));
    }
    return !sink->given_up;
}

/* ---- from the NBD servers ---- */

/* Only where it sleeps, or is about to: else it finds what is there. */
static void wake_sender(Sink *sink)
{
    if (g_atomic_int_get(&sink->idle))
        eventfd_write(sink->wake_fd, 1);
}

static TapEventKind kind_of(NbdRequestKind kind)
{
    switch (kind) {
    case NBD_REQUEST_WRITE:
        return TAP_EVENT_WRITE;
    case NBD_REQUEST_ZERO:
        return TAP_EVENT_ZERO;
    case NBD_REQUEST_TRIM:
        return TAP_EVENT_TRIM;
    default:
        return TAP_EVENT_FLUSH;
    }
}

static gboolean put_request(Disk *disk, const NbdRequest *request)
{
    size_t body = request->kind == NBD_REQUEST_WRITE ? request->length : 0;
    lock_guard(&disk->sink->lock);

    if (!wait_for_room(disk->sink, cost_of(body)))
        return FALSE;
    put(disk->sink, disk->number, kind_of(request->kind), request->offset, request->length,
        request->data, body);
    return TRUE;
}

/* The guest comes first: the main thread is woken up when the answer is on its way.  A request
 * without an answer ends with its connection. */
static void take_request(const NbdRequest *request, gpointer user)
{
    Disk *disk = user;

    if (!put_request(disk, request))
        return;
    nbd_server_answer(disk->server, request->id, 0);
    wake_sender(disk->sink);
}

/* Also without room: it is the last one. */
static void take_end(const GError *why, gpointer user)
{
    Disk *disk = user;
    size_t length = why ? MIN(strlen(why->message), TAP_REASON_MAX) : 0;
    lock_guard(&disk->sink->lock);

    put(disk->sink, disk->number, TAP_EVENT_END, 0, (uint32_t)length, why ? why->message : NULL,
        length);
    wake_sender(disk->sink);
}

/* ---- to the agent ---- */

/* As many as go at once, from *sent* bytes of the first one on. */
static int gather(Sink *sink, size_t sent, struct iovec *vectors)
{
    lock_guard(&sink->lock);
    int count = 0;

    g_atomic_int_set(&sink->idle, sink->records.length == 0);
    for (GList *link = sink->records.head; link && count < SEND_RECORDS; link = link->next) {
        Record *record = link->data;

        vectors[count].iov_base = (uint8_t *)&record->head + sent;
        vectors[count++].iov_len = record->bytes - sent;
        sent = 0;
    }
    return count;
}

/* Takes out what was sent; returns how much of the first one that is left was. */
static size_t forget_sent(Sink *sink, size_t sent)
{
    lock_guard(&sink->lock);
    Record *first;

    while ((first = g_queue_peek_head(&sink->records)) && sent >= first->bytes) {
        sent -= first->bytes;
        sink->buffered -= cost_of(first->bytes - sizeof first->head);
        g_queue_unlink(&sink->records, &first->link);
        g_free(first);
    }
    sink->taken = g_get_monotonic_time();
    g_cond_broadcast(&sink->changed);
    return sent;
}

/* The agent sends nothing but numbers of barriers.  FALSE: it is gone. */
static gboolean take_barrier(Sink *sink)
{
    uint64_t number;
    ssize_t got = recv(sink->socket, &number, sizeof number, MSG_DONTWAIT);
    lock_guard(&sink->lock);

    if (got != (ssize_t)sizeof number)
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    put(sink, 0, TAP_EVENT_BARRIER, number, 0, NULL, 0);
    return TRUE;
}

/* Until something can be sent (*blocked*), or is there to be sent.  FALSE: the agent is gone. */
static gboolean wait_for_work(Sink *sink, gboolean blocked)
{
    struct pollfd fds[] = {{.fd = sink->socket, .events = blocked ? POLLIN | POLLOUT : POLLIN},
                           {.fd = blocked ? -1 : sink->wake_fd, .events = POLLIN}};
    eventfd_t times;

    if (poll(fds, G_N_ELEMENTS(fds), -1) < 0)
        return errno == EINTR;
    if (fds[1].revents)
        eventfd_read(sink->wake_fd, &times);
    if (fds[0].revents & ~(POLLIN | POLLOUT))
        return FALSE;
    return !(fds[0].revents & POLLIN) || take_barrier(sink);
}

/* After nothing was sent: *blocked* by the agent, who does not take it now or (*problem*) ever. */
static gboolean may_go_on(Sink *sink, gboolean blocked, int problem)
{
    return (!blocked || problem == EAGAIN || problem == EINTR) && wait_for_work(sink, blocked);
}

/* Returns when the agent is gone. */
static void send_all(Sink *sink)
{
    size_t sent = 0;

    for (;;) {
        struct iovec vectors[SEND_RECORDS];
        struct msghdr message = {.msg_iov = vectors};
        ssize_t now = -1;

        message.msg_iovlen = (size_t)gather(sink, sent, vectors);
        if (message.msg_iovlen > 0)
            now = sendmsg(sink->socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (now > 0)
            sent = forget_sent(sink, sent + (size_t)now);
        else if (!may_go_on(sink, message.msg_iovlen > 0, errno))
            return;
    }
}

/* ---- beginning ---- */

static gboolean start_server(Disk *disk, const TapDiskOrder *order, GError **error)
{
    disk->server = nbd_server_start(
        &(NbdServerOptions){
            .export_name = TAP_EXPORT_NAME,
            .bytes = order->bytes,
            .client = disk->sink->order.client,
            .address = *order->address ? order->address : NULL,
            .request = take_request,
            .ended = take_end,
            .user = disk,
        },
        error);
    return disk->server != NULL;
}

/* The servers' first calls wait for the lock. */
static gboolean start_servers(Sink *sink, GError **error)
{
    lock_guard(&sink->lock);

    for (guint i = 0; i < sink->order.count; i++) {
        TapDiskOrder order;

        sink->disks[i] = (Disk){.sink = sink, .number = i};
        if (!fd_read_all(sink->socket, &order, sizeof order, error) ||
            !start_server(&sink->disks[i], &order, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean begin(Sink *sink, GError **error)
{
    sink->socket = TAP_PROCESS_FD;
    sink->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g_mutex_init(&sink->lock);
    g_cond_init(&sink->changed);
    g_queue_init(&sink->records);
    if (!fd_read_all(sink->socket, &sink->order, sizeof sink->order, error))
        return FALSE;
    sink->disks = g_new0(Disk, sink->order.count);
    return start_servers(sink, error);
}

static gboolean tell_addresses(Sink *sink)
{
    TapAnswer answer = {.code = -1};
    gboolean told = fd_write_all(sink->socket, &answer, sizeof answer, NULL);

    for (guint i = 0; told && i < sink->order.count; i++) {
        char address[TAP_ADDRESS_BYTES] = "";

        g_strlcpy(address, nbd_server_get_address(sink->disks[i].server), sizeof address);
        told = fd_write_all(sink->socket, address, sizeof address, NULL);
    }
    return told;
}

static void tell_problem(Sink *sink, const GError *error)
{
    TapAnswer answer = {.code = error->code};

    g_strlcpy(answer.problem, error->message, sizeof answer.problem);
    (void)fd_write_all(sink->socket, &answer, sizeof answer, NULL);
}

/* Without a look at what is in the buffer still. */
static void end(Sink *sink)
{
    g_mutex_lock(&sink->lock);
    close_all(sink, NULL);
    g_mutex_unlock(&sink->lock);
    for (guint i = 0; i < sink->order.count; i++)
        nbd_server_free(sink->disks[i].server);
}

static void tap_main(void)
{
    Sink *sink = g_new0(Sink, 1);
    g_autoptr(GError) error = NULL;

    if (!begin(sink, &error)) {
        tell_problem(sink, error);
        return;
    }
    if (tell_addresses(sink))
        send_all(sink);
    end(sink);
}

const char tap_process_name[] = "vmferry-tap";

HELPER_MAIN(tap_process_name, tap_main)

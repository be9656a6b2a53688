#include "net/output_buffer.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/thread.h"
#include "net/packet_stream.h"

#define WRITE_BATCH 32

typedef struct {
    uint64_t epoch;
    uint64_t came_ns;
    size_t length;
    uint8_t frame[];
} Packet;

typedef struct {
    int in, out;
    PacketReader *reader;
    GQueue held;    /* of Packet, the oldest first */
    size_t written; /* of the oldest one */
    gboolean ended; /* nothing comes any more */
    gboolean shut;  /* nothing is given back any more */
} Nic;

struct OutputBuffer {
    OutputBufferOptions options;
    int wake; /* an eventfd */
    GThread *thread;
    GMutex lock;       /* of all that follows */
    GPtrArray *nics;   /* of Nic; none goes before the end */
    GPtrArray *taps;   /* of TapPlug, borrowed; the same */
    uint64_t epoch;    /* of what comes now */
    uint64_t released; /* epochs up to this one */
    gboolean passing;  /* what comes is not held */
    gboolean told;     /* of a packet of this epoch */
    gboolean tell_held, tell_failed;
    gboolean stopping;
    uint64_t memory_bytes; /* of what is held */
    OutputBufferStats stats;
    GError *failure;
};

static void nic_free(Nic *nic)
{
    fd_close(&nic->in);
    fd_close(&nic->out);
    packet_reader_free(nic->reader);
    g_queue_clear_full(&nic->held, g_free);
    g_free(nic);
}

/* ---- what comes (with the lock) ---- */

static size_t memory_of(size_t frame_length)
{
    return sizeof(Packet) + sizeof(GList) + frame_length;
}

/* Nobody need be told of more packets. */
static gboolean is_told(const OutputBuffer *buffer)
{
    return buffer->told || buffer->passing;
}

static void note_held(OutputBuffer *buffer)
{
    if (is_told(buffer))
        return;
    buffer->told = TRUE;
    buffer->tell_held = TRUE;
}

/* With an empty header where it lacks its own. */
static Packet *packet_new(uint64_t epoch, const uint8_t *frame, size_t length)
{
    size_t lacks = packet_frame_lacks(frame, length), head = PACKET_FRAME_HEADER_BYTES;
    Packet *packet = g_malloc0(sizeof *packet + length + lacks);
    uint32_t body = GUINT32_TO_BE((uint32_t)(length + lacks - head));

    packet->epoch = epoch;
    packet->came_ns = clock_now_ns();
    packet->length = length + lacks;
    memcpy(packet->frame, frame, head);
    memcpy(packet->frame, &body, sizeof body);
    memcpy(packet->frame + head + lacks, frame + head, length - head);
    return packet;
}

static void take_frame(OutputBuffer *buffer, Nic *nic, const uint8_t *frame, size_t length)
{
    Packet *packet;

    if (nic->shut) {
        buffer->stats.lost_packets++;
        return;
    }
    if (buffer->memory_bytes + memory_of(length) > buffer->options.limit_bytes) {
        buffer->stats.dropped_packets++;
        return;
    }
    packet = packet_new(buffer->epoch, frame, length);
    g_queue_push_tail(&nic->held, packet);
    buffer->memory_bytes += memory_of(packet->length);
    buffer->stats.held_packets++;
    buffer->stats.held_bytes += packet->length;
    note_held(buffer);
}

static void note_failure(OutputBuffer *buffer, GError *failure)
{
    buffer->tell_failed = TRUE;
    if (buffer->failure)
        g_error_free(failure);
    else
        buffer->failure = failure;
}

/* A guest does not wait for a socket that is shut down. */
static void fail_nic(OutputBuffer *buffer, Nic *nic, GError *failure)
{
    nic->ended = TRUE;
    (void)shutdown(nic->in, SHUT_RDWR);
    note_failure(buffer, failure);
}

static void take_frames(OutputBuffer *buffer, Nic *nic)
{
    const uint8_t *frame = NULL;
    GError *failure = NULL;
    size_t length;

    do {
        if (!packet_reader_next(nic->reader, &frame, &length, &failure)) {
            fail_nic(buffer, nic, failure);
            return;
        }
        if (frame)
            take_frame(buffer, nic, frame, length);
    } while (frame);
}

/* Reads once; how many bytes, 0 where there was nothing. */
static size_t read_once(OutputBuffer *buffer, Nic *nic)
{
    size_t room;
    uint8_t *at = packet_reader_get_room(nic->reader, &room);
    ssize_t got = recv(nic->in, at, room, MSG_DONTWAIT);

    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        nic->ended = TRUE;
    if (got <= 0)
        return 0;
    packet_reader_add(nic->reader, (size_t)got);
    take_frames(buffer, nic);
    return (size_t)got;
}

/* All that is there now, and no more than a VMM that goes on writing has written by now. */
static void read_all(OutputBuffer *buffer, Nic *nic)
{
    size_t got = 1, done = 0;
    int there = 0;

    if (nic->ended || ioctl(nic->in, FIONREAD, &there) < 0)
        return;
    while (done < (size_t)there && !nic->ended && got > 0) {
        got = read_once(buffer, nic);
        done += got;
    }
}

/* ---- what goes (with the lock) ---- */

static gboolean may_go(const OutputBuffer *buffer, const Packet *packet)
{
    return buffer->passing || packet->epoch <= buffer->released;
}

static gboolean has_to_write(const OutputBuffer *buffer, Nic *nic)
{
    const Packet *packet = g_queue_peek_head(&nic->held);

    return packet && may_go(buffer, packet);
}

static void drop_head(OutputBuffer *buffer, Nic *nic)
{
    Packet *packet = g_queue_pop_head(&nic->held);

    buffer->memory_bytes -= memory_of(packet->length);
    buffer->stats.held_packets--;
    buffer->stats.held_bytes -= packet->length;
    nic->written = 0;
    g_free(packet);
}

static void lose_all(OutputBuffer *buffer, Nic *nic)
{
    nic->shut = TRUE;
    buffer->stats.lost_packets += nic->held.length;
    while (nic->held.length > 0)
        drop_head(buffer, nic);
}

static void count_written(OutputBuffer *buffer, Nic *nic, size_t bytes)
{
    while (bytes > 0) {
        const Packet *packet = g_queue_peek_head(&nic->held);
        size_t left = packet->length - nic->written;

        if (bytes < left) {
            nic->written += bytes;
            return;
        }
        bytes -= left;
        buffer->stats.released_packets++;
        buffer->stats.released_bytes += packet->length;
        drop_head(buffer, nic);
    }
}

/* A batch of packets; FALSE where the socket takes no more now. */
static gboolean write_batch(OutputBuffer *buffer, Nic *nic)
{
    struct iovec pieces[WRITE_BATCH];
    struct msghdr message = {.msg_iov = pieces};
    size_t skip = nic->written;
    ssize_t sent;

    for (GList *link = nic->held.head; link && message.msg_iovlen < WRITE_BATCH;
         link = link->next) {
        Packet *packet = link->data;

        if (!may_go(buffer, packet))
            break;
        pieces[message.msg_iovlen++] = (struct iovec){packet->frame + skip, packet->length - skip};
        skip = 0;
    }
    sent = sendmsg(nic->out, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0)
        count_written(buffer, nic, (size_t)sent);
    else if (errno != EAGAIN && errno != EINTR)
        lose_all(buffer, nic);
    return sent > 0;
}

static void write_nic(OutputBuffer *buffer, Nic *nic)
{
    while (has_to_write(buffer, nic) && write_batch(buffer, nic))
        ;
    if (!nic->ended || nic->shut || nic->held.length > 0)
        return;
    nic->shut = TRUE;
    (void)shutdown(nic->out, SHUT_WR);
}

/* ---- what the kernel holds (with the lock) ---- */

static void serve_taps(OutputBuffer *buffer)
{
    for (guint i = 0; i < buffer->taps->len && !is_told(buffer); i++)
        if (tap_plug_drain(buffer->taps->pdata[i]))
            note_held(buffer);
}

static void cut_taps(OutputBuffer *buffer)
{
    for (guint i = 0; i < buffer->taps->len; i++) {
        TapPlug *tap = buffer->taps->pdata[i];
        GError *failure = NULL;

        (void)tap_plug_drain(tap);
        if (!tap_plug_cut(tap, buffer->epoch, &failure))
            note_failure(buffer, failure);
    }
}

static void release_taps(OutputBuffer *buffer)
{
    for (guint i = 0; i < buffer->taps->len; i++) {
        GError *failure = NULL;

        if (!tap_plug_release(buffer->taps->pdata[i], buffer->released, &failure))
            note_failure(buffer, failure);
    }
}

static void pass_taps(OutputBuffer *buffer)
{
    for (guint i = 0; i < buffer->taps->len; i++) {
        GError *failure = NULL;

        if (!tap_plug_pass(buffer->taps->pdata[i], &failure))
            note_failure(buffer, failure);
    }
}

/* ---- the thread ---- */

static void wake(OutputBuffer *buffer)
{
    uint64_t one = 1;

    (void)!write(buffer->wake, &one, sizeof one);
}

static void drain_wake(OutputBuffer *buffer)
{
    uint64_t count;

    (void)!read(buffer->wake, &count, sizeof count);
}

/* Of NICs that are added meanwhile the next turn knows. */
static GArray *list_waits(OutputBuffer *buffer)
{
    GArray *waits = g_array_new(FALSE, FALSE, sizeof(struct pollfd));
    struct pollfd wait = {.fd = buffer->wake, .events = POLLIN};

    g_array_append_val(waits, wait);
    for (guint i = 0; i < buffer->nics->len; i++) {
        Nic *nic = buffer->nics->pdata[i];
        struct pollfd in = {.fd = nic->ended ? -1 : nic->in, .events = POLLIN};
        struct pollfd out = {.fd = has_to_write(buffer, nic) ? nic->out : -1, .events = POLLOUT};

        g_array_append_val(waits, in);
        g_array_append_val(waits, out);
    }
    for (guint i = 0; i < buffer->taps->len && !is_told(buffer); i++) {
        struct pollfd in = {.fd = tap_plug_get_fd(buffer->taps->pdata[i]), .events = POLLIN};

        g_array_append_val(waits, in);
    }
    return waits;
}

static void serve_nics(OutputBuffer *buffer)
{
    for (guint i = 0; i < buffer->nics->len; i++) {
        Nic *nic = buffer->nics->pdata[i];

        if (!nic->ended)
            (void)read_once(buffer, nic);
        write_nic(buffer, nic);
    }
}

static void tell(OutputBuffer *buffer, gboolean held, gboolean failed)
{
    if (held && buffer->options.func)
        buffer->options.func(OUTPUT_BUFFER_HELD, buffer->options.user);
    if (failed && buffer->options.func)
        buffer->options.func(OUTPUT_BUFFER_FAILED, buffer->options.user);
}

/* FALSE at the end. */
static gboolean serve_turn(OutputBuffer *buffer)
{
    g_autoptr(GArray) waits = NULL;
    gboolean held, failed;

    g_mutex_lock(&buffer->lock);
    waits = list_waits(buffer);
    g_mutex_unlock(&buffer->lock);
    (void)poll((struct pollfd *)(void *)waits->data, waits->len, -1);
    drain_wake(buffer);
    g_mutex_lock(&buffer->lock);
    serve_nics(buffer);
    serve_taps(buffer);
    held = buffer->tell_held;
    failed = buffer->tell_failed;
    buffer->tell_held = buffer->tell_failed = FALSE;
    if (buffer->stopping) {
        g_mutex_unlock(&buffer->lock);
        return FALSE;
    }
    g_mutex_unlock(&buffer->lock);
    tell(buffer, held, failed);
    return TRUE;
}

static gpointer serve_thread(gpointer data)
{
    while (serve_turn(data))
        ;
    return NULL;
}

/* ---- the interface ---- */

OutputBuffer *output_buffer_new(const OutputBufferOptions *options, GError **error)
{
    OutputBuffer *buffer = g_new0(OutputBuffer, 1);

    buffer->options = *options;
    if (buffer->options.limit_bytes == 0)
        buffer->options.limit_bytes = OUTPUT_BUFFER_LIMIT_BYTES;
    buffer->epoch = 1;
    buffer->nics = g_ptr_array_new_with_free_func((GDestroyNotify)nic_free);
    buffer->taps = g_ptr_array_new();
    g_mutex_init(&buffer->lock);
    buffer->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (buffer->wake < 0)
        error_set_errno(error, errno, "hold output: eventfd");
    else
        buffer->thread = thread_start("output", serve_thread, buffer, error);
    if (buffer->thread)
        return buffer;
    output_buffer_free(buffer);
    return NULL;
}

void output_buffer_free(OutputBuffer *buffer)
{
    if (!buffer)
        return;
    if (buffer->thread) {
        g_mutex_lock(&buffer->lock);
        buffer->stopping = TRUE;
        g_mutex_unlock(&buffer->lock);
        wake(buffer);
        g_thread_join(buffer->thread);
    }
    fd_close(&buffer->wake);
    g_ptr_array_unref(buffer->nics);
    g_ptr_array_unref(buffer->taps);
    g_clear_error(&buffer->failure);
    g_mutex_clear(&buffer->lock);
    g_free(buffer);
}

void output_buffer_add_nic(OutputBuffer *buffer, int fd_in, int fd_out)
{
    Nic *nic = g_new0(Nic, 1);

    nic->in = fd_in;
    nic->out = fd_out;
    nic->reader = packet_reader_new();
    g_mutex_lock(&buffer->lock);
    g_ptr_array_add(buffer->nics, nic);
    g_mutex_unlock(&buffer->lock);
    wake(buffer);
}

void output_buffer_add_tap(OutputBuffer *buffer, TapPlug *tap)
{
    g_mutex_lock(&buffer->lock);
    g_ptr_array_add(buffer->taps, tap);
    g_mutex_unlock(&buffer->lock);
    wake(buffer);
}

uint64_t output_buffer_cut(OutputBuffer *buffer)
{
    lock_guard(&buffer->lock);

    /* The checkpoint that a packet would ask for is being made. */
    buffer->told = TRUE;
    for (guint i = 0; i < buffer->nics->len; i++)
        read_all(buffer, buffer->nics->pdata[i]);
    cut_taps(buffer);
    buffer->told = FALSE;
    wake(buffer);
    return buffer->epoch++;
}

void output_buffer_release(OutputBuffer *buffer, uint64_t epoch)
{
    lock_guard(&buffer->lock);

    buffer->released = MAX(buffer->released, MIN(epoch, buffer->epoch - 1));
    release_taps(buffer);
    wake(buffer);
}

void output_buffer_pass(OutputBuffer *buffer)
{
    lock_guard(&buffer->lock);

    buffer->passing = TRUE;
    pass_taps(buffer);
    wake(buffer);
}

void output_buffer_take_stats(OutputBuffer *buffer, OutputBufferStats *ret)
{
    lock_guard(&buffer->lock);
    uint64_t now = clock_now_ns(), oldest = now;

    *ret = buffer->stats;
    for (guint i = 0; i < buffer->nics->len; i++) {
        const Packet *packet = g_queue_peek_head(&((Nic *)buffer->nics->pdata[i])->held);

        oldest = packet ? MIN(oldest, packet->came_ns) : oldest;
    }
    ret->oldest_ns = now - oldest;
}

gboolean output_buffer_check(OutputBuffer *buffer, GError **error)
{
    lock_guard(&buffer->lock);

    if (!buffer->failure)
        return TRUE;
    if (error)
        *error = g_error_copy(buffer->failure);
    return FALSE;
}

#include "disk/tap_stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "disk/nbd_server.h"

#define ROOM_BYTES (1u << 20) /* more for a record that is longer */

struct TapReader {
    int fd;
    uint64_t *bytes; /* of each disk */
    guint disks;
    uint8_t *buffer;
    size_t room, from, to; /* of the buffer; what is unread */
    uint64_t sequence;     /* of the last event */
    char reason[TAP_REASON_MAX + 1];
    GError *failure; /* for ever */
};

TapReader *tap_reader_new(int fd, const uint64_t *bytes, guint count)
{
    TapReader *reader = g_new0(TapReader, 1);

    reader->fd = fd;
    reader->bytes = g_memdup2(bytes, count * sizeof *bytes);
    reader->disks = count;
    reader->room = ROOM_BYTES;
    reader->buffer = g_malloc(reader->room);
    return reader;
}

void tap_reader_free(TapReader *reader)
{
    if (!reader)
        return;
    fd_close(&reader->fd);
    g_clear_error(&reader->failure);
    g_free(reader->buffer);
    g_free(reader->bytes);
    g_free(reader);
}

/* ---- what is in the buffer ---- */

static gboolean has_range(const TapRecordHead *head)
{
    return head->kind <= TAP_EVENT_TRIM;
}

/* What follows the head. */
static size_t body_bytes(const TapRecordHead *head)
{
    return head->kind == TAP_EVENT_WRITE || head->kind == TAP_EVENT_END ? head->length : 0;
}

static gboolean is_range_right(const TapReader *reader, const TapRecordHead *head)
{
    uint64_t bytes = reader->bytes[head->disk];

    if (head->kind == TAP_EVENT_BARRIER)
        return head->length == 0;
    if (!has_range(head))
        return head->offset == 0 &&
               head->length <= (head->kind == TAP_EVENT_END ? TAP_REASON_MAX : 0);
    return head->length > 0 && head->offset <= bytes && head->length <= bytes - head->offset &&
           (head->kind != TAP_EVENT_WRITE || head->length <= NBD_MAX_REQUEST_BYTES);
}

static gboolean check_head(const TapReader *reader, const TapRecordHead *head, GError **error)
{
    const char *problem = NULL;

    if (head->magic != TAP_RECORD_MAGIC || head->reserved != 0)
        problem = "a record does not begin as one";
    else if (head->kind > TAP_EVENT_BARRIER || head->disk >= reader->disks)
        problem = "a record is of no known kind, or of no disk";
    else if (head->sequence != reader->sequence + 1)
        problem = "an event is missing";
    else if (!is_range_right(reader, head))
        problem = "an event is beyond its disk";
    if (problem)
        error_set(error, VMFERRY_ERROR_INVALID, "block tap: %s", problem);
    return problem == NULL;
}

static void fill_event(TapReader *reader, const TapRecordHead *head, const uint8_t *body,
                       TapEvent *ret)
{
    *ret = (TapEvent){.kind = head->kind, .disk = head->disk, .sequence = head->sequence};
    if (has_range(head)) {
        ret->offset = head->offset;
        ret->length = head->length;
    }
    if (head->kind == TAP_EVENT_BARRIER)
        ret->offset = head->offset;
    if (head->kind == TAP_EVENT_WRITE)
        ret->data = body;
    if (head->kind != TAP_EVENT_END || head->length == 0)
        return;
    memcpy(reader->reason, body, head->length);
    reader->reason[head->length] = '\0';
    ret->reason = reader->reason;
}

/* 1; 0 where it is not complete, *ret_missing* bytes at least; -1 with *error*. */
static int take_buffered(TapReader *reader, TapEvent *ret, size_t *ret_missing, GError **error)
{
    const uint8_t *at = reader->buffer + reader->from;
    size_t have = reader->to - reader->from, all;
    TapRecordHead head;

    *ret_missing = sizeof head > have ? sizeof head - have : 0;
    if (*ret_missing > 0)
        return 0;
    memcpy(&head, at, sizeof head);
    if (!check_head(reader, &head, error))
        return -1;
    all = sizeof head + body_bytes(&head);
    if (all > have) {
        *ret_missing = all - have;
        return 0;
    }
    fill_event(reader, &head, at + sizeof head, ret);
    reader->sequence = head.sequence;
    reader->from += all;
    return 1;
}

/* ---- filling the buffer ---- */

static void make_room(TapReader *reader, size_t missing)
{
    size_t have = reader->to - reader->from, wanted = have + missing;

    if (reader->to + missing <= reader->room)
        return;
    memmove(reader->buffer, reader->buffer + reader->from, have);
    reader->from = 0;
    reader->to = have;
    if (wanted <= reader->room)
        return;
    reader->room = wanted;
    reader->buffer = g_realloc(reader->buffer, reader->room);
}

/* 1; 0 where nothing is there, -1 with *error*. */
static int receive_some(TapReader *reader, GError **error)
{
    ssize_t got =
        recv(reader->fd, reader->buffer + reader->to, reader->room - reader->to, MSG_DONTWAIT);

    if (got > 0) {
        reader->to += (size_t)got;
        return 1;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    error_set(error, VMFERRY_ERROR_DISCONNECTED, "block tap: its process is gone");
    return -1;
}

/* As receive_some(), but waits. */
static int receive_until(TapReader *reader, gint64 deadline, GError **error)
{
    for (;;) {
        int got = receive_some(reader, error), left = -1;
        gint64 now = g_get_monotonic_time();

        if (got != 0)
            return got;
        if (deadline >= 0)
            left = (int)(MAX(deadline - now + 999, 0) / 1000);
        if (left == 0)
            return 0;
        if (fd_wait_readable(reader->fd, left, error) < 0)
            return -1;
    }
}

static int next(TapReader *reader, gint64 deadline, TapEvent *ret, GError **error)
{
    size_t missing;

    for (;;) {
        int got = take_buffered(reader, ret, &missing, error);

        if (got != 0)
            return got;
        make_room(reader, missing);
        got = receive_until(reader, deadline, error);
        if (got <= 0)
            return got;
    }
}

int tap_reader_next(TapReader *reader, int timeout_ms, TapEvent *ret, GError **error)
{
    gint64 deadline = timeout_ms < 0 ? -1 : g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    int got = reader->failure ? -1 : next(reader, deadline, ret, &reader->failure);

    if (got < 0 && error)
        *error = g_error_copy(reader->failure);
    return got;
}

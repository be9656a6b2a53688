/* Transmission phase: requests are checked and given to the owner. */
#include <errno.h>

#include "base/bytes.h"
#include "base/error.h"
#include "disk/nbd_protocol.h"
#include "disk/nbd_server_private.h"

typedef struct {
    uint16_t flags;
    uint16_t command;
    uint64_t cookie; /* the client's name for it; may be used twice */
    uint64_t offset;
    uint32_t length;
} RequestHeader;

static gboolean receive_header(NbdServer *server, RequestHeader *ret, GError **error)
{
    uint8_t raw[NBD_REQUEST_HEADER_BYTES];
    ByteReader reader;

    if (!nbd_receive(server, raw, sizeof raw, error))
        return FALSE;
    reader = byte_reader_make(raw, sizeof raw);
    if (byte_read_be32(&reader) != NBD_REQUEST_MAGIC) {
        error_set(error, VMFERRY_ERROR_INVALID, "a request does not begin as one");
        return FALSE;
    }
    ret->flags = byte_read_be16(&reader);
    ret->command = byte_read_be16(&reader);
    ret->cookie = byte_read_be64(&reader);
    ret->offset = byte_read_be64(&reader);
    ret->length = byte_read_be32(&reader);
    return TRUE;
}

static void make_room(NbdServer *server, size_t bytes)
{
    if (bytes <= server->payload_room)
        return;
    g_free(server->payload);
    server->payload = g_malloc(bytes);
    server->payload_room = bytes;
}

/* Also of a write that will be refused. */
static gboolean receive_payload(NbdServer *server, const RequestHeader *header, GError **error)
{
    if (header->length > NBD_MAX_REQUEST_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "a write of %u bytes is too long", header->length);
        return FALSE;
    }
    make_room(server, header->length);
    return nbd_receive(server, server->payload, header->length, error);
}

static int check_range(NbdServer *server, const RequestHeader *header, int beyond)
{
    uint64_t bytes = server->options.bytes;

    if (header->length == 0)
        return EINVAL;
    return header->offset > bytes || header->length > bytes - header->offset ? beyond : 0;
}

/* 0, or what to answer at once. */
static int check_request(NbdServer *server, const RequestHeader *header)
{
    uint16_t flags = NBD_CMD_FLAG_FUA;

    if (header->command == NBD_CMD_WRITE_ZEROES)
        flags |= NBD_CMD_FLAG_NO_HOLE;
    if (header->flags & ~flags)
        return EINVAL;
    switch (header->command) {
    case NBD_CMD_READ:
        return header->length > NBD_MAX_REQUEST_BYTES ? EINVAL
                                                      : check_range(server, header, EINVAL);
    case NBD_CMD_WRITE:
    case NBD_CMD_WRITE_ZEROES:
        return check_range(server, header, ENOSPC);
    case NBD_CMD_TRIM:
        return check_range(server, header, EINVAL);
    case NBD_CMD_FLUSH:
        return 0;
    default:
        return EINVAL;
    }
}

static NbdRequestKind kind_of(uint16_t command)
{
    switch (command) {
    case NBD_CMD_WRITE:
        return NBD_REQUEST_WRITE;
    case NBD_CMD_WRITE_ZEROES:
        return NBD_REQUEST_ZERO;
    case NBD_CMD_TRIM:
        return NBD_REQUEST_TRIM;
    default:
        return NBD_REQUEST_FLUSH;
    }
}

static void hand_over(NbdServer *server, const RequestHeader *header)
{
    NbdRequest request = {.kind = kind_of(header->command)};

    if (request.kind != NBD_REQUEST_FLUSH) {
        request.offset = header->offset;
        request.length = header->length;
        request.fua = (header->flags & NBD_CMD_FLAG_FUA) != 0;
    }
    request.no_hole = (header->flags & NBD_CMD_FLAG_NO_HOLE) != 0;
    if (request.kind == NBD_REQUEST_WRITE)
        request.data = server->payload;
    request.id = nbd_await_answer(server, header->cookie);
    server->options.request(&request, server->options.user);
}

static gboolean serve_request(NbdServer *server, const RequestHeader *header, GError **error)
{
    int problem;

    if (header->command == NBD_CMD_WRITE && !receive_payload(server, header, error))
        return FALSE;
    problem = check_request(server, header);
    if (problem)
        nbd_reply(server, header->cookie, problem);
    else if (header->command == NBD_CMD_READ)
        nbd_reply_zeros(server, header->cookie, header->length);
    else
        hand_over(server, header);
    return TRUE;
}

gboolean nbd_transmit(NbdServer *server, GError **error)
{
    RequestHeader header;

    while (nbd_wait_for_room(server, error) && receive_header(server, &header, error)) {
        if (header.command == NBD_CMD_DISC)
            return TRUE;
        if (!serve_request(server, &header, error))
            return FALSE;
    }
    return FALSE;
}

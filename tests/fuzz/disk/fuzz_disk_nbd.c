/*
 * What a client sends to the NBD server
 *
 * Whatever it is, the owner gets requests that lie within the export, each with a new id, and then
 * one end.  Bit 0 of the first byte: the rest comes behind a good handshake.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "disk/nbd_server_private.h"

#define EXPORT_BYTES 100000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In the server's thread only, but for *server*. */
typedef struct {
    NbdServer *server; /* set before the client sends anything */
    uint64_t last_id;
    gboolean ended;
    uint32_t sum;
} Owner;

static void check_request(const Owner *owner, const NbdRequest *request)
{
    if (owner->ended || request->id <= owner->last_id)
        abort();
    if (request->kind == NBD_REQUEST_FLUSH) {
        if (request->offset != 0 || request->length != 0 || request->fua)
            abort();
    } else if (request->length == 0 || request->offset >= EXPORT_BYTES ||
               request->length > EXPORT_BYTES - request->offset) {
        abort();
    }
    if ((request->kind == NBD_REQUEST_WRITE) != (request->data != NULL))
        abort();
    if (request->no_hole && request->kind != NBD_REQUEST_ZERO)
        abort();
}

/* Every other one is answered late. */
static void take_request(const NbdRequest *request, gpointer user)
{
    Owner *owner = user;

    check_request(owner, request);
    owner->last_id = request->id;
    for (uint32_t i = 0; request->data && i < request->length; i++)
        owner->sum += request->data[i];
    if (request->id % 2 != 0)
        return;
    nbd_server_answer(owner->server, request->id, (int)(request->offset % 200));
    nbd_server_answer(owner->server, request->id - 1, 0);
}

static void take_end(const GError *why, gpointer user)
{
    Owner *owner = user;

    if (owner->ended)
        abort();
    owner->ended = TRUE;
}

static void send_all(int fd, const void *data, size_t length)
{
    const uint8_t *at = data;

    while (length > 0) {
        ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);

        if (sent <= 0)
            return;
        at += sent;
        length -= (size_t)sent;
    }
}

static void take_answers(int fd)
{
    static char answers[1u << 16];

    while (recv(fd, answers, sizeof answers, 0) > 0)
        ;
}

static void talk(int fd, const uint8_t *data, size_t size)
{
    static const char handshake[] = "\0\0\0\3"
                                    "IHAVEOPT\0\0\0\1\0\0\0\1x";

    if (data[0] & 1)
        send_all(fd, handshake, sizeof handshake - 1);
    send_all(fd, data + 1, size - 1);
    shutdown(fd, SHUT_WR);
    take_answers(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Owner owner = {0};
    NbdServerOptions options = {.export_name = "x",
                                .bytes = EXPORT_BYTES,
                                .request = take_request,
                                .ended = take_end,
                                .user = &owner};
    int ends[2];

    /* The client sends all of it before it takes an answer. */
    if (size == 0 || size > 65536 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return 0;
    owner.server = nbd_server_start_connected(&options, ends[0], NULL);
    if (!owner.server)
        abort();
    talk(ends[1], data, size);
    nbd_server_free(owner.server);
    close(ends[1]);
    if (!owner.ended)
        abort();
    return 0;
}

/*
 * An NBD server for one client: where QEMU mirrors a disk to
 *
 * Theory of operation: QEMU's block jobs copy a disk to whatever speaks NBD (the protocol:
 * doc/proto.md of the NetworkBlockDevice project).  This server presents one export that can be
 * written only; whoever reads it gets zeros.  It listens on an abstract Unix socket with a random
 * name, in the client's network namespace, so that a QEMU of another user, mount namespace or root
 * directory reaches it, too, and serves the first connection of one process (SO_PEERCRED); nobody
 * else gets an answer.  Each request is given to its owner in the order of arrival, and answered
 * when the owner says so, in any order.  So the owner decides what an answer means (buffered, sent,
 * applied) and how fast the client may be: with many requests unanswered no more are read.
 *
 * A client that waits for an answer may hold up its guest.  QEMU's main loop hangs behind a peer
 * that is silent, and shutdown(2) of a Unix socket whose buffer is full does not free it: only
 * close(2) of each copy of the descriptor does.  nbd_server_close() does that, from any thread, and
 * nbd_server_get_wait_ns() says for how long the oldest request has waited, for a watchdog.
 *
 * Threads: one of its own reads requests, and calls *request* and *ended*.  Answers come from any
 * thread, also from within *request*, and never block (they are small; a client that does not take
 * them is closed).
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#define NBD_MAX_REQUEST_BYTES (32u << 20)

typedef enum {
    NBD_REQUEST_WRITE,
    NBD_REQUEST_ZERO,
    NBD_REQUEST_TRIM,
    NBD_REQUEST_FLUSH,
} NbdRequestKind;

typedef struct {
    NbdRequestKind kind;
    uint64_t offset; /* in bytes, within the export; 0 of FLUSH */
    uint32_t length; /* in bytes; 0 of FLUSH; above NBD_MAX_REQUEST_BYTES of ZERO and TRIM only */
    const uint8_t *data; /* of WRITE: valid during the call */
    gboolean fua;        /* of all but FLUSH */
    gboolean no_hole;    /* of ZERO: the client wants it allocated */
    uint64_t id;         /* to answer it by; unique within the server */
} NbdRequest;

typedef struct NbdServer NbdServer;

typedef struct {
    const char *export_name;
    uint64_t bytes;      /* size of the export */
    pid_t client;        /* the only process that may connect; 0: any */
    const char *address; /* of the socket; NULL: a random one.  A client that reconnects needs that
                            of its former server, which must be free */
    void (*request)(const NbdRequest *request, gpointer user);
    /* The last call, once, with the connection closed: the client has disconnected in order (*why*
     * NULL), or is gone, was closed, or broke the protocol (*why* says it). */
    void (*ended)(const GError *why, gpointer user);
    gpointer user;
} NbdServerOptions;

/* Copies the options. */
NbdServer *nbd_server_start(const NbdServerOptions *options, GError **error);

/* Closes; *ended* is called where it was not yet, and when this returns no callback is called any
 * more.  NULL-safe; not from a callback. */
void nbd_server_free(NbdServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NbdServer, nbd_server_free)

/* Name of the abstract socket, without the leading NUL. */
const char *nbd_server_get_address(NbdServer *server);

/* Answers the request: 0, or an errno that NBD knows (EIO, ENOSPC, …; any other becomes EIO or one
 * that is like it).  What is not waited for (any more) is ignored. */
void nbd_server_answer(NbdServer *server, uint64_t id, int problem);

/* For how long the oldest request without an answer has waited, in ns; 0: none does. */
uint64_t nbd_server_get_wait_ns(NbdServer *server);

/* Closes the client's connection at once, and the listening socket.  *ended* will be called with
 * *why* (copied; NULL: as if the client had left in order), and *request* may be before that, for
 * what was received already.  From the second time on without effect. */
void nbd_server_close(NbdServer *server, const GError *why);

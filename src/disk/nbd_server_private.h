/*
 * Inside of the NBD server
 *
 * Theory of operation: nbd_server.c has the thread, the sockets and what is sent; nbd_handshake.c
 * and nbd_transmission.c are the two phases of the protocol, written as if the connection blocked,
 * and run in the thread.
 *
 * Why nbd_server_close() may close the client's descriptor from another thread:
 *
 *   - The number may be that of a stranger's file right after the close.  So every use of it is a
 *     call that does not block, under the lock that the close takes, too, and behind a look at
 *     whether it is still there.
 *   - A system call that waits on a socket keeps it open until it returns, as poll(2) would: the
 *     client would hang on until this thread wakes up.  The thread waits by epoll_wait(2) only,
 *     which holds no socket and knows them by the open file, not by the number.  So the client is
 *     free as soon as close(2) has returned, whatever the thread does.
 *   - It goes out of the epoll set before it is closed, since a child between fork and exec may
 *     have a copy, with which it would stay in the set.
 */
#pragma once

#include "disk/nbd_server.h"

/* So many requests may wait for answers; no more are read meanwhile. */
#define NBD_MAX_WAITING 1024u

struct NbdServer {
    NbdServerOptions options; /* export_name is our copy */
    char *address;
    int epoll_fd, wake_fd;
    GThread *thread;
    uint8_t *payload; /* of the thread */
    size_t payload_room;
    GMutex lock; /* protects all below */
    int listen_fd, client_fd;
    gboolean closed; /* for ever; *why* NULL: by the client, in order */
    GError *why;
    uint32_t interest;   /* what epoll watches *client_fd* for */
    gboolean want_input; /* the thread can go on with more from the client */
    GByteArray *unsent;  /* to the client, from *unsent_from* on */
    size_t unsent_from;
    gboolean zeros_unsent; /* the answer to a READ is in it: nothing is read meanwhile */
    GQueue waiting;        /* of requests without an answer, in order of arrival */
    uint64_t last_id;
};

/* Serves *fd*, a connected socket without O_NONBLOCK or with it, which it owns from now on, also
 * on failure: the server has no address. */
NbdServer *nbd_server_start_connected(const NbdServerOptions *options, int fd, GError **error);

/* ---- for the thread ---- */

/* Exactly *length* bytes.  The error is DISCONNECTED where the client is gone, and any where the
 * server was closed. */
gboolean nbd_receive(NbdServer *server, void *buffer, size_t length, GError **error);

/* Until another request may be read. */
gboolean nbd_wait_for_room(NbdServer *server, GError **error);

/* Never waits.  What cannot be sent any more is dropped: nbd_receive() sees the end. */
void nbd_send(NbdServer *server, const GByteArray *bytes);
void nbd_reply(NbdServer *server, uint64_t cookie, int problem);
void nbd_reply_zeros(NbdServer *server, uint64_t cookie, uint32_t length);

/* Notes that the client waits for an answer to what it calls *cookie*; returns our id. */
uint64_t nbd_await_answer(NbdServer *server, uint64_t cookie);

/* FALSE in *ret_transmit*: the client has left in order. */
gboolean nbd_handshake(NbdServer *server, gboolean *ret_transmit, GError **error);

/* Returns TRUE when the client leaves in order. */
gboolean nbd_transmit(NbdServer *server, GError **error);

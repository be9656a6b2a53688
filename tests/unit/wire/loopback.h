/*
 * Two ends of a connection over loopback, and folders of certificates
 */
#pragma once

#include <stdint.h>

#include "wire/channel.h"
#include "wire/tls.h"

/* Ends a test program that hangs. */
#define TEST_DEADLINE_S 120

/* A folder that is removed with all in it. */
char *folder_new(void);
void folder_remove(char *folder);

/* A CA in FOLDER/NAME and a host's certificate of it in FOLDER/NAME/host for
 * "localhost" and 127.0.0.1; returns the latter's path. */
char *folder_make_pki(const char *folder, const char *name);
TlsIdentity *folder_make_identity(const char *folder, const char *name);

typedef struct {
    int fd;
    uint16_t port;
    char *address; /* "127.0.0.1:PORT" */
} Listener;

void listener_open(Listener *listener);
void listener_close(Listener *listener);
int listener_accept(Listener *listener);

/* A plain, blocking connection, for peers that are no vmferry. */
int raw_connect(const Listener *listener);

typedef struct {
    Listener listener;
    ChannelOptions options;
    GThread *thread;
    Channel *channel; /* or NULL with error */
    GError *error;
} Acceptor;

/* Accepts one connection in a thread. */
void acceptor_start(Acceptor *acceptor, TlsIdentity *tls, int peer_timeout_ms);
void acceptor_join(Acceptor *acceptor);
/* Joins, and frees all. */
void acceptor_end(Acceptor *acceptor);

typedef struct {
    Channel *client, *server;
} Pair;

void pair_open(Pair *pair, TlsIdentity *tls, int peer_timeout_ms);
void pair_close(Pair *pair);

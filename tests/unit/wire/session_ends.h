/*
 * Both ends of a session over loopback, with real TLS, and frames with a number
 */
#pragma once

#include "base/error.h"
#include "loopback.h"
#include "wire/session.h"

#define TIMEOUT_MS 10000
#define AGENT_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define AGENT_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define TRANSACTION "0123456789abcdef0123456789abcdef"

typedef struct {
    char *folder;
    TlsIdentity *server, *client, *stranger; /* three hosts of one CA */
} Fixture;

/* An agent that accepts: the first connection begins the session, others join it or are refused. */
typedef struct {
    Listener listener;
    ChannelOptions options;
    gboolean gives_no_token;
    GThread *thread;
    GAsyncQueue *begun; /* the session */
    Session *session;
} Server;

typedef struct {
    Server server;
    ChannelOptions options;
    Session *client, *accepted;
} Ends;

/* Certificates of three hosts, in *state*: cmocka's fixtures. */
int ends_set_up(void **state);
int ends_tear_down(void **state);

void ends_open(Ends *ends, Fixture *fixture, int peer_timeout_ms);
/* The parts of that: a client that is not connected yet. */
void ends_connect(Ends *ends);
void server_start(Server *server, TlsIdentity *tls, int peer_timeout_ms);
void server_end(Server *server);
void ends_close(Ends *ends);
void ends_join(Ends *ends, TrafficClass traffic);

/* The frame's payload: its number, and zeroes up to *length*. */
gboolean send_number(Session *session, TrafficClass traffic, FrameType type, uint32_t number,
                     size_t length, GError **error);
void send_ok(Session *session, TrafficClass traffic, FrameType type, uint32_t number,
             size_t length);
void expect_number(Session *session, TrafficClass traffic, FrameType type, uint32_t number);
/* Frees *error*. */
void expect_error(GError *error, VmferryErrorCode code, const char *words);

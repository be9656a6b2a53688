/*
 * How many connections bulk goes over
 *
 * Theory of operation: how fast one connection is depends on more than the line: a loss that is no sign of
 * a full line halves it, and on a long way it takes many round trips to come back; windows have limits.
 * Several together carry more then, and no more where one has filled the line.  Nothing tells which of
 * both it is as well as trying does.  So: the rate is measured over a while in which there was always
 * something to send; then twice as many connections are used (or half as many, where a queue on the way
 * says that they fill the line), and the rate is measured again, after the new ones have had time to
 * start.  What is worth it is kept; else all is as before, and the next try is put off for twice as long
 * as the last one was.  Steps by two are told from noise more easily than steps by one, and eight are
 * reached in three of them.
 *
 * No try: where the congestion control measures what the way carries instead of taking losses for a full line
 * (BBR, draft-ietf-ccwg-bbr): one connection carries what there is, and packing in a window, which needs one, is
 * worth more; on a short way without losses, where one connection carries what there is as long as the CPU does
 * not limit it; with the user's limit reached; while the sender, and not the way, is what limits (only
 * time in which something waited counts at all).
 *
 * Pure: fed with samples, tells how many to use.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define CONNECTION_COUNT_MOST 8u
/* At least so long is measured, and so many round trips; new connections have so long to start. */
#define CONNECTION_COUNT_MEASURE_MS 2000.0
#define CONNECTION_COUNT_MEASURE_ROUND_TRIPS 20
#define CONNECTION_COUNT_SETTLE_MS 1000.0
#define CONNECTION_COUNT_SETTLE_ROUND_TRIPS 10
/* More are worth it from that share of what they would carry at best; fewer, where that much is left. */
#define CONNECTION_COUNT_WORTH 0.25
#define CONNECTION_COUNT_FEWER_WORTH 0.95
/* Until the next try, doubled by each that was none the better. */
#define CONNECTION_COUNT_FIRST_PAUSE_MS 5000.0
#define CONNECTION_COUNT_LONGEST_PAUSE_MS 300000.0
/* A short way, its losses, and what one connection encrypts on a core. */
#define CONNECTION_COUNT_SHORT_WAY_MS 2.0
#define CONNECTION_COUNT_CLEAN_SHARE 0.001
#define CONNECTION_COUNT_CORE_BYTES_PER_MS 400e3
/* A queue on the way: round trips that are so much longer than the shortest. */
#define CONNECTION_COUNT_QUEUE_FACTOR 1.5
#define CONNECTION_COUNT_QUEUE_MS 2.0
#define CONNECTION_COUNT_LIMIT_SHARE 0.9

typedef struct {
    double now_ms;
    uint64_t
        carried_bytes; /* confirmed by the peer's kernel, by all connections, since the start */
    gboolean waits;    /* something is to be sent, and the connections in use do not take it */
    double round_trip_ms, shortest_round_trip_ms; /* of late; 0: not known */
    double lost_share;                            /* of what was sent */
    gboolean measures_way;     /* all connections have a congestion control that does */
    double limit_bytes_per_ms; /* the user's; 0: none */
} ConnectionSample;

typedef struct {
    guint most;
    guint count;  /* to be used */
    guint before; /* a try: so many were used; 0: there is none */
    double before_rate;
    double settle_ms; /* of the time measured, that does not count yet */
    double busy_ms, busy_bytes;
    double next_try_ms, pause_ms;
    ConnectionSample last;
    gboolean started;
} ConnectionCount;

/* *most*: 1 to CONNECTION_COUNT_MOST. */
void connection_count_init(ConnectionCount *count, guint most);

/* Some times a second, in order.  Returns how many are to be used from now on. */
guint connection_count_note(ConnectionCount *count, const ConnectionSample *sample);

/* Those that were to be used more are there only now: until then nothing was measured. */
void connection_count_note_change(ConnectionCount *count);

/* No more than *possible* can be had just now: a try is over. */
void connection_count_note_failure(ConnectionCount *count, guint possible);

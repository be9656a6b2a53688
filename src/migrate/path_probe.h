/*
 * Measuring the way to another agent
 *
 * Theory of operation: path_probe_run() connects as a move would (address, port, TLS, HELLO) and
 * says at which of these it failed.  Then, over that connection: round trips of small frames; some
 * full segments, which have to be answered; as many of them for *data_ms* as the way takes, within
 * the limits of time, bytes and rate.  What was carried is what the peer's kernel has confirmed
 * (link_rate.h), so socket buffers do not count.
 *
 * Where full segments are not answered although small ones were, or TLS, whose certificates fill
 * segments, is not, the same is tried with small segments (connect.h).  If that works, something on
 * the way drops large packets and does not say so, and the largest that gets through is searched
 * for.  A move would stand still there.
 *
 * The other half, path_probe_serve(), answers and counts.  It keeps nothing of what comes, says less
 * than it hears, and ends the connection at PATH_SERVE_MOST_BYTES, PATH_SERVE_MOST_FRAMES answers,
 * PATH_SERVE_MOST_MS, or after PATH_SERVE_IDLE_MS of silence.
 *
 * Threads: the caller's; *progress* is called in it.
 */
#pragma once

#include <gio/gio.h>

#include "wire/messages.h"
#include "wire/channel.h"

#define PATH_PROBE_DEFAULT_MS 3000u
#define PATH_PROBE_LEAST_MS 200u
#define PATH_PROBE_MOST_MS 10000u
/* With a second of 2 Gbit/s the rate is known. */
#define PATH_PROBE_MOST_BYTES (UINT64_C(256) << 20)

#define PATH_SERVE_MOST_BYTES (UINT64_C(288) << 20)
#define PATH_SERVE_MOST_FRAMES 256u
#define PATH_SERVE_MOST_MS 40000u
#define PATH_SERVE_IDLE_MS 5000u

/* In their order; where a probe that fails has come to. */
typedef enum {
    PATH_STAGE_ADDRESS,
    PATH_STAGE_CONNECT,
    PATH_STAGE_TLS,
    PATH_STAGE_HELLO,
    PATH_STAGE_ROUND_TRIPS,
    PATH_STAGE_SEGMENTS,
    PATH_STAGE_RATE,
    PATH_STAGE_DONE,
} PathStage;

/* "address", "connect", "tls", "hello", "round-trips", "segments", "rate", "done" */
const char *path_stage_name(PathStage stage);

typedef struct {
    const char *destination; /* HOST[:PORT] */
    ChannelOptions channel;
    guint data_ms;
    uint64_t most_bytes_per_second; /* 0: no limit */
    void (*progress)(PathStage stage, double share, uint64_t bytes, gpointer user);
    gpointer user;
} PathProbeJob;

typedef struct {
    PathStage stage;
    char *peer, *address, *software; /* NULL: not known */
    gboolean secure;
    double connect_ms; /* up to HELLO's answer */
    double round_trip_ms, median_round_trip_ms;
    double loaded_round_trip_ms; /* while as much was sent as possible; 0: not known */
    double bytes_per_second;     /* 0: not known */
    gboolean limited;            /* by *most_bytes_per_second* */
    uint64_t bytes;              /* that were sent for it … */
    double ms;                   /* … within that time */
    uint64_t segments, retransmitted;
    guint path_mtu; /* 0: not known */
    /* Packets of this size get through and larger ones vanish without a word; 0: they do not. */
    guint largest_packet;
    char congestion_control[16];
} PathReport;

void path_report_clear(PathReport *report);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(PathReport, path_report_clear)

/* FALSE with *error*; *ret* (path_report_clear()) says what is known all the same. */
gboolean path_probe_run(const PathProbeJob *job, GCancellable *cancellable, PathReport *ret,
                        GError **error);

/* Up to the end of the connection; FALSE with *error* where the peer goes beyond the limits. */
gboolean path_probe_serve(Channel *channel, GError **error);

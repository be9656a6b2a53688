#include "migrate/path_probe.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/names.h"
#include "policy/path_forecast.h"
#include "wire/measure_frame.h"

#define CONNECT_MS 5000
/* For a segment's size that is tried. */
#define TRY_MS 3000
#define PINGS 11u
#define LEAST_PINGS 3u
#define PINGS_MS 2000.0
#define PING_TIMEOUT_MS 5000
/* Fills segments of a jumbo frame's size, too. */
#define FULL_BYTES (20u << 10)
#define SAMPLE_MS 20.0
#define PROGRESS_MS 100.0
#define SMALL_FRAME_BYTES (8u << 10)
/* From here on the way is not so slow that a frame takes long. */
#define LARGE_FRAMES_FROM (1u << 20)
#define LIMIT_SHARE 0.9

/* Sizes of packets that are common on the way: of jumbo frames, Ethernet, PPPoE, tunnels of many
 * kinds, the least of IPv6, the least of IPv4 that everything takes. */
static const guint packet_sizes[] = {576,  800,  1000, 1200, 1280, 1300, 1350, 1400,
                                     1420, 1450, 1480, 1492, 1500, 4000, 8900};
#define LEAST_SEGMENT 516u /* of a packet of 576 with IPv6's and TCP's headers */

typedef struct {
    const PathProbeJob *job;
    GCancellable *cancellable;
    PathReport *report;
    Channel *channel; /* the one that is measured with; NULL: none yet */
    uint64_t next_number;
    uint8_t *content;
} Probe;

static const char *const stage_names[] = {
    [PATH_STAGE_ADDRESS] = "address",
    [PATH_STAGE_CONNECT] = "connect",
    [PATH_STAGE_TLS] = "tls",
    [PATH_STAGE_HELLO] = "hello",
    [PATH_STAGE_ROUND_TRIPS] = "round-trips",
    [PATH_STAGE_SEGMENTS] = "segments",
    [PATH_STAGE_RATE] = "rate",
    [PATH_STAGE_DONE] = "done",
};

const char *path_stage_name(PathStage stage)
{
    return stage_names[stage];
}

void path_report_clear(PathReport *report)
{
    g_clear_pointer(&report->peer, g_free);
    g_clear_pointer(&report->address, g_free);
    g_clear_pointer(&report->software, g_free);
}

static void tell(const Probe *probe, double share)
{
    if (probe->job->progress)
        probe->job->progress(probe->report->stage, share, probe->report->bytes, probe->job->user);
}

static void enter(Probe *probe, PathStage stage)
{
    probe->report->stage = stage;
    tell(probe, 0);
}

static double now_ms(void)
{
    return clock_ns_to_ms(clock_now_ns());
}

static gboolean check_cancelled(const Probe *probe, GError **error)
{
    if (!probe->cancellable || !g_cancellable_is_cancelled(probe->cancellable))
        return TRUE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
    return FALSE;
}

/* ---- a connection ---- */

static PathStage stage_of(ChannelStage stage)
{
    switch (stage) {
    case CHANNEL_STAGE_ADDRESS:
        return PATH_STAGE_ADDRESS;
    case CHANNEL_STAGE_CONNECT:
        return PATH_STAGE_CONNECT;
    case CHANNEL_STAGE_TLS:
        return PATH_STAGE_TLS;
    case CHANNEL_STAGE_DONE:
        break;
    }
    return PATH_STAGE_HELLO;
}

static gboolean greet(Channel *channel, PathReport *report, GError **error)
{
    HelloMessage peer = {0};
    gboolean measures;

    if (!handshake_connect(channel, "measure", &peer, NULL, error))
        return FALSE;
    g_free(report->software);
    report->software = g_strdup(peer.software);
    measures = peer_has_feature(&peer, FEATURE_MEASURE);
    hello_message_clear(&peer);
    if (!measures)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "%s: its agent (%s) is too old to be measured against",
                  channel_get_peer_name(channel),
                  report->software && *report->software ? report->software : "unknown");
    return measures;
}

/* *ret_stage*: how far it has come. */
static Channel *open_channel(Probe *probe, guint most_segment, int timeout_ms, PathStage *ret_stage,
                             GError **error)
{
    ChannelOptions options = probe->job->channel;
    ChannelStage stage = CHANNEL_STAGE_ADDRESS;
    g_autoptr(Channel) channel = NULL;

    options.most_segment = most_segment;
    options.stage = &stage;
    channel =
        channel_connect(probe->job->destination, &options, timeout_ms, probe->cancellable, error);
    *ret_stage = stage_of(stage);
    if (!channel)
        return NULL;
    g_free(probe->report->peer);
    probe->report->peer = g_strdup(channel_get_peer_name(channel));
    g_free(probe->report->address);
    probe->report->address = channel_get_peer_host(channel);
    probe->report->secure = channel_is_secure(channel);
    if (!greet(channel, probe->report, error))
        return NULL;
    *ret_stage = PATH_STAGE_ROUND_TRIPS;
    return g_steal_pointer(&channel);
}

/* ---- questions and answers ---- */

static gboolean send_measure(Probe *probe, Channel *channel, TrafficClass traffic, uint64_t number,
                             size_t bytes, GError **error)
{
    uint8_t head[FRAME_MEASURE_HEAD_BYTES];
    struct iovec payload[] = {{head, sizeof head}, {probe->content, bytes}};

    measure_frame_encode_head(number, head);
    return channel_send_as(channel, traffic, FRAME_MEASURE, payload, G_N_ELEMENTS(payload), error);
}

/* One question with *bytes* behind its head, and how long its answer took. */
static gboolean ask(Probe *probe, Channel *channel, size_t bytes, int timeout_ms, double *ret_ms,
                    GError **error)
{
    uint64_t number = ++probe->next_number;
    double start_ms = now_ms();
    MeasuredFrame answer;
    Frame frame;

    if (!check_cancelled(probe, error) ||
        !send_measure(probe, channel, TRAFFIC_CONTROL, number, bytes, error) ||
        !channel_expect(channel, FRAME_MEASURED, timeout_ms, &frame, error) ||
        !measured_frame_decode(frame.payload, frame.length, &answer, error))
        return FALSE;
    *ret_ms = now_ms() - start_ms;
    if (answer.number == number)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s: an answer to another question",
              channel_get_peer_name(channel));
    return FALSE;
}

static int compare_times(const void *a, const void *b)
{
    const double *one = a, *other = b;

    return (*one > *other) - (*one < *other);
}

static gboolean measure_round_trips(Probe *probe, GError **error)
{
    double times[PINGS];
    double start_ms = now_ms();
    guint count = 0;

    enter(probe, PATH_STAGE_ROUND_TRIPS);
    while (count < PINGS && (count < LEAST_PINGS || now_ms() - start_ms < PINGS_MS)) {
        if (!ask(probe, probe->channel, 0, PING_TIMEOUT_MS, &times[count], error))
            return FALSE;
        tell(probe, (double)++count / PINGS);
    }
    qsort(times, count, sizeof times[0], compare_times);
    probe->report->round_trip_ms = times[0];
    probe->report->median_round_trip_ms = times[count / 2];
    return TRUE;
}

/* ---- the size of segments ---- */

/* Nobody has said no: what was sent, or its answer, has vanished. */
static gboolean is_silence(const GError *error)
{
    return error_is(error, VMFERRY_ERROR_TIMEOUT) || error_is(error, VMFERRY_ERROR_DISCONNECTED);
}

/* Whether full segments of this size are answered.  The connection for that ends here: it would have
 * to be kept alive while others are tried. */
static gboolean try_segment(Probe *probe, guint most_segment, guint *ret_header_bytes)
{
    ChannelPath path;
    PathStage stage;
    gboolean passes;
    Channel *channel;
    double ms;

    channel = open_channel(probe, most_segment, TRY_MS, &stage, NULL);
    if (!channel)
        return FALSE;
    passes = ask(probe, channel, FULL_BYTES, TRY_MS, &ms, NULL);
    channel_get_path(channel, &path);
    *ret_header_bytes = path.header_bytes;
    channel_abandon(channel);
    return passes;
}

/* The largest one, between the first, which gets through, and the last, which does not. */
static guint search_packet(Probe *probe, guint header_bytes)
{
    const guint sizes = G_N_ELEMENTS(packet_sizes);
    guint good = 0, bad = sizes;

    while (bad - good > 1 && check_cancelled(probe, NULL)) {
        guint middle = (good + bad) / 2;

        if (try_segment(probe, packet_sizes[middle] - header_bytes, &header_bytes))
            good = middle;
        else
            bad = middle;
        tell(probe, 1 - (double)(bad - good) / sizes);
    }
    return packet_sizes[good];
}

/* TRUE where small segments get through; then the probe goes on with as large ones as do. */
static gboolean find_segment(Probe *probe, GError **error)
{
    PathReport *report = probe->report;
    PathStage before = report->stage, stage;
    guint header_bytes;

    enter(probe, PATH_STAGE_SEGMENTS);
    channel_abandon(g_steal_pointer(&probe->channel));
    if (!try_segment(probe, LEAST_SEGMENT, &header_bytes)) {
        report->stage = before;
        return FALSE;
    }
    report->largest_packet = search_packet(probe, header_bytes);
    g_clear_error(error);
    probe->channel =
        open_channel(probe, report->largest_packet - header_bytes, CONNECT_MS, &stage, error);
    return probe->channel != NULL;
}

static gboolean connect_probe(Probe *probe, GError **error)
{
    double start_ms = now_ms();
    g_autoptr(GError) failure = NULL;

    enter(probe, PATH_STAGE_CONNECT);
    probe->channel = open_channel(probe, 0, CONNECT_MS, &probe->report->stage, &failure);
    if (probe->channel) {
        probe->report->connect_ms = now_ms() - start_ms;
        return TRUE;
    }
    if (probe->report->stage >= PATH_STAGE_TLS && is_silence(failure) &&
        find_segment(probe, &failure))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

static gboolean check_full_segments(Probe *probe, GError **error)
{
    g_autoptr(GError) failure = NULL;
    double ms;

    if (probe->report->largest_packet > 0)
        return TRUE;
    enter(probe, PATH_STAGE_SEGMENTS);
    if (ask(probe, probe->channel, FULL_BYTES,
            PING_TIMEOUT_MS + (int)(4 * probe->report->median_round_trip_ms), &ms, &failure))
        return TRUE;
    if (is_silence(failure) && find_segment(probe, &failure))
        return measure_round_trips(probe, error);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* ---- the rate ---- */

static void add_sample(Probe *probe, GArray *samples, double start_ms)
{
    uint64_t sent = channel_get_sent_bytes(probe->channel);
    uint64_t backlog = channel_get_backlog_bytes(probe->channel);
    PathSample sample = {.ms = now_ms() - start_ms, .carried_bytes = sent - MIN(backlog, sent)};

    g_array_append_val(samples, sample);
}

static size_t choose_frame_bytes(uint64_t sent)
{
    return sent < LARGE_FRAMES_FROM ? SMALL_FRAME_BYTES : FRAME_MEASURE_MOST_BYTES;
}

static gboolean send_all(Probe *probe, GArray *samples, GError **error)
{
    PathReport *report = probe->report;
    double start_ms = now_ms(), sampled_ms = 0, told_ms = 0;

    add_sample(probe, samples, start_ms);
    do {
        size_t bytes = choose_frame_bytes(report->bytes);

        if (!check_cancelled(probe, error) ||
            !send_measure(probe, probe->channel, TRAFFIC_BULK, 0, bytes, error))
            return FALSE;
        report->bytes += bytes;
        report->ms = now_ms() - start_ms;
        if (report->ms - sampled_ms >= SAMPLE_MS) {
            add_sample(probe, samples, start_ms);
            sampled_ms = report->ms;
        }
        if (report->ms - told_ms >= PROGRESS_MS) {
            tell(probe, MIN(report->ms / probe->job->data_ms, 1));
            told_ms = report->ms;
        }
    } while (report->ms < probe->job->data_ms &&
             report->bytes + FRAME_MEASURE_MOST_BYTES <= PATH_PROBE_MOST_BYTES);
    add_sample(probe, samples, start_ms);
    return TRUE;
}

static gboolean measure_rate(Probe *probe, GError **error)
{
    g_autoptr(GArray) samples = g_array_new(FALSE, FALSE, sizeof(PathSample));
    PathReport *report = probe->report;
    uint64_t limit = probe->job->most_bytes_per_second;
    ChannelPath path;

    enter(probe, PATH_STAGE_RATE);
    channel_set_rate(probe->channel, limit);
    if (!send_all(probe, samples, error))
        return FALSE;
    channel_get_path(probe->channel, &path);
    report->bytes_per_second = path_forecast_rate((const PathSample *)samples->data, samples->len);
    report->limited = limit > 0 && report->bytes_per_second >= LIMIT_SHARE * (double)limit;
    report->loaded_round_trip_ms = clock_ns_to_ms(path.round_trip_ns);
    report->segments = path.segments;
    report->retransmitted = path.retransmitted;
    report->path_mtu = path.path_mtu;
    g_strlcpy(report->congestion_control, path.congestion_control,
              sizeof report->congestion_control);
    return TRUE;
}

/* Ends calls that wait. */
static void on_cancelled(GCancellable *cancellable, gpointer channel)
{
    channel_shutdown(channel);
}

static gboolean measure(Probe *probe, GError **error)
{
    gulong handler;
    gboolean done;

    if (!measure_round_trips(probe, error) || !check_full_segments(probe, error))
        return FALSE;
    handler = probe->cancellable
                  ? g_cancellable_connect(probe->cancellable, G_CALLBACK(on_cancelled),
                                          probe->channel, NULL)
                  : 0;
    done = measure_rate(probe, error);
    if (handler)
        g_cancellable_disconnect(probe->cancellable, handler);
    if (done)
        enter(probe, PATH_STAGE_DONE);
    return done;
}

gboolean path_probe_run(const PathProbeJob *job, GCancellable *cancellable, PathReport *ret,
                        GError **error)
{
    g_autofree uint8_t *content = g_malloc(FRAME_MEASURE_MOST_BYTES);
    Probe probe = {.job = job, .cancellable = cancellable, .report = ret, .content = content};
    gboolean done;

    *ret = (PathReport){0};
    /* Nothing on the way may make it smaller. */
    for (size_t at = 0; at < FRAME_MEASURE_MOST_BYTES; at += 256)
        if (getentropy(content + at, 256) < 0)
            memset(content + at, 0x5a, 256);
    done = connect_probe(&probe, error) && measure(&probe, error);
    /* What still waits is not worth the way's time. */
    channel_abandon(probe.channel);
    return done;
}

/* ---- the other half ---- */

typedef struct {
    uint64_t bytes;
    guint answers;
    double start_ms;
} Served;

static gboolean check_served(const Served *served, GError **error)
{
    if (served->bytes <= PATH_SERVE_MOST_BYTES && served->answers <= PATH_SERVE_MOST_FRAMES &&
        now_ms() - served->start_ms <= PATH_SERVE_MOST_MS)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "measuring has taken %" G_GUINT64_FORMAT
              " bytes and %.0f s; more is not served at a time",
              served->bytes, (now_ms() - served->start_ms) / 1000);
    return FALSE;
}

static gboolean serve_one(Channel *channel, const Frame *frame, Served *served, GError **error)
{
    uint8_t payload[FRAME_MEASURED_BYTES];
    MeasuredFrame answer = {0};

    if (!measure_frame_decode(frame->payload, frame->length, &answer.number, error))
        return FALSE;
    served->bytes += frame->length;
    served->answers += answer.number != 0;
    if (!check_served(served, error))
        return FALSE;
    if (answer.number == 0)
        return TRUE;
    answer.bytes = served->bytes;
    measured_frame_encode(&answer, payload);
    return channel_send_bytes(channel, FRAME_MEASURED, payload, sizeof payload, error);
}

gboolean path_probe_serve(Channel *channel, GError **error)
{
    Served served = {.start_ms = now_ms()};
    g_autoptr(GError) failure = NULL;
    Frame frame;

    for (;;) {
        if (!channel_expect(channel, FRAME_MEASURE, PATH_SERVE_IDLE_MS, &frame, &failure)) {
            /* It has measured enough. */
            if (error_is(failure, VMFERRY_ERROR_DISCONNECTED))
                return TRUE;
            g_propagate_error(error, g_steal_pointer(&failure));
            return FALSE;
        }
        if (!serve_one(channel, &frame, &served, error))
            return FALSE;
    }
}

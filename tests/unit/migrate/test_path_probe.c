/* A probe of the way to another agent, and its other half, over loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "loopback.h"
#include "migrate/path_probe.h"
#include "wire/measure_frame.h"

typedef enum {
    SERVE_WELL,
    SERVE_OLD,   /* no feature "measure" */
    SERVE_WRONG, /* another number in the answer */
} Manner;

typedef struct {
    Listener listener;
    Manner manner;
    TlsIdentity *tls;
    GThread *thread;
    GError *error;
    uint64_t received;
} Host;

static void answer_old(Channel *channel)
{
    HelloMessage ours = {.version_min = PROTOCOL_VERSION,
                         .version_max = PROTOCOL_VERSION,
                         .features = (char *[]){(char *)"pages-lz4", NULL},
                         .software = (char *)"vmferry 0.0.1",
                         .host = (char *)"old",
                         .purpose = (char *)""};
    g_autofree char *text = hello_message_encode(&ours);
    Frame frame;

    assert_true(channel_expect(channel, FRAME_HELLO, 5000, &frame, NULL));
    assert_true(channel_send_bytes(channel, FRAME_HELLO, text, strlen(text), NULL));
    channel_receive(channel, 5000, &frame, NULL);
}

static void answer_wrong(Channel *channel)
{
    uint8_t payload[FRAME_MEASURED_BYTES];
    Frame frame;

    assert_true(channel_expect(channel, FRAME_MEASURE, 5000, &frame, NULL));
    measured_frame_encode(&(MeasuredFrame){.number = 77}, payload);
    channel_send_bytes(channel, FRAME_MEASURED, payload, sizeof payload, NULL);
    channel_receive(channel, 5000, &frame, NULL);
}

static gpointer host_thread(gpointer data)
{
    Host *host = data;
    ChannelOptions options = {.tls = host->tls};
    g_autoptr(Channel) channel = channel_accept(listener_accept(&host->listener), &options, NULL);

    assert_non_null(channel);
    if (host->manner == SERVE_OLD) {
        answer_old(channel);
        return NULL;
    }
    assert_true(handshake_accept(channel, NULL, NULL, NULL, NULL));
    if (host->manner == SERVE_WRONG)
        answer_wrong(channel);
    else if (!path_probe_serve(channel, &host->error))
        channel_send_error(channel, host->error);
    host->received = channel_get_received_bytes(channel);
    return NULL;
}

static void host_start(Host *host, Manner manner)
{
    *host = (Host){.manner = manner};
    listener_open(&host->listener);
    host->thread = g_thread_new("host", host_thread, host);
}

static void host_end(Host *host)
{
    g_thread_join(host->thread);
    listener_close(&host->listener);
}

static void on_progress(PathStage stage, double share, uint64_t bytes, gpointer user)
{
    PathStage *last = user;

    assert_true(share >= 0 && share <= 1);
    assert_true(stage >= *last);
    *last = stage;
}

static void test_measured(void **state)
{
    Host host;
    PathStage last = PATH_STAGE_ADDRESS;
    g_auto(PathReport) report = {0};
    g_autoptr(GError) error = NULL;

    host_start(&host, SERVE_WELL);
    assert_true(path_probe_run(&(PathProbeJob){.destination = host.listener.address,
                                               .data_ms = 300,
                                               .progress = on_progress,
                                               .user = &last},
                               NULL, &report, &error));
    host_end(&host);
    assert_null(host.error);
    assert_int_equal(last, PATH_STAGE_DONE);
    assert_int_equal(report.stage, PATH_STAGE_DONE);
    assert_true(report.round_trip_ms > 0 && report.round_trip_ms <= report.median_round_trip_ms);
    assert_true(report.bytes_per_second > 1e6);
    assert_true(report.bytes > 0 && report.bytes <= PATH_PROBE_MOST_BYTES);
    assert_false(report.limited);
    assert_true(report.segments > 0);
    assert_int_equal(report.largest_packet, 0);
    assert_true(report.path_mtu >= 1500);
    assert_true(report.congestion_control[0] != '\0');
    assert_string_equal(report.address, "127.0.0.1");
}

static void test_limited(void **state)
{
    Host host;
    g_auto(PathReport) report = {0};

    host_start(&host, SERVE_WELL);
    assert_true(path_probe_run(&(PathProbeJob){.destination = host.listener.address,
                                               .data_ms = 1000,
                                               .most_bytes_per_second = 2000000},
                               NULL, &report, NULL));
    host_end(&host);
    assert_true(report.limited);
    assert_true(report.bytes_per_second > 1.7e6 && report.bytes_per_second < 2.2e6);
    assert_true(host.received < 2500000);
}

static void test_nobody(void **state)
{
    g_auto(PathReport) report = {0};
    g_autoptr(GError) error = NULL;
    Listener listener;

    listener_open(&listener);
    close(listener.fd);
    assert_false(path_probe_run(&(PathProbeJob){.destination = listener.address, .data_ms = 300},
                                NULL, &report, &error));
    assert_int_equal(report.stage, PATH_STAGE_CONNECT);
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    assert_null(report.peer);
    g_free(listener.address);
}

static void test_bad_address(void **state)
{
    g_auto(PathReport) report = {0};
    g_autoptr(GError) error = NULL;

    assert_false(path_probe_run(&(PathProbeJob){.destination = "host:99999", .data_ms = 300}, NULL,
                                &report, &error));
    assert_int_equal(report.stage, PATH_STAGE_ADDRESS);
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

static void test_old_agent(void **state)
{
    Host host;
    g_auto(PathReport) report = {0};
    g_autoptr(GError) error = NULL;

    host_start(&host, SERVE_OLD);
    assert_false(
        path_probe_run(&(PathProbeJob){.destination = host.listener.address, .data_ms = 300}, NULL,
                       &report, &error));
    host_end(&host);
    assert_int_equal(report.stage, PATH_STAGE_HELLO);
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_non_null(strstr(error->message, "vmferry 0.0.1"));
}

static void test_wrong_answer(void **state)
{
    Host host;
    g_auto(PathReport) report = {0};
    g_autoptr(GError) error = NULL;

    host_start(&host, SERVE_WRONG);
    assert_false(
        path_probe_run(&(PathProbeJob){.destination = host.listener.address, .data_ms = 300}, NULL,
                       &report, &error));
    host_end(&host);
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

/* While it sends, under a limit that lets it wait. */
static void on_progress_cancel(PathStage stage, double share, uint64_t bytes, gpointer user)
{
    if (stage == PATH_STAGE_RATE)
        g_cancellable_cancel(user);
}

static void test_cancelled(void **state)
{
    Host host;
    g_auto(PathReport) report = {0};
    g_autoptr(GError) error = NULL;
    g_autoptr(GCancellable) cancellable = g_cancellable_new();

    host_start(&host, SERVE_WELL);
    assert_false(path_probe_run(&(PathProbeJob){.destination = host.listener.address,
                                                .data_ms = 60000,
                                                .most_bytes_per_second = 1000,
                                                .progress = on_progress_cancel,
                                                .user = cancellable},
                                cancellable, &report, &error));
    host_end(&host);
    assert_true(error_is(error, VMFERRY_ERROR_CANCELLED));
    assert_int_equal(report.stage, PATH_STAGE_RATE);
}

/* ---- peers that take more than they may ---- */

static Channel *connect_rudely(Host *host)
{
    Channel *channel;

    host_start(host, SERVE_WELL);
    channel = channel_connect(host->listener.address, &(ChannelOptions){0}, 5000, NULL, NULL);
    assert_non_null(channel);
    assert_true(handshake_connect(channel, "measure", NULL, NULL, NULL));
    return channel;
}

static void test_too_many_questions(void **state)
{
    Host host;
    g_autoptr(Channel) channel = connect_rudely(&host);
    uint8_t head[FRAME_MEASURE_HEAD_BYTES];
    g_autoptr(GError) error = NULL;
    Frame frame;
    guint answered = 0;

    measure_frame_encode_head(1, head);
    for (guint i = 0; i < PATH_SERVE_MOST_FRAMES + 1; i++)
        assert_true(channel_send_bytes(channel, FRAME_MEASURE, head, sizeof head, NULL));
    while (channel_expect(channel, FRAME_MEASURED, 5000, &frame, &error))
        answered++;
    assert_int_equal(answered, PATH_SERVE_MOST_FRAMES);
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    host_end(&host);
    assert_true(error_is(host.error, VMFERRY_ERROR_REFUSED));
    g_clear_error(&host.error);
}

static void test_too_many_bytes(void **state)
{
    Host host;
    g_autoptr(Channel) channel = connect_rudely(&host);
    size_t bytes = FRAME_MEASURE_HEAD_BYTES + FRAME_MEASURE_MOST_BYTES;
    g_autofree uint8_t *payload = g_malloc0(bytes);
    uint64_t sent = 0;

    while (sent < 2 * PATH_SERVE_MOST_BYTES &&
           channel_send_bytes(channel, FRAME_MEASURE, payload, bytes, NULL))
        sent += bytes;
    host_end(&host);
    assert_true(error_is(host.error, VMFERRY_ERROR_REFUSED));
    assert_true(host.received < PATH_SERVE_MOST_BYTES + (16u << 20));
    g_clear_error(&host.error);
}

static void test_another_frame(void **state)
{
    Host host;
    g_autoptr(Channel) channel = connect_rudely(&host);

    assert_true(channel_send_bytes(channel, FRAME_PREPARE, NULL, 0, NULL));
    host_end(&host);
    assert_true(error_is(host.error, VMFERRY_ERROR_INVALID));
    g_clear_error(&host.error);
}

/* Says nothing: is not waited for. */
static void test_silence(void **state)
{
    Host host;
    g_autoptr(Channel) channel = connect_rudely(&host);

    host_end(&host);
    assert_true(error_is(host.error, VMFERRY_ERROR_TIMEOUT));
    g_clear_error(&host.error);
}

static void test_frames(void **state)
{
    uint8_t bytes[FRAME_MEASURED_BYTES + 1] = {0};
    MeasuredFrame frame = {1, 2}, read;
    uint64_t number;

    measured_frame_encode(&frame, bytes);
    assert_true(measured_frame_decode(bytes, FRAME_MEASURED_BYTES, &read, NULL));
    assert_true(read.number == 1 && read.bytes == 2);
    assert_false(measured_frame_decode(bytes, FRAME_MEASURED_BYTES - 1, &read, NULL));
    assert_false(measured_frame_decode(bytes, FRAME_MEASURED_BYTES + 1, &read, NULL));
    measure_frame_encode_head(UINT64_MAX, bytes);
    assert_true(measure_frame_decode(bytes, sizeof bytes, &number, NULL));
    assert_true(number == UINT64_MAX);
    assert_false(measure_frame_decode(bytes, 7, &number, NULL));
    assert_false(frame_header_check(&(FrameHeader){FRAME_MEASURE, 7}, NULL));
    assert_false(frame_header_check(
        &(FrameHeader){FRAME_MEASURE, FRAME_MEASURE_HEAD_BYTES + FRAME_MEASURE_MOST_BYTES + 1},
        NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measured),       cmocka_unit_test(test_limited),
        cmocka_unit_test(test_nobody),         cmocka_unit_test(test_bad_address),
        cmocka_unit_test(test_old_agent),      cmocka_unit_test(test_wrong_answer),
        cmocka_unit_test(test_cancelled),      cmocka_unit_test(test_too_many_questions),
        cmocka_unit_test(test_too_many_bytes), cmocka_unit_test(test_another_frame),
        cmocka_unit_test(test_silence),        cmocka_unit_test(test_frames),
    };

    alarm(TEST_DEADLINE_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

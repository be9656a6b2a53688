/*
 * The block tap's sink: what clients write is in the stream, in order, nothing lost or added; and
 * nobody holds up a client for longer than was said
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <libnbd.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/process.h"
#include "disk/tap_sink.h"
#include "nbd_owner.h"

#define DISK_BYTES ((1u << 20) + 512)
#define READ_MS 20000
#define DISKS_MAX 3

static TapSink *start_sink(guint disks, uint64_t buffer_bytes, guint stall_ms, guint wait_ms)
{
    static const TapDisk all[DISKS_MAX] = {{DISK_BYTES}, {DISK_BYTES}, {DISK_BYTES}};
    GError *error = NULL;
    TapSink *sink = tap_sink_start(&(TapSinkOptions){.buffer_bytes = buffer_bytes,
                                                     .stall_ms = stall_ms,
                                                     .wait_ms = wait_ms,
                                                     .disks = all,
                                                     .count = disks},
                                   &error);

    if (!sink)
        fail_msg("%s", error->message);
    return sink;
}

static struct nbd_handle *connect_to(const char *address)
{
    struct nbd_handle *nbd = nbd_create();

    nbd_set_export_name(nbd, TAP_EXPORT_NAME);
    assert_int_equal(nbd_connect_socket(nbd, connect_to_server(address, getpid())), 0);
    return nbd;
}

static struct nbd_handle *connect_client(TapSink *sink, guint disk)
{
    return connect_to(tap_sink_get_address(sink, disk));
}

static TapEvent read_event(TapSink *sink)
{
    GError *error = NULL;
    TapEvent event;
    int got = tap_sink_read(sink, READ_MS, &event, &error);

    if (got != 1)
        fail_msg("%s", error ? error->message : "no event came");
    return event;
}

static void expect_nothing(TapSink *sink)
{
    TapEvent event;

    assert_int_equal(tap_sink_read(sink, 20, &event, NULL), 0);
}

static void expect_end(TapSink *sink, const char *text)
{
    TapEvent event = read_event(sink);

    assert_int_equal(event.kind, TAP_EVENT_END);
    if (text && (!event.reason || !strstr(event.reason, text)))
        fail_msg("\"%s\" does not hold \"%s\"", event.reason ? event.reason : "", text);
    if (!text)
        assert_null(event.reason);
}

/* ---- any stream of requests ---- */

typedef struct {
    TapEventKind kind;
    uint64_t offset;
    uint32_t length;
    uint8_t *data;
} Request;

typedef struct {
    TapSink *sink;
    guint disk, seed;
    GArray *requests; /* of Request, by the client */
    guint seen;       /* of them, by the reader */
    uint8_t *model, *image;
} Client;

static Request make_request(GRand *random)
{
    Request request = {.kind = (TapEventKind)(g_rand_int_range(random, 0, 7) % 4)};
    uint32_t most = 1u << g_rand_int_range(random, 0, 18);

    if (request.kind == TAP_EVENT_FLUSH)
        return request;
    request.offset = (uint64_t)g_rand_int_range(random, 0, DISK_BYTES);
    request.length = (uint32_t)g_rand_int_range(random, 1, (gint32)most + 1);
    request.length = (uint32_t)MIN(request.length, DISK_BYTES - request.offset);
    if (request.kind != TAP_EVENT_WRITE)
        return request;
    request.data = g_malloc(request.length);
    for (uint32_t i = 0; i < request.length; i++)
        request.data[i] = (uint8_t)g_rand_int(random);
    return request;
}

static void apply(uint8_t *image, TapEventKind kind, uint64_t offset, uint32_t length,
                  const uint8_t *data)
{
    if (kind == TAP_EVENT_WRITE)
        memcpy(image + offset, data, length);
    else if (kind == TAP_EVENT_ZERO)
        memset(image + offset, 0, length);
}

static int64_t issue(struct nbd_handle *nbd, const Request *request)
{
    switch (request->kind) {
    case TAP_EVENT_WRITE:
        return nbd_aio_pwrite(nbd, request->data, request->length, request->offset,
                              NBD_NULL_COMPLETION, 0);
    case TAP_EVENT_ZERO:
        return nbd_aio_zero(nbd, request->length, request->offset, NBD_NULL_COMPLETION, 0);
    case TAP_EVENT_TRIM:
        return nbd_aio_trim(nbd, request->length, request->offset, NBD_NULL_COMPLETION, 0);
    default:
        return nbd_aio_flush(nbd, NBD_NULL_COMPLETION, 0);
    }
}

/* Commands that succeeded, and nothing else, have ended. */
static void retire(struct nbd_handle *nbd, int in_flight)
{
    int64_t cookie;

    while (nbd_aio_in_flight(nbd) > in_flight)
        assert_true(nbd_poll(nbd, READ_MS) > 0);
    while ((cookie = nbd_aio_peek_command_completed(nbd)) > 0)
        assert_int_equal(nbd_aio_command_completed(nbd, (uint64_t)cookie), 1);
}

static gpointer client_main(gpointer data)
{
    Client *client = data;
    g_autoptr(GRand) random = g_rand_new_with_seed(client->seed);
    struct nbd_handle *nbd = connect_client(client->sink, client->disk);

    nbd_set_strict_mode(nbd, 0);
    for (guint i = 0; i < 200; i++) {
        Request request = make_request(random);

        g_array_append_val(client->requests, request);
        apply(client->model, request.kind, request.offset, request.length, request.data);
        assert_true(issue(nbd, &request) >= 0);
        retire(nbd, g_rand_int_range(random, 0, 32));
    }
    retire(nbd, 0);
    assert_int_equal(nbd_shutdown(nbd, 0), 0);
    nbd_close(nbd);
    return NULL;
}

/* The list of requests grows meanwhile, so the stream is kept and compared at the end. */
static void keep_event(GArray *events, const TapEvent *event)
{
    Request kept = {event->kind, event->offset, event->length, NULL};

    if (event->data)
        kept.data = g_memdup2(event->data, event->length);
    g_array_append_val(events, kept);
}

static void compare(Client *client, GArray *events)
{
    assert_int_equal(events->len, client->requests->len + 1);
    for (guint i = 0; i < client->requests->len; i++) {
        Request *sent = &g_array_index(client->requests, Request, i);
        Request *seen = &g_array_index(events, Request, i);

        assert_int_equal(sent->kind, seen->kind);
        assert_true(sent->offset == seen->offset && sent->length == seen->length);
        if (sent->data)
            assert_memory_equal(sent->data, seen->data, sent->length);
        apply(client->image, seen->kind, seen->offset, seen->length, seen->data);
    }
    assert_int_equal(g_array_index(events, Request, events->len - 1).kind, TAP_EVENT_END);
    assert_memory_equal(client->model, client->image, DISK_BYTES);
}

static void clear_request(gpointer data)
{
    g_free(((Request *)data)->data);
}

static GArray *requests_new(void)
{
    GArray *requests = g_array_new(FALSE, FALSE, sizeof(Request));

    g_array_set_clear_func(requests, clear_request);
    return requests;
}

static void read_until_ends(TapSink *sink, guint disks, GArray **events, GRand *slow)
{
    guint ends = 0;

    for (uint64_t sequence = 1; ends < disks; sequence++) {
        TapEvent event = read_event(sink);

        assert_true(event.sequence == sequence);
        assert_null(event.reason);
        keep_event(events[event.disk], &event);
        ends += event.kind == TAP_EVENT_END;
        if (slow && g_rand_int_range(slow, 0, 4) == 0)
            g_usleep((gulong)g_rand_int_range(slow, 0, 3000));
    }
    expect_nothing(sink);
}

static void run_streams(guint seed, guint disks, uint64_t buffer_bytes, gboolean slow)
{
    g_autoptr(TapSink) sink = start_sink(disks, buffer_bytes, 10000, 10000);
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    Client clients[DISKS_MAX];
    GThread *threads[DISKS_MAX];
    GArray *events[DISKS_MAX];

    for (guint i = 0; i < disks; i++) {
        clients[i] = (Client){.sink = sink,
                              .disk = i,
                              .seed = seed * 10 + i,
                              .requests = requests_new(),
                              .model = g_malloc0(DISK_BYTES),
                              .image = g_malloc0(DISK_BYTES)};
        events[i] = requests_new();
        threads[i] = g_thread_new("client", client_main, &clients[i]);
    }
    read_until_ends(sink, disks, events, slow ? random : NULL);
    for (guint i = 0; i < disks; i++) {
        g_thread_join(threads[i]);
        compare(&clients[i], events[i]);
        g_array_unref(events[i]);
        g_array_unref(clients[i].requests);
        g_free(clients[i].model);
        g_free(clients[i].image);
    }
}

static void test_any_streams(void **state)
{
    for (guint seed = 1; seed <= 6; seed++) {
        run_streams(seed, 1 + seed % DISKS_MAX, TAP_BUFFER_BYTES, FALSE);
        run_streams(100 + seed, 1 + seed % DISKS_MAX, 100000, FALSE);
        run_streams(200 + seed, 1 + seed % DISKS_MAX, 100000, TRUE);
    }
}

/* What began after the end of another request, on any disk, has a higher number. */
static void test_order_of_disks(void **state)
{
    g_autoptr(TapSink) sink = start_sink(3, TAP_BUFFER_BYTES, TAP_STALL_MS, TAP_WAIT_MS);
    struct nbd_handle *clients[3];

    for (guint i = 0; i < 3; i++)
        clients[i] = connect_client(sink, i);
    for (guint i = 0; i < 300; i++)
        assert_int_equal(nbd_pwrite(clients[i * 7 % 3], &i, sizeof i, i * 8, 0), 0);
    for (guint i = 0; i < 300; i++) {
        TapEvent event = read_event(sink);

        assert_int_equal(event.disk, i * 7 % 3);
        assert_int_equal(event.length, sizeof i);
        assert_memory_equal(event.data, &i, sizeof i);
    }
    for (guint i = 0; i < 3; i++)
        nbd_close(clients[i]);
}

static void test_longest_request(void **state)
{
    TapDisk disk = {2 * (uint64_t)NBD_MAX_REQUEST_BYTES};
    g_autoptr(TapSink) sink = tap_sink_start(&(TapSinkOptions){.client = getpid(),
                                                               .buffer_bytes = 4096,
                                                               .stall_ms = TAP_STALL_MS,
                                                               .wait_ms = TAP_WAIT_MS,
                                                               .disks = &disk,
                                                               .count = 1},
                                             NULL);
    g_autofree uint8_t *data = g_malloc(NBD_MAX_REQUEST_BYTES);
    struct nbd_handle *nbd = connect_client(sink, 0);
    TapEvent event;

    memset(data, 0xa7, NBD_MAX_REQUEST_BYTES);
    assert_int_equal(nbd_pwrite(nbd, data, NBD_MAX_REQUEST_BYTES, 4096, 0), 0);
    event = read_event(sink);
    assert_int_equal(event.length, NBD_MAX_REQUEST_BYTES);
    assert_memory_equal(event.data, data, NBD_MAX_REQUEST_BYTES);
    nbd_close(nbd);
    expect_end(sink, "is gone");
}

/* ---- who stalls, who dies ---- */

#define PIECE_BYTES 32768

static guint write_until_failure(struct nbd_handle *nbd, gint64 *ret_slowest_us)
{
    uint8_t data[PIECE_BYTES];
    guint written = 0;

    memset(data, 1, sizeof data);
    for (;;) {
        gint64 began = g_get_monotonic_time();
        int failed = nbd_pwrite(nbd, data, sizeof data, 0, 0);

        *ret_slowest_us = MAX(*ret_slowest_us, g_get_monotonic_time() - began);
        if (failed)
            return written;
        written++;
    }
}

static void test_reader_stalls(void **state)
{
    g_autoptr(TapSink) sink = start_sink(2, 1u << 20, 300, 3000);
    struct nbd_handle *nbd = connect_client(sink, 0), *other = connect_client(sink, 1);
    gint64 slowest_us = 0;
    guint written = write_until_failure(nbd, &slowest_us);
    uint8_t byte = 0;

    assert_true(written >= (1u << 20) / PIECE_BYTES - 1);
    assert_true(slowest_us >= 250000 && slowest_us < 1500000);
    assert_int_not_equal(nbd_pwrite(other, &byte, 1, 0, 0), 0);
    for (guint i = 0; i < written; i++)
        assert_int_equal(read_event(sink).kind, TAP_EVENT_WRITE);
    expect_end(sink, "is full and nothing of it was taken for 300 ms");
    expect_end(sink, "is full and nothing of it was taken for 300 ms");
    expect_nothing(sink);
    nbd_close(nbd);
    nbd_close(other);
}

static gpointer write_long(gpointer data)
{
    uint8_t *much = g_malloc0(DISK_BYTES);
    int failed = nbd_pwrite(data, much, DISK_BYTES, 0, 0);

    g_free(much);
    return GINT_TO_POINTER(failed);
}

/* One that reads, but so slowly that a request would wait too long. */
static void test_reader_trickles(void **state)
{
    g_autoptr(TapSink) sink = start_sink(1, 1u << 20, 2000, 400);
    struct nbd_handle *nbd = connect_client(sink, 0);
    uint8_t data[PIECE_BYTES] = {0};
    GThread *thread;

    for (guint i = 0; i < 28; i++)
        assert_int_equal(nbd_pwrite(nbd, data, sizeof data, 0, 0), 0);
    thread = g_thread_new("long", write_long, nbd);
    for (guint i = 0; i < 28; i++) {
        assert_int_equal(read_event(sink).length, PIECE_BYTES);
        g_usleep(50000);
    }
    expect_end(sink, "a request of the guest has waited for 400 ms");
    assert_int_not_equal(GPOINTER_TO_INT(g_thread_join(thread)), 0);
    nbd_close(nbd);
}

static void test_end_of_the_reader(void **state)
{
    TapSink *sink = start_sink(1, 1u << 20, 60000, 60000);
    struct nbd_handle *nbd = connect_client(sink, 0);
    pid_t pid = tap_sink_get_pid(sink);
    uint8_t byte = 0;

    assert_int_equal(nbd_pwrite(nbd, &byte, 1, 0, 0), 0);
    tap_sink_free(sink);
    assert_int_not_equal(nbd_pwrite(nbd, &byte, 1, 0, 0), 0);
    assert_int_equal(kill(pid, 0), -1);
    nbd_close(nbd);
}

typedef struct {
    pid_t sink;
    char address[120];
} Told;

/* Starts a sink that nothing is read from, and waits to be killed. */
static void be_an_agent(int fd)
{
    TapSink *sink = start_sink(1, 1u << 20, 60000, 60000);
    Told told = {.sink = tap_sink_get_pid(sink)};

    g_strlcpy(told.address, tap_sink_get_address(sink, 0), sizeof told.address);
    if (write(fd, &told, sizeof told) != (ssize_t)sizeof told)
        _exit(1);
    for (;;)
        pause();
}

static gpointer kill_soon(gpointer data)
{
    g_usleep(300000);
    kill(GPOINTER_TO_INT(data), SIGKILL);
    return NULL;
}

/* With a full buffer and a request that waits for room. */
static void test_agent_is_killed(void **state)
{
    gint64 slowest_us = 0;
    uint64_t start_time = 0;
    struct nbd_handle *nbd;
    GThread *killer;
    Told told;
    int ends[2];
    pid_t agent;

    assert_int_equal(pipe(ends), 0);
    agent = fork();
    if (agent == 0)
        be_an_agent(ends[1]);
    assert_int_equal(read(ends[0], &told, sizeof told), sizeof told);
    assert_true(process_get_start_time(told.sink, &start_time, NULL));
    nbd = connect_to(told.address);
    killer = g_thread_new("killer", kill_soon, GINT_TO_POINTER(agent));
    write_until_failure(nbd, &slowest_us);
    assert_true(slowest_us < 1500000);
    g_thread_join(killer);
    assert_int_equal(waitpid(agent, NULL, 0), agent);
    assert_true(process_wait_gone(told.sink, start_time, 2000));
    nbd_close(nbd);
    close(ends[0]);
    close(ends[1]);
}

/* The other disks go on. */
static void test_client_dies(void **state)
{
    g_autoptr(TapSink) sink = start_sink(2, 1u << 20, TAP_STALL_MS, TAP_WAIT_MS);
    struct nbd_handle *nbd = connect_client(sink, 0), *other = connect_client(sink, 1);
    uint8_t byte = 9;

    assert_int_equal(nbd_pwrite(nbd, &byte, 1, 77, 0), 0);
    nbd_close(nbd);
    assert_int_equal(read_event(sink).offset, 77);
    expect_end(sink, "NBD client: is gone");
    assert_int_equal(nbd_pwrite(other, &byte, 1, 78, 0), 0);
    assert_int_equal(read_event(sink).offset, 78);
    assert_int_equal(nbd_shutdown(other, 0), 0);
    expect_end(sink, NULL);
    nbd_close(other);
}

static void test_sink_is_killed(void **state)
{
    g_autoptr(TapSink) sink = start_sink(1, 1u << 20, TAP_STALL_MS, TAP_WAIT_MS);
    struct nbd_handle *nbd = connect_client(sink, 0);
    g_autoptr(GError) error = NULL;
    TapEvent event;

    kill(tap_sink_get_pid(sink), SIGKILL);
    for (guint i = 0; i < 2; i++) {
        assert_int_equal(tap_sink_read(sink, READ_MS, &event, &error), -1);
        assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
        g_clear_error(&error);
    }
    nbd_close(nbd);
}

/* A second sink cannot take the address of one that lives, and can take that of one that ended. */
static void test_address_again(void **state)
{
    TapSink *sink = start_sink(1, 1u << 20, TAP_STALL_MS, TAP_WAIT_MS);
    g_autofree char *address = g_strdup(tap_sink_get_address(sink, 0));
    TapDisk disk = {DISK_BYTES, address};
    TapSinkOptions options = {.buffer_bytes = 1u << 20,
                              .stall_ms = TAP_STALL_MS,
                              .wait_ms = TAP_WAIT_MS,
                              .disks = &disk,
                              .count = 1};
    g_autoptr(GError) error = NULL;
    struct nbd_handle *nbd;

    assert_null(tap_sink_start(&options, &error));
    assert_non_null(strstr(error->message, "block tap: "));
    tap_sink_free(sink);
    sink = tap_sink_start(&options, NULL);
    assert_non_null(sink);
    assert_string_equal(tap_sink_get_address(sink, 0), address);
    nbd = connect_client(sink, 0);
    assert_int_equal(nbd_flush(nbd, 0), 0);
    assert_int_equal(read_event(sink).kind, TAP_EVENT_FLUSH);
    nbd_close(nbd);
    tap_sink_free(sink);
}

static void test_options_are_checked(void **state)
{
    static const TapDisk empty = {0};
    g_autoptr(GError) error = NULL;

    assert_null(tap_sink_start(&(TapSinkOptions){.count = 0}, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    g_clear_error(&error);
    assert_null(tap_sink_start(&(TapSinkOptions){.disks = &empty, .count = 1}, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

/* ---- the reader, of bytes that no sink would send ---- */

static void expect_refused(TapRecordHead head, size_t bytes, VmferryErrorCode code)
{
    static const uint64_t sizes[] = {DISK_BYTES, 100};
    g_autoptr(GError) error = NULL;
    TapReader *reader;
    TapEvent event;
    int ends[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    reader = tap_reader_new(ends[0], sizes, G_N_ELEMENTS(sizes));
    assert_int_equal(write(ends[1], &head, bytes), bytes);
    assert_int_equal(tap_reader_next(reader, 0, &event, NULL),
                     code == VMFERRY_ERROR_INVALID ? -1 : 0);
    close(ends[1]);
    assert_int_equal(tap_reader_next(reader, READ_MS, &event, &error), -1);
    assert_true(error_is(error, code));
    tap_reader_free(reader);
}

static void test_reader_is_strict(void **state)
{
    const TapRecordHead right = {
        .magic = TAP_RECORD_MAGIC, .disk = 1, .sequence = 1, .offset = 50, .length = 50};
    TapRecordHead head;

#define WRONG(field, value)                                                                        \
    head = right;                                                                                  \
    head.field = value;                                                                            \
    expect_refused(head, sizeof head, VMFERRY_ERROR_INVALID)

    expect_refused(right, sizeof right, VMFERRY_ERROR_DISCONNECTED);
    expect_refused(right, sizeof right - 1, VMFERRY_ERROR_DISCONNECTED);
    WRONG(magic, 1);
    WRONG(reserved, 1);
    WRONG(kind, TAP_EVENT_END + 1);
    WRONG(kind, TAP_EVENT_FLUSH);
    WRONG(disk, 2);
    WRONG(sequence, 2);
    WRONG(sequence, 0);
    WRONG(offset, 51);
    WRONG(offset, UINT64_MAX);
    WRONG(length, 51);
    WRONG(length, 0);
    head = right;
    head.disk = 0;
    head.length = NBD_MAX_REQUEST_BYTES + 1;
    expect_refused(head, sizeof head, VMFERRY_ERROR_INVALID);
    head = (TapRecordHead){.magic = TAP_RECORD_MAGIC, .kind = TAP_EVENT_END, .sequence = 1};
    head.length = TAP_REASON_MAX + 1;
    expect_refused(head, sizeof head, VMFERRY_ERROR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_streams),         cmocka_unit_test(test_order_of_disks),
        cmocka_unit_test(test_longest_request),     cmocka_unit_test(test_reader_stalls),
        cmocka_unit_test(test_reader_trickles),     cmocka_unit_test(test_end_of_the_reader),
        cmocka_unit_test(test_agent_is_killed),     cmocka_unit_test(test_client_dies),
        cmocka_unit_test(test_sink_is_killed),      cmocka_unit_test(test_address_again),
        cmocka_unit_test(test_options_are_checked), cmocka_unit_test(test_reader_is_strict),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

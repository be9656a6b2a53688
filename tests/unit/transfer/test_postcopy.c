/*
 * Both ends of a post-copy over a session: pages pushed and wanted, connections that are cut and
 * resumed, failures on either side.  The fault service is one of this test: plain memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "loopback.h"
#include "session_pair.h"
#include "transfer/page_applier.h"
#include "transfer/postcopy_receiver.h"
#include "transfer/postcopy_sender.h"
#include "wire/channel_private.h"
#include "wire/page_frame.h"
#include "wire/postcopy_frame.h"

#define REGIONS 3u
#define MOST_PAGES 6000u
#define UNTOUCHED 0xee
#define TIMEOUT_MS 20000

static uint64_t region_pages[REGIONS] = {MOST_PAGES, 1, 300};
static char *region_names[] = {(char *)"pc.ram", (char *)"vga.vram", (char *)"rom", NULL};
static const PageRegions regions = {REGIONS, region_pages, region_names};

/* Little of bulk is handed to the kernel at once. */
static const LinkRate slow_link = {.bytes_per_ms = 100};

/* ---- the source's memory ---- */

typedef struct {
    PageSource head;
    _Atomic gboolean fails;
} TestSource;

/* Each page is another one, some are zero, and every other one shrinks. */
static void make_page(guint region, uint64_t page, uint8_t *out)
{
    uint64_t word = (page + 1) * 0x9e3779b97f4a7c15ULL + region;

    memset(out, 0, PAGE_BYTES);
    if (page % 7 == 3)
        return;
    for (size_t i = 0; i < PAGE_BYTES; i += sizeof word) {
        memcpy(out + i, &word, sizeof word);
        if (page % 2 == 0)
            word = word * 6364136223846793005ULL + 1442695040888963407ULL;
    }
}

static gboolean source_read(PageSource *source, guint region, const PageSpan *spans, guint count,
                            uint8_t *buffer, GError **error)
{
    if (atomic_load(&((TestSource *)source)->fails)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "the process has ended");
        return FALSE;
    }
    for (guint i = 0; i < count; i++) {
        assert_true(spans[i].first + spans[i].count <= region_pages[region]);
        for (uint64_t k = 0; k < spans[i].count; k++, buffer += PAGE_BYTES)
            make_page(region, spans[i].first + k, buffer);
    }
    return TRUE;
}

static const PageSourceMethods source_methods = {.read = source_read};

/* ---- the destination's memory ---- */

struct FaultService {
    GMutex lock;
    GCond placed;
    GPtrArray *outstanding; /* a PageSet a region */
    uint8_t *memory[REGIONS];
    uint64_t left, dropped;
    gboolean fails;
};

gboolean __wrap_fault_service_place(FaultService *service, guint region, const PageSpan *spans,
                                    guint count, const uint8_t *buffer, GError **error);
gboolean __wrap_fault_service_place_zero(FaultService *service, guint region, PageSpan run,
                                         GError **error);

/* With the lock held; *content* NULL: zeroes. */
static void place(FaultService *service, guint region, uint64_t page, const uint8_t *content)
{
    uint8_t *at = service->memory[region] + page * PAGE_BYTES;

    if (!page_set_has(service->outstanding->pdata[region], page)) {
        service->dropped++;
        return;
    }
    page_set_remove(service->outstanding->pdata[region], page, 1);
    service->left--;
    if (content)
        memcpy(at, content, PAGE_BYTES);
    else
        memset(at, 0, PAGE_BYTES);
    g_cond_broadcast(&service->placed);
}

gboolean __wrap_fault_service_place(FaultService *service, guint region, const PageSpan *spans,
                                    guint count, const uint8_t *buffer, GError **error)
{
    lock_guard(&service->lock);

    if (service->fails) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "the VMM there has ended");
        return FALSE;
    }
    for (guint i = 0; i < count; i++)
        for (uint64_t k = 0; k < spans[i].count; k++, buffer += PAGE_BYTES)
            place(service, region, spans[i].first + k, buffer);
    return TRUE;
}

gboolean __wrap_fault_service_place_zero(FaultService *service, guint region, PageSpan run,
                                         GError **error)
{
    lock_guard(&service->lock);

    for (uint64_t i = 0; i < run.count; i++)
        place(service, region, run.first + i, NULL);
    return TRUE;
}

static gboolean await_page(FaultService *service, guint region, uint64_t page, gint64 end)
{
    lock_guard(&service->lock);

    while (page_set_has(service->outstanding->pdata[region], page))
        if (!g_cond_wait_until(&service->placed, &service->lock, end))
            return FALSE;
    return TRUE;
}

static uint64_t count_left(FaultService *service)
{
    lock_guard(&service->lock);

    return service->left;
}

static void await_left(FaultService *service, uint64_t most)
{
    gint64 end = g_get_monotonic_time() + TIMEOUT_MS * 1000;
    lock_guard(&service->lock);

    while (service->left > most)
        assert_true(g_cond_wait_until(&service->placed, &service->lock, end));
}

/* ---- both ---- */

typedef struct {
    SessionPair pair;
    /* The source */
    TestSource source;
    PostcopySender *sender;
    GThread *pusher;
    GError *push_error;
    guint between_calls, between_most; /* 0: any number */
    /* The destination */
    FaultService service;
    GPtrArray *all; /* what was outstanding at first */
    uint64_t all_count;
    PageSink *sink;
    PageApplier *applier;
    PostcopyReceiver *receiver;
    GThread *taker;
    GError *take_error;
    gboolean completes;
} Ends;

static GPtrArray *copy_sets(const GPtrArray *sets)
{
    GPtrArray *copy = page_regions_new_sets(&regions);

    for (guint i = 0; i < REGIONS; i++)
        page_set_add_all(copy->pdata[i], sets->pdata[i]);
    return copy;
}

static void release_payload(gpointer owner, gpointer user)
{
    g_free(owner);
}

/* Runs of 1 to 40 pages, with gaps. */
static void make_outstanding(Ends *ends, guint seed)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);

    ends->all = page_regions_new_sets(&regions);
    for (guint i = 0; i < REGIONS; i++) {
        PageSet *set = ends->all->pdata[i];

        for (uint64_t at = 0; at < set->pages;) {
            uint64_t count = (uint64_t)g_rand_int_range(random, 1, 41);

            page_set_add(set, at, count);
            at += count + (uint64_t)g_rand_int_range(random, 1, 10);
        }
        ends->all_count += page_set_count(set);
    }
    ends->service.outstanding = copy_sets(ends->all);
    ends->service.left = ends->all_count;
}

static void ends_begin(Ends *ends, GPtrArray *outstanding, PackingMode packing)
{
    GError *error = NULL;

    session_pair_open(&ends->pair, TRAFFIC_FAULT);
    ends->push_error = ends->take_error = NULL;
    ends->sender = postcopy_sender_new(&ends->source.head, ends->pair.client, outstanding,
                                       &(PostcopySenderOptions){.workers = 2,
                                                                .packing = packing,
                                                                .with_lz4 = TRUE,
                                                                .with_zstd = TRUE,
                                                                .link = &slow_link});
    ends->applier = page_applier_new(ends->sink, release_payload, NULL);
    ends->receiver = postcopy_receiver_start(ends->pair.server, ends->sink, &error);
    assert_non_null(ends->receiver);
    assert_true(postcopy_sender_answer(ends->sender, &error));
}

static Ends *ends_new(guint seed, PackingMode packing)
{
    Ends *ends = g_new0(Ends, 1);

    alarm(TEST_DEADLINE_S);
    ends->completes = TRUE;
    ends->source.head = (PageSource){&source_methods, &regions};
    g_mutex_init(&ends->service.lock);
    g_cond_init(&ends->service.placed);
    make_outstanding(ends, seed);
    for (guint i = 0; i < REGIONS; i++) {
        ends->service.memory[i] = g_malloc(region_pages[i] * PAGE_BYTES);
        memset(ends->service.memory[i], UNTOUCHED, region_pages[i] * PAGE_BYTES);
    }
    ends->sink = postcopy_sink_new(&ends->service, &regions);
    ends_begin(ends, copy_sets(ends->all), packing);
    return ends;
}

/* The session has ended, or ends now. */
static void ends_stop(Ends *ends)
{
    session_shutdown(ends->pair.client);
    g_clear_pointer(&ends->sender, postcopy_sender_free);
    session_shutdown(ends->pair.server);
    g_clear_pointer(&ends->receiver, postcopy_receiver_free);
    g_clear_pointer(&ends->applier, page_applier_free);
    session_pair_close(&ends->pair);
    g_clear_error(&ends->push_error);
    g_clear_error(&ends->take_error);
}

static void ends_free(Ends *ends)
{
    ends_stop(ends);
    page_sink_free(ends->sink);
    for (guint i = 0; i < REGIONS; i++)
        g_free(ends->service.memory[i]);
    g_ptr_array_unref(ends->service.outstanding);
    g_ptr_array_unref(ends->all);
    g_mutex_clear(&ends->service.lock);
    g_cond_clear(&ends->service.placed);
    g_free(ends);
}

/* What was outstanding has the source's content, all else is as it was. */
static void check_memory(const Ends *ends)
{
    uint8_t wanted[PAGE_BYTES], untouched[PAGE_BYTES];

    memset(untouched, UNTOUCHED, sizeof untouched);
    for (guint i = 0; i < REGIONS; i++) {
        for (uint64_t page = 0; page < region_pages[i]; page++) {
            make_page(i, page, wanted);
            assert_memory_equal(ends->service.memory[i] + page * PAGE_BYTES,
                                page_set_has(ends->all->pdata[i], page) ? wanted : untouched,
                                PAGE_BYTES);
        }
    }
}

/* ---- what each side's main thread does ---- */

static gboolean between(gpointer user, GError **error)
{
    Ends *ends = user;

    if (++ends->between_calls != ends->between_most)
        return TRUE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "enough");
    return FALSE;
}

static gpointer push_main(gpointer data)
{
    Ends *ends = data;
    Session *session = ends->pair.client;
    GError **error = &ends->push_error;
    Frame frame;

    if (postcopy_sender_push(ends->sender, between, ends, error) &&
        session_send_bytes(session, FRAME_PUSHED, NULL, 0, error))
        session_expect(session, FRAME_COMPLETE, TIMEOUT_MS, &frame, error);
    return NULL;
}

static gboolean take_bulk(Ends *ends, const Frame *frame, GError **error)
{
    uint8_t *payload = g_memdup2(frame->payload, frame->length);

    return page_applier_push(ends->applier, &(Frame){frame->type, frame->length, payload}, payload,
                             error);
}

static gpointer take_main(gpointer data)
{
    Ends *ends = data;
    GError **error = &ends->take_error;
    Frame frame;

    while (session_receive(ends->pair.server, TRAFFIC_CONTROL, -1, &frame, error)) {
        if (page_applier_takes(frame.type)) {
            if (!take_bulk(ends, &frame, error))
                break;
        } else if (frame.type == FRAME_ERROR) {
            session_error_from_frame(ends->pair.server, &frame, error);
            break;
        } else {
            assert_int_equal(frame.type, FRAME_PUSHED);
            assert_true(page_applier_drain(ends->applier, NULL));
            await_left(&ends->service, 0);
            if (ends->completes)
                session_send_bytes(ends->pair.server, FRAME_COMPLETE, NULL, 0, NULL);
        }
    }
    return NULL;
}

static void start_both(Ends *ends)
{
    ends->pusher = g_thread_new("push", push_main, ends);
    ends->taker = g_thread_new("take", take_main, ends);
}

/* A thread of the guest: waits for one page after the other.  Returns how many of them. */
static guint touch_pages(Ends *ends, guint seed, guint most)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    gint64 end = g_get_monotonic_time() + TIMEOUT_MS * 1000;
    guint waited = 0;

    while (count_left(&ends->service) > 0 && waited < most) {
        guint region = g_rand_int_range(random, 0, 4) ? 0 : 2;
        uint64_t page = (uint64_t)g_rand_int_range(random, 0, (gint)region_pages[region]);
        uint64_t count = g_rand_int_range(random, 0, 20) ? 1 : 700;
        gboolean missing;

        g_mutex_lock(&ends->service.lock);
        missing = page_set_has(ends->service.outstanding->pdata[region], page);
        g_mutex_unlock(&ends->service.lock);
        if (!missing)
            continue;
        postcopy_receiver_want(ends->receiver, region,
                               (PageSpan){page, MIN(count, region_pages[region] - page)});
        assert_true(await_page(&ends->service, region, page, end));
        waited++;
    }
    return waited;
}

static void expect_error(const GError *error, VmferryErrorCode code, const char *words)
{
    assert_non_null(error);
    if (!error_is(error, code) || !strstr(error->message, words))
        fail_msg("expected %s with \"%s\", got %s: %s", vmferry_error_code_name(code), words,
                 vmferry_error_code_name((VmferryErrorCode)error->code), error->message);
}

/* ---- tests ---- */

static void all_arrives(guint seed, PackingMode packing, uint64_t rate)
{
    Ends *ends = ends_new(seed, packing);
    PostcopySenderCounts counts;
    guint waited;

    session_set_rate(ends->pair.client, rate);
    start_both(ends);
    waited = touch_pages(ends, seed, UINT_MAX);
    g_thread_join(ends->pusher);
    if (ends->push_error)
        fail_msg("%s", ends->push_error->message);
    postcopy_sender_get_counts(ends->sender, &counts);
    assert_int_equal(counts.left, 0);
    assert_int_equal(counts.pushed + counts.answered - counts.again, ends->all_count);
    assert_true(rate == 0 || (waited > 0 && counts.answered >= waited));
    assert_true(ends->between_calls > 0);
    check_memory(ends);
    session_shutdown(ends->pair.client);
    g_thread_join(ends->taker);
    ends_free(ends);
}

static void test_all_arrives(void **state)
{
    all_arrives(1, PACKING_NONE, 0);
    all_arrives(2, PACKING_AUTO, 0);
    all_arrives(3, PACKING_AUTO, 20000000);
}

/* Nothing but what is asked for: the peer's end, after it has all, ends the answering. */
static void test_answers_only(void **state)
{
    Ends *ends = ends_new(4, PACKING_NONE);
    PostcopySenderCounts counts;
    Frame frame;

    touch_pages(ends, 4, 50);
    for (guint i = 0; i < REGIONS; i++)
        postcopy_receiver_want(ends->receiver, i, (PageSpan){0, region_pages[i]});
    await_left(&ends->service, 0);
    check_memory(ends);
    session_send_bytes(ends->pair.server, FRAME_COMPLETE, NULL, 0, NULL);
    session_shutdown(ends->pair.server);
    g_clear_pointer(&ends->receiver, postcopy_receiver_free);
    postcopy_sender_get_counts(ends->sender, &counts);
    assert_int_equal(counts.left, 0);
    /* With those around them. */
    assert_int_equal(counts.pushed + counts.answered - counts.again, ends->all_count);
    g_clear_pointer(&ends->sender, postcopy_sender_free);
    assert_true(session_expect(ends->pair.client, FRAME_COMPLETE, TIMEOUT_MS, &frame, NULL));
    /* The receiver is gone, its session ends. */
    ends_free(ends);
}

/* Bulk that nobody takes holds up no answer. */
static void test_answers_pass_bulk(void **state)
{
    Ends *ends = ends_new(5, PACKING_NONE);

    ends->pusher = g_thread_new("push", push_main, ends);
    assert_int_equal(touch_pages(ends, 5, 200), 200);
    ends->taker = g_thread_new("take", take_main, ends);
    g_thread_join(ends->pusher);
    assert_null(ends->push_error);
    check_memory(ends);
    session_shutdown(ends->pair.client);
    g_thread_join(ends->taker);
    ends_free(ends);
}

/* RESUME is answered with what has not arrived. */
static void send_outstanding(Ends *ends)
{
    for (guint i = 0; i < REGIONS; i++) {
        const PageSet *set = ends->service.outstanding->pdata[i];
        g_autoptr(GByteArray) runs = g_byte_array_new(), frame = g_byte_array_new();
        uint64_t first, count, at = 0;

        for (; page_set_next_run(set, at, UINT64_MAX, &first, &count); at = first + count)
            outstanding_frame_append(runs, first, count);
        if (runs->len == 0)
            continue;
        outstanding_frame_encode_head(frame, i, runs->len / FRAME_OUTSTANDING_RUN_BYTES);
        g_byte_array_append(frame, runs->data, runs->len);
        assert_true(session_send_bytes(ends->pair.server, FRAME_OUTSTANDING, frame->data,
                                       frame->len, NULL));
    }
    assert_true(session_send_bytes(ends->pair.server, FRAME_RESUMED, NULL, 0, NULL));
}

static GPtrArray *receive_outstanding(Ends *ends)
{
    GPtrArray *sets = page_regions_new_sets(&regions);
    OutstandingFrame walk;
    Frame frame;

    while (session_receive(ends->pair.client, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, NULL) &&
           frame.type == FRAME_OUTSTANDING) {
        uint64_t first, pages;

        assert_true(outstanding_frame_decode(frame.payload, frame.length, region_pages, REGIONS,
                                             &walk, NULL));
        for (uint32_t i = 0; i < walk.runs; i++) {
            outstanding_frame_next(&walk, &first, &pages);
            page_set_add(sets->pdata[walk.region], first, pages);
        }
    }
    assert_int_equal(frame.type, FRAME_RESUMED);
    return sets;
}

static void cut(Ends *ends, TrafficClass traffic)
{
    shutdown(stream_get_fd(session_get_channel(ends->pair.client, traffic)->stream), SHUT_RDWR);
}

/* Both sides end with errors, no thread is left, and a second session brings the rest. */
static void cut_and_resume(TrafficClass traffic, guint seed)
{
    Ends *ends = ends_new(seed, PACKING_NONE);
    uint64_t left;

    session_set_rate(ends->pair.client, 20000000);
    start_both(ends);
    touch_pages(ends, seed, 20);
    await_left(&ends->service, ends->all_count * 2 / 3);
    cut(ends, traffic);
    g_thread_join(ends->pusher);
    assert_non_null(ends->push_error);
    g_thread_join(ends->taker);
    assert_non_null(ends->take_error);
    postcopy_receiver_want(ends->receiver, 0, (PageSpan){0, 1}); /* is dropped */
    ends_stop(ends);
    left = count_left(&ends->service);
    assert_true(left > 0 && left < ends->all_count);

    {
        SessionPair asked;

        session_pair_open(&asked, TRAFFIC_CONTROL);
        ends->pair = asked;
        send_outstanding(ends);
        g_autoptr(GPtrArray) sets = receive_outstanding(ends);
        session_pair_close(&ends->pair);
        ends_begin(ends, g_steal_pointer(&sets), PACKING_NONE);
    }
    start_both(ends);
    touch_pages(ends, seed + 1, UINT_MAX);
    g_thread_join(ends->pusher);
    assert_null(ends->push_error);
    check_memory(ends);
    session_shutdown(ends->pair.client);
    g_thread_join(ends->taker);
    ends_free(ends);
}

static void test_cut(void **state)
{
    cut_and_resume(TRAFFIC_FAULT, 11);
    cut_and_resume(TRAFFIC_BULK, 13);
}

/* Whoever pushes is told, at once. */
static void test_pushing_is_ended(void **state)
{
    Ends *ends = ends_new(6, PACKING_NONE);

    ends->between_most = 3;
    start_both(ends);
    g_thread_join(ends->pusher);
    expect_error(ends->push_error, VMFERRY_ERROR_CANCELLED, "enough");
    session_shutdown(ends->pair.client);
    g_thread_join(ends->taker);
    ends_free(ends);
}

/* The source's memory is gone when a page is wanted, with all pushed: whoever waits for COMPLETE
 * hears why, and so does the destination. */
static void test_source_fails(void **state)
{
    Ends *ends = ends_new(7, PACKING_NONE);

    ends->completes = FALSE;
    start_both(ends);
    await_left(&ends->service, 0);
    atomic_store(&ends->source.fails, TRUE);
    postcopy_receiver_want(ends->receiver, 0, (PageSpan){5, 1});
    g_thread_join(ends->pusher);
    expect_error(ends->push_error, VMFERRY_ERROR_NOT_FOUND, "the process has ended");
    g_thread_join(ends->taker);
    /* "not-found" is what its owner says of the guest, and nobody else. */
    expect_error(ends->take_error, VMFERRY_ERROR_FAILED, "the process has ended");
    ends_free(ends);
}

/* The destination's VMM has ended. */
static void test_destination_fails(void **state)
{
    Ends *ends = ends_new(8, PACKING_NONE);
    uint64_t first, count;

    ends->taker = g_thread_new("take", take_main, ends);
    g_mutex_lock(&ends->service.lock);
    ends->service.fails = TRUE;
    g_mutex_unlock(&ends->service.lock);
    assert_true(page_set_next_run(ends->all->pdata[0], 4, 1, &first, &count));
    postcopy_receiver_want(ends->receiver, 0, (PageSpan){first, 2});
    g_thread_join(ends->taker);
    expect_error(ends->take_error, VMFERRY_ERROR_NOT_FOUND, "the VMM there has ended");
    ends_free(ends);
}

/* ---- hostile input ---- */

/* What is said to a side by its channel for faults fails the session there. */
static void fails_with(gboolean at_source, FrameType type, const void *payload, size_t length,
                       const char *words)
{
    Ends *ends = ends_new(9, PACKING_NONE);
    struct iovec piece = {(void *)payload, length};
    g_autoptr(GError) error = NULL, told = NULL;
    Session *from = at_source ? ends->pair.server : ends->pair.client;
    Session *to = at_source ? ends->pair.client : ends->pair.server;
    Frame frame;

    assert_true(session_send_as(from, TRAFFIC_FAULT, type, &piece, 1, NULL));
    assert_false(session_receive(to, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, &error));
    expect_error(error, VMFERRY_ERROR_INVALID, words);
    assert_true(session_receive(from, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, NULL));
    assert_int_equal(frame.type, FRAME_ERROR);
    session_error_from_frame(from, &frame, &told);
    expect_error(told, VMFERRY_ERROR_INVALID, words);
    ends_free(ends);
}

static void test_hostile_frames(void **state)
{
    uint8_t want[FRAME_WANT_BYTES];
    g_autoptr(GByteArray) pages = g_byte_array_new();
    static const uint8_t segments[32], state_piece[32];

    want_frame_encode(&(WantFrame){0, 1, MOST_PAGES}, want);
    fails_with(TRUE, FRAME_WANT, want, sizeof want, "outside");
    want_frame_encode(&(WantFrame){REGIONS, 1, 0}, want);
    fails_with(TRUE, FRAME_WANT, want, sizeof want, "region 3 of 3");
    fails_with(TRUE, FRAME_DEVICE_STATE, state_piece, sizeof state_piece,
               "DEVICE_STATE where WANT was expected");
    page_frame_encode(pages, 0, &(PageRun){MOST_PAGES - 1, 2, PAGE_RUN_ZERO}, 1);
    fails_with(FALSE, FRAME_PAGES, pages->data, pages->len, "outside");
    fails_with(FALSE, FRAME_SEGMENTS, segments, sizeof segments,
               "SEGMENTS where PAGES was expected");
    fails_with(FALSE, FRAME_WANT, want, sizeof want, "WANT where PAGES was expected");
}

/* Nobody answers an ABORT. */
static void test_abort_of_the_peer(void **state)
{
    static const char reason[] = "{\"code\":\"cancelled\",\"message\":\"no more\"}";
    Ends *ends = ends_new(10, PACKING_NONE);
    struct iovec piece = {(void *)reason, strlen(reason)};
    g_autoptr(GError) error = NULL, silence = NULL;
    Frame frame;

    assert_true(session_send_as(ends->pair.client, TRAFFIC_FAULT, FRAME_ABORT, &piece, 1, NULL));
    assert_false(session_receive(ends->pair.server, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, &error));
    expect_error(error, VMFERRY_ERROR_CANCELLED, "no more");
    assert_false(session_receive(ends->pair.client, TRAFFIC_CONTROL, 100, &frame, &silence));
    expect_error(silence, VMFERRY_ERROR_TIMEOUT, "");
    ends_free(ends);
}

static void test_sink_refuses(void **state)
{
    PageSink *sink = postcopy_sink_new(NULL, &regions);
    g_autoptr(GError) patch = NULL, copy = NULL, seal = NULL;
    const PagePatch one = {0};
    const CopyRun run = {0, 1, 1, 0};

    assert_false(page_sink_patch(sink, 0, &one, 1, &patch));
    expect_error(patch, VMFERRY_ERROR_INVALID, "SEGMENTS for a guest that runs already");
    assert_false(page_sink_copy(sink, 0, &run, 1, &copy));
    expect_error(copy, VMFERRY_ERROR_INVALID, "COPIES");
    assert_false(page_sink_seal(sink, 0, &seal));
    expect_error(seal, VMFERRY_ERROR_INVALID, "EPOCH_SEAL");
    page_sink_free(sink);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_arrives),       cmocka_unit_test(test_answers_only),
        cmocka_unit_test(test_answers_pass_bulk), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_pushing_is_ended),  cmocka_unit_test(test_source_fails),
        cmocka_unit_test(test_destination_fails), cmocka_unit_test(test_hostile_frames),
        cmocka_unit_test(test_abort_of_the_peer), cmocka_unit_test(test_sink_refuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * A store between a source that is the real one and a destination that is this test: passes, the seal,
 * what is given out and what is not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/page.h"
#include "loopback.h"
#include "migrate/postcopy_source.h"
#include "migrate/store_host.h"
#include "migrate/store_source.h"
#include "session_pair.h"
#include "wire/page_frame.h"
#include "wire/postcopy_frame.h"

#define TRANSACTION "0123456789abcdef0123456789abcdef"
#define GUEST_ID "00000000000000000000000000000001"
#define SOURCE_AGENT "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DESTINATION_AGENT "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define STORE_AGENT "cccccccccccccccccccccccccccccccc"
#define PAGES 3000u
#define TIMEOUT_MS 20000

static uint64_t region_pages[] = {PAGES, 2};
static char *region_names[] = {(char *)"pc.ram", (char *)"rom", NULL};
static const PageRegions regions = {2, region_pages, region_names};
static const uint64_t region_bytes[] = {PAGES * PAGE_BYTES, 2 * PAGE_BYTES};

/* ---- the source's memory ---- */

static uint8_t memory[PAGES + 2][PAGE_BYTES];

static gboolean read_memory(PageSource *source, guint region, const PageSpan *spans, guint count,
                            uint8_t *buffer, GError **error)
{
    for (guint i = 0; i < count; i++) {
        size_t bytes = spans[i].count * PAGE_BYTES;

        memcpy(buffer, memory[(region ? PAGES : 0) + spans[i].first], bytes);
        buffer += bytes;
    }
    return TRUE;
}

static const PageSourceMethods methods = {.read = read_memory};
static PageSource source = {&methods, &regions};

static void write_page(uint64_t page, uint8_t version)
{
    memset(memory[page], version, PAGE_BYTES);
    if (version)
        memcpy(memory[page], &page, sizeof page);
}

/* ---- the store ---- */

typedef struct {
    char *folder;
    StoredPages *pages;
    Listener listener;
    GThread *thread;
    gboolean sealed, done;
    GError *error;
} Store;

static gboolean on_seal(gpointer user, GError **error)
{
    ((Store *)user)->sealed = TRUE;
    return TRUE;
}

static gpointer store_main(gpointer data)
{
    Store *store = data;
    ChannelOptions options = {.agent = STORE_AGENT, .instance = "store"};
    StoreFillHost host = {.seal = on_seal, .user = store};
    char token[HELLO_TOKEN_DIGITS + 1];
    g_autoptr(Session) session = NULL;
    HelloMessage hello = {0};
    Channel *channel;
    Frame frame;

    assert_true(session_make_token(token, NULL));
    channel = channel_accept(listener_accept(&store->listener), &options, NULL);
    assert_true(handshake_accept(channel, token, &hello, NULL, NULL));
    assert_string_equal(hello.purpose, "store");
    session = session_new(channel, &hello, token);
    hello_message_clear(&hello);
    if (!session_expect(session, FRAME_STORE, TIMEOUT_MS, &frame, &store->error))
        return NULL;
    session_send_bytes(session, FRAME_ACCEPTED, NULL, 0, NULL);
    store->done = store_host_fill(session, store->pages, &host, &store->error);
    if (store->error)
        session_send_error(session, store->error);
    return NULL;
}

static int setup(void **state)
{
    Store *store = g_new0(Store, 1);

    store->folder = g_dir_make_tmp("vmferry-store-XXXXXX", NULL);
    store->pages =
        stored_pages_create(store->folder, TRANSACTION, 2, region_names, region_bytes, NULL);
    assert_non_null(store->pages);
    for (uint64_t page = 0; page < PAGES + 2; page++)
        write_page(page, page % 5 == 4 ? 0 : 1);
    *state = store;
    return 0;
}

static int teardown(void **state)
{
    Store *store = *state;

    stored_pages_free(store->pages);
    for (guint i = 0; i < 2; i++) {
        g_autofree char *path = g_build_filename(store->folder, i ? "pages" : "covered", NULL);

        g_unlink(path);
    }
    assert_int_equal(g_rmdir(store->folder), 0);
    g_free(store->folder);
    g_clear_error(&store->error);
    g_free(store);
    return 0;
}

static StoreSource *connect_store(Store *store, const char *destination_agent, GError **error)
{
    ChannelOptions options = {.agent = SOURCE_AGENT, .instance = "source"};
    WireRegion named[] = {{region_names[0], region_bytes[0]}, {region_names[1], region_bytes[1]}};
    StoreMessage message = {
        .transaction = (char *)TRANSACTION,
        .guest = (char *)"web1",
        .guest_id = (char *)GUEST_ID,
        .term = 2,
        .destination_agent = (char *)destination_agent,
        .bytes = PAGES * PAGE_BYTES,
        .regions = named,
        .region_count = 2,
    };
    StoreSource *made;

    listener_open(&store->listener);
    store->thread = g_thread_new("store", store_main, store);
    made = store_source_connect(store->listener.address, &options, &message, &source, NULL, error);
    listener_close(&store->listener);
    return made;
}

static void await_store(Store *store)
{
    g_thread_join(store->thread);
}

static GPtrArray *all_pages(void)
{
    GPtrArray *sets = page_regions_new_sets(&regions);

    page_set_add(sets->pdata[0], 0, PAGES);
    page_set_add(sets->pdata[1], 0, 2);
    return sets;
}

static GPtrArray *some_pages(uint64_t first, uint64_t count)
{
    GPtrArray *sets = page_regions_new_sets(&regions);

    page_set_add(sets->pdata[0], first, count);
    return sets;
}

/* All that is covered is as it is in the source's memory now. */
static void check_stored(Store *store, uint64_t covered)
{
    g_autoptr(GPtrArray) sets = stored_pages_list(store->pages);
    g_autoptr(PageSource) stored = stored_pages_new_source(store->pages);
    uint8_t page[PAGE_BYTES];

    assert_int_equal(stored_pages_count(store->pages), covered);
    for (guint i = 0; i < 2; i++) {
        for (uint64_t k = 0; k < region_pages[i]; k++) {
            PageSpan span = {k, 1};

            if (!page_set_has(sets->pdata[i], k))
                continue;
            assert_true(page_source_read(stored, i, &span, 1, page, NULL));
            assert_memory_equal(page, memory[(i ? PAGES : 0) + k], PAGE_BYTES);
        }
    }
}

/* ---- the source ---- */

static void on_lost(const GError *why, gpointer user)
{
    *(gint *)user += 1;
}

static gboolean count_batch(const WorkBatch *batch, gpointer user, GError **error)
{
    *(uint64_t *)user += batch->pages;
    return TRUE;
}

static void await_covered(StoreSource *store)
{
    uint64_t end = clock_now_ns() + TIMEOUT_MS * 1000000ULL;

    while (store_source_get_uncovered(store) > 0 || store_source_is_filling(store)) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(1000000);
    }
}

static void test_two_passes(void **state)
{
    Store *store = *state;
    StoreSource *end = connect_store(store, DESTINATION_AGENT, NULL);
    g_autoptr(GPtrArray) first = some_pages(0, 2000), stale = some_pages(100, 50);
    g_autoptr(GPtrArray) all = all_pages();
    uint64_t seen = 0;
    gint lost = 0;

    assert_non_null(end);
    store_source_set_packing(end, PACKING_AUTO, 2);
    assert_true(store_source_push(end, first, count_batch, &seen, NULL));
    assert_int_equal(seen, 2000);
    check_stored(store, 2000);
    assert_false(store->sealed);
    for (uint64_t page = 100; page < 150; page++)
        write_page(page, page % 2 ? 0 : 7);
    assert_true(store_source_seal(end, stale, NULL));
    assert_true(store_source_await_sealed(end, TIMEOUT_MS, NULL));
    assert_true(store->sealed);
    check_stored(store, 1950);
    store_source_begin_rest(end, all, on_lost, &lost);
    await_covered(end);
    check_stored(store, PAGES + 2);
    store_source_end(end, TRUE);
    await_store(store);
    /* It has not been told that it is not needed, and the source is gone. */
    assert_false(store->done);
    assert_int_equal(lost, 0);
}

static void test_not_needed(void **state)
{
    Store *store = *state;
    StoreSource *end = connect_store(store, DESTINATION_AGENT, NULL);

    store_source_end(end, FALSE);
    await_store(store);
    assert_true(store->done);
}

static gboolean stop_at_once(const WorkBatch *batch, gpointer user, GError **error)
{
    error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
    return FALSE;
}

static void test_pass_is_cancelled(void **state)
{
    Store *store = *state;
    StoreSource *end = connect_store(store, DESTINATION_AGENT, NULL);
    g_autoptr(GPtrArray) all = all_pages();
    g_autoptr(GError) error = NULL;

    assert_false(store_source_push(end, all, stop_at_once, NULL, &error));
    assert_true(error_is(error, VMFERRY_ERROR_CANCELLED));
    store_source_end(end, FALSE);
    await_store(store);
    assert_true(store->done);
}

/* From the seal on nothing becomes stale. */
static void test_nothing_is_stale_behind_the_seal(void **state)
{
    Store *store = *state;
    StoreSource *end = connect_store(store, DESTINATION_AGENT, NULL);
    g_autoptr(GPtrArray) none = page_regions_new_sets(&regions), stale = some_pages(1, 1);
    g_autoptr(GError) error = NULL;

    assert_true(store_source_seal(end, none, NULL));
    assert_true(store_source_await_sealed(end, TIMEOUT_MS, NULL));
    assert_true(store_source_seal(end, stale, NULL));
    await_store(store);
    assert_true(error_is(store->error, VMFERRY_ERROR_INVALID));
    assert_false(store_source_push(end, stale, NULL, NULL, &error));
    store_source_end(end, TRUE);
}

static void test_destination_is_no_store(void **state)
{
    Store *store = *state;
    g_autoptr(GError) error = NULL;

    assert_null(connect_store(store, STORE_AGENT, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    assert_non_null(strstr(error->message, "destination itself"));
    await_store(store);
}

/* ---- the destination ---- */

typedef struct {
    Session *session;
    StoredPages *pages;
    gboolean done;
} Serving;

static gpointer serve_main(gpointer data)
{
    Serving *serving = data;

    serving->done = store_host_serve(serving->session, serving->pages, NULL);
    return NULL;
}

static void put_pages(Store *store, uint64_t first, uint64_t count)
{
    PageSink *sink = stored_pages_new_sink(store->pages);
    PageSpan span = {first, count};

    assert_true(page_sink_write(sink, 0, &span, 1, memory[first], NULL));
    page_sink_free(sink);
}

static void add_frame(GPtrArray *sets, const Frame *frame)
{
    g_autofree PageFrame *pages = g_new(PageFrame, 1);

    assert_true(page_frame_decode(frame->payload, frame->length, region_pages, 2, pages, NULL));
    for (uint32_t i = 0; i < pages->run_count; i++)
        page_set_add(sets->pdata[pages->region], pages->runs[i].first, pages->runs[i].count);
}

static void send_want(Session *session, uint64_t first, uint32_t count)
{
    WantFrame want = {.region = 0, .count = count, .first = first};
    uint8_t payload[FRAME_WANT_BYTES];

    want_frame_encode(&want, payload);
    assert_true(session_send_bytes(session, FRAME_WANT, payload, sizeof payload, NULL));
}

/* Of what is missing only what is covered comes, whether it is asked for or not. */
static void test_gives_out_what_is_covered(void **state)
{
    Store *store = *state;
    g_autoptr(GPtrArray) missing = some_pages(0, 1000), pushed = page_regions_new_sets(&regions);
    g_autoptr(GPtrArray) answered = page_regions_new_sets(&regions);
    Serving serving = {.pages = store->pages};
    SessionPair pair;
    GThread *thread;
    Frame frame;

    put_pages(store, 500, 1000);
    session_pair_open(&pair, TRAFFIC_FAULT);
    serving.session = pair.server;
    thread = g_thread_new("serve", serve_main, &serving);
    assert_true(postcopy_send_outstanding(pair.client, TRAFFIC_CONTROL, missing, NULL));
    assert_true(session_send_bytes(pair.client, FRAME_RESUMED, NULL, 0, NULL));
    send_want(pair.client, 0, 100);
    send_want(pair.client, 490, 20);
    while (!page_set_has(answered->pdata[0], 509)) {
        assert_true(session_receive(pair.client, TRAFFIC_FAULT, TIMEOUT_MS, &frame, NULL));
        add_frame(answered, &frame);
    }
    assert_false(page_set_has(answered->pdata[0], 0) || page_set_has(answered->pdata[0], 499));
    assert_true(page_set_has(answered->pdata[0], 500));
    while (session_receive(pair.client, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, NULL) &&
           frame.type != FRAME_PUSHED)
        add_frame(pushed, &frame);
    assert_int_equal(frame.type, FRAME_PUSHED);
    page_set_add_all(pushed->pdata[0], answered->pdata[0]);
    assert_int_equal(page_set_count(pushed->pdata[0]), 500);
    assert_false(page_set_has(pushed->pdata[0], 499) || page_set_has(pushed->pdata[0], 1000));
    assert_true(session_send_bytes(pair.client, FRAME_COMPLETE, NULL, 0, NULL));
    g_thread_join(thread);
    assert_true(serving.done);
    session_pair_close(&pair);
}

static void test_nothing_is_missing(void **state)
{
    Store *store = *state;
    Serving serving = {.pages = store->pages};
    SessionPair pair;
    GThread *thread;

    session_pair_open(&pair, TRAFFIC_CONTROL);
    serving.session = pair.server;
    thread = g_thread_new("serve", serve_main, &serving);
    assert_true(session_send_bytes(pair.client, FRAME_COMPLETE, NULL, 0, NULL));
    g_thread_join(thread);
    assert_true(serving.done);
    session_pair_close(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_two_passes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_needed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pass_is_cancelled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_stale_behind_the_seal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_destination_is_no_store, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gives_out_what_is_covered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_missing, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

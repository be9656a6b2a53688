/*
 * Pages from one address space to another, over a real connection
 *
 * A child process stands for each VMM.  The source's pages change between
 * rounds; after each round the destination holds the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/page.h"
#include "transfer/digest.h"
#include "transfer/epoch.h"
#include "transfer/frame_queue.h"
#include "transfer/guest_pages.h"
#include "transfer/page_applier.h"
#include "transfer/page_sender.h"
#include "page/pack.h"
#include "page/pack_window.h"
#include "wire/copy_frame.h"
#include "wire/epoch_frame.h"
#include "wire/page_frame.h"
#include "wire/segment_frame.h"

#define PAGES 3000u
#define BYTES (PAGES * (size_t)PAGE_BYTES)

#define SLOW_WRITE_NS 200000000ULL

/* How long each write into guest RAM takes. */
static uint64_t write_ns;

gboolean __real_guest_memory_write(GuestMemory *memory, guint region, const PageSpan *spans,
                                   guint count, const uint8_t *buffer, GError **error);
gboolean __wrap_guest_memory_write(GuestMemory *memory, guint region, const PageSpan *spans,
                                   guint count, const uint8_t *buffer, GError **error);

gboolean __wrap_guest_memory_write(GuestMemory *memory, guint region, const PageSpan *spans,
                                   guint count, const uint8_t *buffer, GError **error)
{
    if (write_ns > 0)
        clock_sleep_ns(write_ns);
    return __real_guest_memory_write(memory, region, spans, count, buffer, error);
}

typedef struct {
    uint8_t *memory; /* shared with the child, so that the test can write it */
    pid_t pid;
    GuestMemory *guest;
} Machine;

typedef struct {
    Machine source, destination;
    Channel *out, *in;
    PageSender *sender;
    PageSource *pages, *received; /* the source's and the destination's */
    FrameQueue *queue;
    PageSink *sink;
    PageApplier *applier;
    uint64_t most_under_way; /* pages, in the last round */
} Fixture;

static void start_machine(Machine *machine)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GError) error = NULL;
    int fd = memfd_create("ram", 0);

    assert_int_equal(ftruncate(fd, (off_t)BYTES), 0);
    machine->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    machine->pid = fork();
    if (machine->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            poll(NULL, 0, -1);
    }
    close(fd);
    g_ptr_array_add(regions, ram_region_new("ram", (uint64_t)(uintptr_t)machine->memory, BYTES));
    machine->guest = guest_memory_open(machine->pid, regions, &error);
    if (!machine->guest)
        fail_msg("%s", error->message);
}

static void end_machine(Machine *machine)
{
    guest_memory_free(machine->guest);
    kill(machine->pid, SIGKILL);
    waitpid(machine->pid, NULL, 0);
    munmap(machine->memory, BYTES);
}

static gpointer accept_thread(gpointer data)
{
    int listener = GPOINTER_TO_INT(data);
    ChannelOptions options = {0};

    return channel_accept(accept(listener, NULL, NULL), &options, NULL);
}

static void connect_channels(Fixture *fixture)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    ChannelOptions options = {0};
    g_autofree char *text = NULL;
    GThread *thread;

    assert_int_equal(bind(listener, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(listener, 1), 0);
    getsockname(listener, (struct sockaddr *)&address, &length);
    text = g_strdup_printf("127.0.0.1:%d", ntohs(address.sin_port));
    thread = g_thread_new("accept", accept_thread, GINT_TO_POINTER(listener));
    fixture->out = channel_connect(text, &options, 5000, NULL, NULL);
    fixture->in = g_thread_join(thread);
    close(listener);
    assert_true(fixture->out && fixture->in);
}

static PageSender *make_sender(Fixture *fixture, guint workers, SentStoreMode mode)
{
    uint64_t pages = PAGES;
    PageSenderOptions options = {.workers = workers};

    if (mode != SENT_STORE_OFF)
        options.store = sent_store_new(&pages, 1, PAGES, BYTES / 16, mode);
    return page_sender_new(fixture->pages, fixture->out, &options);
}

/* The same with an index of equal pages. */
static PageSender *make_copying_sender(Fixture *fixture, guint workers)
{
    PageSenderOptions options = {.workers = workers,
                                 .copies = page_copies_new(fixture->pages->regions, PAGES, BYTES)};

    return page_sender_new(fixture->pages, fixture->out, &options);
}

static void release_slot(gpointer owner, gpointer user)
{
    frame_queue_release(((Fixture *)user)->queue, owner);
}

static void end_applier(Fixture *fixture)
{
    g_clear_pointer(&fixture->applier, page_applier_free);
    g_clear_pointer(&fixture->sink, page_sink_free);
}

/* It sees what there is in the destination's memory. */
static void start_applier(Fixture *fixture)
{
    fixture->sink = guest_sink_new(fixture->destination.guest);
    fixture->applier = page_applier_new(fixture->sink, release_slot, fixture);
}

static void renew_applier(Fixture *fixture)
{
    end_applier(fixture);
    start_applier(fixture);
}

static gboolean push(Fixture *fixture, FrameSlot *slot, GError **error)
{
    return page_applier_push(fixture->applier, &slot->frame, slot, error);
}

/* What ends a round here, of whatever number. */
static void send_end(Fixture *fixture)
{
    static const uint8_t seal[FRAME_EPOCH_SEAL_BYTES];

    assert_true(channel_send_bytes(fixture->out, FRAME_EPOCH_SEAL, seal, sizeof seal, NULL));
}

static int setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    start_machine(&fixture->source);
    start_machine(&fixture->destination);
    fixture->pages = guest_source_new(fixture->source.guest);
    fixture->received = guest_source_new(fixture->destination.guest);
    connect_channels(fixture);
    fixture->sender = make_sender(fixture, 3, SENT_STORE_AUTO);
    fixture->queue = frame_queue_start(fixture->in, 4, NULL);
    start_applier(fixture);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    page_sender_free(fixture->sender);
    channel_shutdown(fixture->in);
    end_applier(fixture);
    frame_queue_free(fixture->queue);
    channel_free(fixture->out);
    channel_free(fixture->in);
    page_source_free(fixture->pages);
    page_source_free(fixture->received);
    end_machine(&fixture->source);
    end_machine(&fixture->destination);
    g_free(fixture);
    return 0;
}

/* Takes frames up to the round's end. */
static gpointer receive_round(gpointer data)
{
    Fixture *fixture = data;

    for (;;) {
        FrameSlot *slot = frame_queue_pop(fixture->queue, 10000, NULL);

        if (!slot)
            return NULL;
        if (page_applier_takes(slot->frame.type)) {
            assert_true(push(fixture, slot, NULL));
            continue;
        }
        frame_queue_release(fixture->queue, slot);
        return GINT_TO_POINTER(page_applier_drain(fixture->applier, NULL));
    }
}

/* Takes up to 256 pages from *set*, whole words of 64. */
static void take_batch(PageSet *set, WorkBatch *ret)
{
    *ret = (WorkBatch){0};
    for (uint64_t word = 0; word < PAGES; word += 64) {
        PageSpan span;

        if (ret->pages + 64 > WORK_BATCH_PAGES)
            return;
        while (page_set_next_run(set, word, 64, &span.first, &span.count) &&
               span.first < word + 64) {
            span.count = MIN(span.count, word + 64 - span.first);
            page_set_remove(set, span.first, span.count);
            ret->spans[ret->span_count++] = span;
            ret->pages += span.count;
        }
    }
}

/* Returns how many pages went out, zero or not, whole or not. */
static uint64_t send_round(Fixture *fixture, GPtrArray *sets)
{
    GThread *thread = g_thread_new("round", receive_round, fixture);
    PageSenderCounts before, after;
    uint64_t pushed = 0;
    WorkBatch batch;

    fixture->most_under_way = 0;
    page_sender_get_counts(fixture->sender, &before);
    for (;;) {
        take_batch(g_ptr_array_index(sets, 0), &batch);
        if (batch.pages == 0)
            break;
        assert_true(page_sender_push(fixture->sender, &batch, NULL));
        pushed += batch.pages;
        page_sender_get_counts(fixture->sender, &after);
        fixture->most_under_way =
            MAX(fixture->most_under_way, pushed - (after.done_pages - before.done_pages));
    }
    assert_true(page_sender_flush(fixture->sender, NULL));
    send_end(fixture);
    assert_true(GPOINTER_TO_INT(g_thread_join(thread)));
    page_sender_get_counts(fixture->sender, &after);
    return after.pages.whole + after.pages.segments - before.pages.whole - before.pages.segments;
}

static void assert_same(Fixture *fixture)
{
    for (unsigned i = 0; i < PAGES; i++)
        if (memcmp(fixture->source.memory + i * PAGE_BYTES,
                   fixture->destination.memory + i * PAGE_BYTES, PAGE_BYTES) != 0)
            fail_msg("page %u differs", i);
}

static void test_rounds(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(fixture->source.guest);
    g_autoptr(GRand) random = g_rand_new_with_seed(3);
    PageSet *set = g_ptr_array_index(sets, 0);

    page_set_add(set, 0, PAGES);
    assert_int_equal(send_round(fixture, sets), 0); /* all zero: nothing to send */
    for (int round = 0; round < 30; round++) {
        page_set_clear(set);
        for (int i = 0; i < 800; i++) {
            uint64_t page = (uint64_t)g_rand_int_range(random, 0, PAGES);
            int value = g_rand_int_range(random, 0, 3); /* every third becomes zero */

            memset(fixture->source.memory + page * PAGE_BYTES, value, PAGE_BYTES);
            page_set_add(set, page, 1);
        }
        send_round(fixture, sets);
        assert_same(fixture);
    }
}

/* Random writes of all sizes, with every way of packing and of remembering. */
static void changes(Fixture *fixture, PackingMode packing, SentStoreMode mode)
{
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(fixture->source.guest);
    g_autoptr(GRand) random = g_rand_new_with_seed(7);
    PageSet *set = g_ptr_array_index(sets, 0);
    PageSenderCounts counts;

    page_sender_free(fixture->sender);
    fixture->sender = make_sender(fixture, 2, mode);
    page_sender_set_packing(fixture->sender, packing, TRUE, TRUE);
    for (size_t i = 0; i < BYTES; i += 4)
        *(uint32_t *)(fixture->source.memory + i) = i % 3 ? g_rand_int(random) : 5;
    page_set_add(set, 0, PAGES);
    for (int round = 0; round < 20; round++) {
        send_round(fixture, sets);
        assert_same(fixture);
        for (int i = 0; i < 500; i++) {
            size_t length = (size_t)1 << g_rand_int_range(random, 0, 14);
            size_t at = (size_t)g_rand_int_range(random, 0, (gint32)(BYTES - length));

            for (size_t k = 0; k < length; k++)
                fixture->source.memory[at + k] = (uint8_t)g_rand_int(random);
            page_set_add(set, at / PAGE_BYTES,
                         (at + length - 1) / PAGE_BYTES - at / PAGE_BYTES + 1);
        }
    }
    page_sender_get_counts(fixture->sender, &counts);
    assert_true(counts.pages.whole > 0);
    assert_int_equal(counts.pages.segments > 0, mode != SENT_STORE_OFF);
    assert_int_equal(counts.packing.raw_bytes[PACK_ZSTD] > 0, packing == PACKING_ZSTD);
    assert_int_equal(counts.packing.raw_bytes[PACK_LZ4] > 0, packing == PACKING_LZ4);
}

static void test_changes(void **state)
{
    for (SentStoreMode mode = SENT_STORE_AUTO; mode <= SENT_STORE_OFF; mode++)
        for (PackingMode packing = PACKING_NONE; packing <= PACKING_ZSTD; packing++)
            changes(*state, packing, mode);
}

/* A page that lost its content without a write is found and becomes zero. */
static void test_discarded(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(fixture->source.guest);
    PageSet *set = g_ptr_array_index(sets, 0);

    memset(fixture->source.memory, 7, BYTES);
    page_set_add(set, 0, PAGES);
    assert_int_equal(send_round(fixture, sets), PAGES);
    assert_int_equal(madvise(fixture->source.memory + 10 * PAGE_BYTES, 5 * PAGE_BYTES, MADV_REMOVE),
                     0);
    page_set_clear(set);
    assert_true(page_sender_add_discarded(fixture->sender, sets, NULL));
    assert_int_equal(page_set_count(set), 5);
    send_round(fixture, sets);
    assert_same(fixture);
}

/* ---- frames made by hand ---- */

/* Sends one frame and a round's end; FALSE with what the applier says. */
static gboolean apply(Fixture *fixture, FrameType type, const GByteArray *payload, GError **error)
{
    assert_true(channel_send_bytes(fixture->out, type, payload->data, payload->len, NULL));
    send_end(fixture);
    for (gboolean more = TRUE; more;) {
        FrameSlot *slot = frame_queue_pop(fixture->queue, 10000, NULL);

        assert_non_null(slot);
        more = page_applier_takes(slot->frame.type);
        if (more)
            assert_true(push(fixture, slot, NULL));
        else
            frame_queue_release(fixture->queue, slot);
    }
    return page_applier_drain(fixture->applier, error);
}

static void expect_applied(Fixture *fixture, FrameType type, const GByteArray *payload)
{
    g_autoptr(GError) error = NULL;

    if (!apply(fixture, type, payload, &error))
        fail_msg("%s", error->message);
}

/* A failed applier stays so: a new one for the next frame. */
static void expect_refused(Fixture *fixture, FrameType type, const GByteArray *payload,
                           const char *words)
{
    g_autoptr(GError) error = NULL;

    assert_false(apply(fixture, type, payload, &error));
    if (!error_is(error, VMFERRY_ERROR_INVALID) || !strstr(error->message, words))
        fail_msg("expected \"%s\", got \"%s\"", words, error->message);
    renew_applier(fixture);
}

/* Packs *bytes* behind what *frame* holds already. */
static void append_packed(GByteArray *frame, PackMethod method, const void *bytes, size_t length)
{
    g_autoptr(PackContext) codecs = pack_context_new();
    g_autofree uint8_t *packed = g_malloc(pack_bound(method, length));
    size_t packed_bytes =
        pack(codecs, method, 0, bytes, length, packed, pack_bound(method, length));

    assert_true(packed_bytes > 0);
    g_byte_array_append(frame, packed, (guint)packed_bytes);
}

/* Two pages from *first* on, packed, and a zero page behind them. */
static GByteArray *make_pages(PackMethod method, uint64_t first, const uint8_t *content)
{
    const PageRun runs[] = {{first, 2, PAGE_RUN_RAW}, {first + 2, 1, PAGE_RUN_ZERO}};
    GByteArray *frame = g_byte_array_new();

    page_frame_encode(frame, 0, runs, 2);
    append_packed(frame, method, content, 2 * PAGE_BYTES);
    return frame;
}

static void test_packed_pages(void **state)
{
    static const FrameType types[] = {[PACK_LZ4] = FRAME_PAGES_LZ4, [PACK_ZSTD] = FRAME_PAGES_ZSTD};
    static uint8_t content[2 * PAGE_BYTES];
    Fixture *fixture = *state;

    for (guint i = 0; i < sizeof content; i++)
        content[i] = (uint8_t)(i / 7);
    for (guint method = PACK_LZ4; method <= PACK_ZSTD; method++) {
        const uint8_t *there = fixture->destination.memory + 10 * method * PAGE_BYTES;
        g_autoptr(GByteArray) frame = make_pages((PackMethod)method, 10 * method, content);

        memset((uint8_t *)there + sizeof content, 9, 2 * PAGE_BYTES);
        renew_applier(fixture);
        expect_applied(fixture, types[method], frame);
        assert_memory_equal(there, content, sizeof content);
        assert_int_equal(there[2 * PAGE_BYTES], 0);
        assert_int_equal(there[3 * PAGE_BYTES - 1], 0);
        assert_int_equal(there[3 * PAGE_BYTES], 9);
        /* As the other kind, one byte short, or for other runs. */
        expect_refused(fixture, types[PACK_LZ4 + PACK_ZSTD - method], frame,
                       method == PACK_LZ4 ? "PAGES: zstd frame of" : "PAGES: LZ4 block of");
        g_byte_array_set_size(frame, frame->len - 1);
        expect_refused(fixture, types[method], frame, "does not make 8192 bytes");
        g_byte_array_set_size(frame, PAGE_FRAME_HEADER_BYTES + 2 * PAGE_FRAME_RUN_BYTES);
        expect_refused(fixture, types[method], frame, "PAGES: no pages in a packed frame");
    }
}

/* Rounds over a link that leaves packing all the time there is. */
static void test_windows(void **state)
{
    static const LinkRate slow = {.bytes_per_ms = 2400, .busy = TRUE, .windows = 2};
    Fixture *fixture = *state;
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(fixture->source.guest);
    g_autoptr(GRand) random = g_rand_new_with_seed(7);
    PageSet *set = g_ptr_array_index(sets, 0);
    PageSenderCounts counts;

    page_sender_free(fixture->sender);
    fixture->sender = make_sender(fixture, 3, SENT_STORE_AUTO);
    page_sender_set_packing(fixture->sender, PACKING_AUTO, TRUE, TRUE);
    page_sender_allow_windows(fixture->sender, 21);
    page_sender_set_link(fixture->sender, &slow);
    page_applier_take_windows(fixture->applier);
    for (int round = 0; round < 8; round++) {
        for (size_t page = 0; page < PAGES; page++) {
            uint64_t *words = (uint64_t *)(fixture->source.memory + page * PAGE_BYTES);

            /* Now and then batches that do not shrink, and zero pages, are between them. */
            if (page % 1000 < 100)
                for (size_t i = 0; i < PAGE_BYTES / sizeof *words; i++)
                    words[i] = (uint64_t)g_rand_int(random) << 32 | g_rand_int(random);
            else
                memset(words, page % 50 == 0 ? 0 : g_rand_int_range(random, 1, 200), PAGE_BYTES);
        }
        page_set_add(set, 0, PAGES);
        send_round(fixture, sets);
        assert_same(fixture);
    }
    page_sender_get_counts(fixture->sender, &counts);
    assert_true(counts.packing.linked_raw_bytes > 4 * BYTES);
    assert_true(counts.packing.linked_packed_bytes < counts.packing.linked_raw_bytes / 4);
    assert_true(counts.way.linked);
}

/* Two pages from *first* on, as the next piece of *window*. */
static GByteArray *make_window(PackWindow *window, int level, uint64_t first,
                               const uint8_t *content)
{
    const PageRun run = {first, 2, PAGE_RUN_RAW};
    GByteArray *frame = g_byte_array_new();
    g_autofree uint8_t *packed = g_malloc(pack_window_bound(2 * PAGE_BYTES));
    gboolean begins;
    size_t bytes = pack_window_pack(window, level, content, 2 * PAGE_BYTES, packed, &begins);

    page_frame_encode(frame, 0, &run, 1);
    g_byte_array_append(frame, &(guint8){begins ? 1 : 0}, 1);
    g_byte_array_append(frame, packed, (guint)bytes);
    return frame;
}

static void test_hostile_windows(void **state)
{
    const guint head = PAGE_FRAME_HEADER_BYTES + PAGE_FRAME_RUN_BYTES;
    static uint8_t content[2 * PAGE_BYTES];
    Fixture *fixture = *state;
    g_autoptr(PackWindow) window = pack_window_new(21);
    g_autoptr(GByteArray) first = NULL;
    g_autoptr(GByteArray) second = NULL;

    memset(content, 5, sizeof content);
    first = make_window(window, 3, 0, content);
    second = make_window(window, 3, 2, content);
    expect_refused(fixture, FRAME_PAGES_WINDOW, first, "where none is expected");
    page_applier_take_windows(fixture->applier);
    expect_refused(fixture, FRAME_PAGES_WINDOW, second, "no window");
    page_applier_take_windows(fixture->applier);
    expect_applied(fixture, FRAME_PAGES_WINDOW, first);
    expect_applied(fixture, FRAME_PAGES_WINDOW, second);
    assert_memory_equal(fixture->destination.memory + 2 * PAGE_BYTES, content, sizeof content);
    /* Neither yes nor no; a window's begin that goes on; one byte short. */
    first->data[head] = 2;
    expect_refused(fixture, FRAME_PAGES_WINDOW, first, "no piece of a window");
    page_applier_take_windows(fixture->applier);
    first->data[head] = 0;
    expect_refused(fixture, FRAME_PAGES_WINDOW, first, "no window");
    page_applier_take_windows(fixture->applier);
    first->data[head] = 1;
    g_byte_array_set_size(first, first->len - 1);
    expect_refused(fixture, FRAME_PAGES_WINDOW, first, "do not make 8192 bytes");
}

static GByteArray *make_segments(const GByteArray *body, uint32_t pages, PackMethod method)
{
    SegmentFrameHead head = {0, pages, (uint32_t)method, body->len};
    GByteArray *frame = g_byte_array_new();

    segment_frame_encode_head(frame, &head);
    if (method == PACK_NONE)
        g_byte_array_append(frame, body->data, body->len);
    else
        append_packed(frame, method, body->data, body->len);
    return frame;
}

/* Changes some of the source's pages a little; returns how many. */
static uint32_t change_pages(Fixture *fixture, GRand *random, GByteArray *body)
{
    uint64_t last = UINT64_MAX;
    uint32_t pages = 0;

    for (uint64_t page = (uint64_t)g_rand_int_range(random, 0, 50); page < PAGES;
         page += (uint64_t)g_rand_int_range(random, 1, 40)) {
        uint8_t *there = fixture->source.memory + page * PAGE_BYTES;
        uint8_t before[PAGE_BYTES];
        SegmentList list;

        memcpy(before, there, sizeof before);
        for (int i = g_rand_int_range(random, 1, 30); i > 0; i--)
            there[g_rand_int_range(random, 0, PAGE_BYTES)] ^=
                (uint8_t)g_rand_int_range(random, 1, 256);
        there[PAGE_BYTES - 1] = (uint8_t)~before[PAGE_BYTES - 1];
        assert_true(segments_from_difference(before, there, &list));
        segment_frame_append(body, &last, page, &list, there);
        pages++;
    }
    return pages;
}

static void test_segments(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GRand) random = g_rand_new_with_seed(20);

    for (uint32_t i = 0; i < BYTES / 4; i++)
        ((uint32_t *)(void *)fixture->source.memory)[i] = i % 977;
    memcpy(fixture->destination.memory, fixture->source.memory, BYTES);
    for (guint round = 0; round < 15; round++) {
        g_autoptr(GByteArray) body = g_byte_array_new();
        uint32_t pages = change_pages(fixture, random, body);
        g_autoptr(GByteArray) frame = make_segments(body, pages, (PackMethod)(round % 3));

        expect_applied(fixture, FRAME_SEGMENTS, frame);
        assert_same(fixture);
    }
}

static void test_hostile_segments(void **state)
{
    /* Page delta, count, gap, length - 1, content. */
    static const uint8_t outside[] = {0xb8, 0x17, 1, 0, 0, 'a'}; /* page 3000 */
    static const uint8_t good[] = {1,   1,   0,   24,  'a', 'a', 'a', 'a', 'a', 'a',
                                   'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a',
                                   'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a'};
    Fixture *fixture = *state;
    g_autoptr(GByteArray) bad_body = g_byte_array_new();
    g_autoptr(GByteArray) body = g_byte_array_new();
    g_autoptr(GByteArray) plain = NULL;

    g_byte_array_append(bad_body, outside, sizeof outside);
    g_byte_array_append(body, good, sizeof good);
    plain = make_segments(bad_body, 1, PACK_NONE);
    expect_refused(fixture, FRAME_SEGMENTS, plain, "SEGMENTS: page 3000 behind page 0 is outside");
    plain->data[0] = 1;
    expect_refused(fixture, FRAME_SEGMENTS, plain, "SEGMENTS: region 1 of 1");
    for (guint method = PACK_NONE; method <= PACK_ZSTD; method++) {
        g_autoptr(GByteArray) frame = make_segments(body, 2, (PackMethod)method);

        /* Two pages announced, one there. */
        expect_refused(fixture, FRAME_SEGMENTS, frame, "SEGMENTS: a page number is cut short");
        frame->data[4] = 1;
        expect_applied(fixture, FRAME_SEGMENTS, frame);
        assert_memory_equal(fixture->destination.memory + PAGE_BYTES, good + 4, 25);
        frame->data[12]--;
        expect_refused(fixture, FRAME_SEGMENTS, frame,
                       method == PACK_NONE ? "body of 29 bytes where the head says 28"
                                           : "does not make 28 bytes");
        frame->data[12]++;
        frame->data[8] = 3;
        expect_refused(fixture, FRAME_SEGMENTS, frame, "SEGMENTS: packed by unknown method 3");
    }
}

#define CONTENTS 500

static void write_content(Fixture *fixture, unsigned page, uint32_t content)
{
    uint32_t words[PAGE_BYTES / 4];

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++)
        words[i] = (content + 1) * 2654435761u * (i + 1);
    memcpy(fixture->source.memory + (size_t)page * PAGE_BYTES, words, sizeof words);
}

/* Equal pages go out once, in the first pass; after that, all of them are told apart. */
static void test_copies(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(fixture->source.guest);
    g_autoptr(GRand) random = g_rand_new_with_seed(13);
    PageSenderCounts counts;

    page_sender_free(fixture->sender);
    fixture->sender = make_copying_sender(fixture, 3);
    for (unsigned i = 0; i < PAGES; i++)
        write_content(fixture, i,
                      i < CONTENTS ? i : (uint32_t)g_rand_int_range(random, 0, CONTENTS));
    page_set_add(g_ptr_array_index(sets, 0), 0, PAGES);
    assert_int_equal(send_round(fixture, sets), CONTENTS);
    assert_same(fixture);
    page_sender_get_counts(fixture->sender, &counts);
    assert_int_equal(counts.pages.copied, PAGES - CONTENTS);
    assert_int_equal(counts.done_pages, PAGES);
    for (unsigned i = 0; i < PAGES; i += 7) {
        write_content(fixture, i, 1);
        page_set_add(g_ptr_array_index(sets, 0), i, 1);
    }
    assert_int_equal(send_round(fixture, sets), (PAGES + 6) / 7);
    assert_same(fixture);
}

static void test_hostile_copies(void **state)
{
    Fixture *fixture = *state;
    const CopyRun runs[] = {{3, 0, 2, 0}, {10, 4, 1, 0}};
    g_autoptr(GByteArray) frame = g_byte_array_new();

    for (unsigned i = 0; i < 3; i++)
        memset(fixture->destination.memory + (size_t)i * PAGE_BYTES, 'a' + (int)i, PAGE_BYTES);
    copy_frame_encode(frame, 0, runs, 2);
    expect_applied(fixture, FRAME_COPIES, frame);
    assert_int_equal(fixture->destination.memory[4 * PAGE_BYTES], 'b');
    assert_int_equal(fixture->destination.memory[10 * PAGE_BYTES], 0); /* what was there */
    frame->data[16 + 2] = 1;                                           /* from page 65536 */
    expect_refused(fixture, FRAME_COPIES, frame, "outside of their region");
    frame->data[0] = 1;
    expect_refused(fixture, FRAME_COPIES, frame, "COPIES: region 1 of 1");
}

/* A failure is told at the next push, too. */
static void test_failure_ends_it(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GByteArray) frame = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    FrameSlot *slot;

    segment_frame_encode_head(frame, &(SegmentFrameHead){0, 0, 0, 0});
    g_byte_array_append(frame, (const guint8 *)"", 1);
    assert_false(apply(fixture, FRAME_SEGMENTS, frame, NULL));
    assert_true(channel_send_bytes(fixture->out, FRAME_SEGMENTS, frame->data, frame->len, NULL));
    slot = frame_queue_pop(fixture->queue, 10000, NULL);
    assert_non_null(slot);
    assert_false(push(fixture, slot, &error));
    assert_non_null(strstr(error->message, "SEGMENTS: 0 pages"));
}

static gboolean verify(Fixture *fixture, GError **error)
{
    g_autoptr(DigestCheck) check = digest_check_new(fixture->received);
    gboolean same = TRUE;

    assert_true(digest_send_all(fixture->pages, fixture->out, NULL));
    send_end(fixture);
    for (gboolean more = TRUE; more;) {
        FrameSlot *slot = frame_queue_pop(fixture->queue, 10000, NULL);

        assert_non_null(slot);
        more = slot->frame.type == FRAME_DIGESTS;
        if (more)
            same =
                digest_check_frame(check, slot->frame.payload, slot->frame.length, error) && same;
        frame_queue_release(fixture->queue, slot);
    }
    return same && digest_check_finish(check, error);
}

static void test_verification(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(fixture->source.guest);
    g_autoptr(GError) error = NULL;

    memset(fixture->source.memory + 50 * PAGE_BYTES, 9, 700 * PAGE_BYTES);
    page_set_add(g_ptr_array_index(sets, 0), 0, PAGES);
    send_round(fixture, sets);
    assert_true(verify(fixture, &error));

    fixture->destination.memory[60 * PAGE_BYTES + 77] ^= 1; /* one bit of a sent page */
    assert_false(verify(fixture, &error));
    assert_non_null(strstr(error->message, "1 pages differ, the first is page 60 of ram"));
    g_clear_error(&error);
    fixture->destination.memory[60 * PAGE_BYTES + 77] ^= 1;
    fixture->destination.memory[2000 * PAGE_BYTES] = 1; /* where all should be zero */
    assert_false(verify(fixture, &error));
    assert_non_null(strstr(error->message, "page 2000"));
}

static void test_hostile_digests(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(DigestCheck) check = digest_check_new(fixture->received);
    static const uint8_t frames[][20] = {
        {1, 0, 0, 0}, /* no such region */
        {0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
        {0, 0, 0, 0, 0xb8, 0x0b, 0, 0, 0, 0, 0, 0}, /* page 3000, one digest: one too far */
    };

    for (guint i = 0; i < G_N_ELEMENTS(frames); i++) {
        g_autoptr(GError) error = NULL;

        assert_false(digest_check_frame(check, frames[i], 20, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    }
    assert_false(digest_check_frame(check, frames[0], 3, NULL));
    assert_false(digest_check_frame(check, frames[2], 19, NULL));
}

/* ---- epochs ---- */

typedef struct {
    Fixture *fixture;
    EpochReceiver *receiver;
    guint seals; /* until it stops */
    GError *error;
} Receiving;

/* As a destination does. */
static gboolean receive_frame(Receiving *receiving, FrameSlot *slot, GError **error)
{
    Fixture *fixture = receiving->fixture;
    gboolean done;

    if (page_applier_takes(slot->frame.type))
        return epoch_receiver_take_pages(receiving->receiver, &slot->frame, slot, error);
    if (slot->frame.type == FRAME_DEVICE_STATE) {
        done = epoch_receiver_take_state(receiving->receiver, &slot->frame, error);
    } else {
        done = epoch_receiver_seal(receiving->receiver, &slot->frame, error) &&
               epoch_receiver_confirm(receiving->receiver, fixture->in, error);
        receiving->seals--;
    }
    frame_queue_release(fixture->queue, slot);
    return done;
}

static gpointer receive_epochs(gpointer data)
{
    Receiving *receiving = data;

    while (receiving->seals > 0) {
        FrameSlot *slot = frame_queue_pop(receiving->fixture->queue, 10000, &receiving->error);

        if (!slot || !receive_frame(receiving, slot, &receiving->error))
            break;
    }
    return NULL;
}

static void change_some(Fixture *fixture, uint8_t value, WorkBatch *ret)
{
    for (unsigned i = 0; i < 64; i++)
        memset(fixture->source.memory + i * PAGE_BYTES, value + (int)i, 100);
    *ret = (WorkBatch){.span_count = 1, .pages = 64, .spans = {{0, 64}}};
}

/* Two without device state, one with; the second goes out before the first is confirmed. */
static void test_epochs(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(EpochReceiver) receiver = epoch_receiver_new(fixture->sink, fixture->applier);
    EpochSender sender = epoch_sender_make(fixture->out, fixture->sender);
    Receiving receiving = {fixture, receiver, 3, NULL};
    GThread *thread = g_thread_new("receive", receive_epochs, &receiving);
    g_autofree uint8_t *bytes = g_malloc(3u << 20);
    g_autoptr(GBytes) device = NULL, came = NULL;
    WorkBatch batch;
    Frame frame;

    memset(bytes, 0x5a, 3u << 20);
    device = g_bytes_new(bytes, (3u << 20) - 1);
    for (uint8_t i = 0; i < 3; i++) {
        change_some(fixture, (uint8_t)(50 * i), &batch);
        assert_true(page_sender_push(fixture->sender, &batch, NULL));
        if (i == 2)
            assert_true(epoch_sender_add_state(&sender, device, NULL));
        assert_true(epoch_sender_seal(&sender, NULL)); /* sends what was pushed */
    }
    for (int i = 0; i < 3; i++) {
        assert_false(epoch_sender_is_applied(&sender));
        assert_true(channel_expect(fixture->out, FRAME_EPOCH_APPLIED, 10000, &frame, NULL));
        assert_true(epoch_sender_take_applied(&sender, &frame, NULL));
    }
    assert_true(epoch_sender_is_applied(&sender));
    assert_false(epoch_sender_take_applied(&sender, &frame, NULL)); /* once only */
    g_thread_join(thread);
    assert_null(receiving.error);
    assert_same(fixture);
    came = epoch_receiver_get_state(receiver, NULL);
    assert_non_null(came);
    assert_true(g_bytes_equal(came, device));
}

static void take(EpochReceiver *receiver, FrameType type, const GByteArray *frame,
                 const char *words)
{
    const Frame received = {type, frame->len, frame->data};
    g_autoptr(GError) error = NULL;
    gboolean done = type == FRAME_EPOCH_SEAL
                        ? epoch_receiver_seal(receiver, &received, &error)
                        : epoch_receiver_take_state(receiver, &received, &error);

    if (done != (words == NULL) || (words && !strstr(error->message, words)))
        fail_msg("expected \"%s\", got \"%s\"", words ? words : "success",
                 error ? error->message : "success");
    assert_true(done || error_is(error, VMFERRY_ERROR_INVALID));
}

static void take_seal(EpochReceiver *receiver, EpochSeal seal, const char *words)
{
    g_autoptr(GByteArray) frame = g_byte_array_new();

    seal_frame_encode(frame, &seal);
    take(receiver, FRAME_EPOCH_SEAL, frame, words);
}

/* 4 bytes. */
static void take_piece(EpochReceiver *receiver, uint64_t total, uint64_t offset, const char *words)
{
    g_autoptr(GByteArray) frame = g_byte_array_new();

    state_frame_encode_head(frame, total, offset);
    g_byte_array_append(frame, (const guint8 *)"abcd", 4);
    take(receiver, FRAME_DEVICE_STATE, frame, words);
}

/* What is missing, comes twice or was not sealed does not count. */
static void test_hostile_epochs(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(EpochReceiver) receiver = epoch_receiver_new(fixture->sink, fixture->applier);
    g_autoptr(GBytes) device = NULL;

    take_seal(receiver, (EpochSeal){1, 0}, "EPOCH_SEAL 1 where 0 was expected");
    take_seal(receiver, (EpochSeal){0, 4}, "4 bytes, of which 0 have come");
    take_seal(receiver, (EpochSeal){0, 0}, NULL);
    assert_null(epoch_receiver_get_state(receiver, NULL));
    take_piece(receiver, 8, 4, "4 of 8 bytes where 0 of 8 have come");
    take_piece(receiver, 8, 0, NULL);
    take_piece(receiver, 8, 0, "0 of 8 bytes where 4 of 8 have come");
    take_piece(receiver, 12, 4, "4 of 12 bytes where 4 of 8 have come");
    take_seal(receiver, (EpochSeal){1, 8}, "8 bytes, of which 4 have come");
    take_seal(receiver, (EpochSeal){1, 4}, "8 bytes, of which 4 have come");
    take_seal(receiver, (EpochSeal){1, 0}, "8 bytes, of which 4 have come");
    take_piece(receiver, 8, 4, NULL);
    assert_null(epoch_receiver_get_state(receiver, NULL));
    take_seal(receiver, (EpochSeal){1, 8}, NULL);
    device = epoch_receiver_get_state(receiver, NULL);
    assert_memory_equal(g_bytes_get_data(device, NULL), "abcdabcd", 8);
    take_piece(receiver, 4, 0, NULL);
    assert_null(epoch_receiver_get_state(receiver, NULL));
    take_seal(receiver, (EpochSeal){1, 4}, "EPOCH_SEAL 1 where 2 was expected");
}

/* The end of the connection comes out behind the frames before it. */
static void test_queue_end(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GError) error = NULL;
    FrameSlot *slot;

    assert_null(frame_queue_pop(fixture->queue, 10, &error));
    assert_true(error_is(error, VMFERRY_ERROR_TIMEOUT));
    g_clear_error(&error);
    for (int i = 0; i < 3; i++)
        assert_true(channel_send_bytes(fixture->out, FRAME_STARTED, NULL, 0, NULL));
    g_clear_pointer(&fixture->sender, page_sender_free);
    g_clear_pointer(&fixture->out, channel_free);
    for (int i = 0; i < 3; i++) {
        slot = frame_queue_pop(fixture->queue, 5000, &error);
        assert_non_null(slot);
        assert_int_equal(slot->frame.type, FRAME_STARTED);
        frame_queue_release(fixture->queue, slot);
    }
    assert_null(frame_queue_pop(fixture->queue, 5000, &error));
    assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
}

/* A frame of a few bytes that names all pages costs nothing where there is nothing, and
 * zeroes what there is. */
static void test_zero_runs_touch_what_there_is(void **state)
{
    Fixture *fixture = *state;
    const PageRun all = {0, PAGES, PAGE_RUN_ZERO};
    const PageRun two = {7, 2, PAGE_RUN_RAW};
    g_autoptr(GByteArray) zero = g_byte_array_new();
    g_autoptr(GByteArray) raw = g_byte_array_new();
    uint8_t *memory = fixture->destination.memory;
    uint64_t populated;

    memory[11 * PAGE_BYTES] = 1; /* was there before */
    renew_applier(fixture);
    page_frame_encode(zero, 0, &all, 1);
    page_frame_encode(raw, 0, &two, 1);
    g_byte_array_set_size(raw, raw->len + 2 * PAGE_BYTES);
    memset(raw->data + raw->len - 2 * PAGE_BYTES, 0x55, 2 * PAGE_BYTES);
    for (guint round = 0; round < 2; round++) {
        expect_applied(fixture, FRAME_PAGES, raw);
        assert_int_equal(memory[8 * PAGE_BYTES], 0x55);
        expect_applied(fixture, FRAME_PAGES, zero);
        assert_int_equal(memory[7 * PAGE_BYTES], 0);
        assert_int_equal(memory[8 * PAGE_BYTES + 4095], 0);
        assert_int_equal(memory[11 * PAGE_BYTES], 0);
        assert_true(guest_memory_count_populated(fixture->destination.guest, &populated, NULL));
        assert_in_range(populated, 3, 63);
    }
}

/* Giving up does not apply what is queued: the guest's process is waiting to be ended. */
static void test_giving_up_waits_for_little(void **state)
{
    Fixture *fixture = *state;
    const guint frames = PAGES / 256 - 1;
    g_autoptr(GByteArray) payload = g_byte_array_new();
    guint applied = 0;

    end_applier(fixture);
    frame_queue_free(fixture->queue);
    fixture->queue = frame_queue_start(fixture->in, frames + 1, NULL);
    start_applier(fixture);
    for (guint i = 0; i < frames; i++) {
        const PageRun run = {i * 256, 256, PAGE_RUN_RAW};

        g_byte_array_set_size(payload, 0);
        page_frame_encode(payload, 0, &run, 1);
        g_byte_array_set_size(payload, payload->len + 256 * PAGE_BYTES);
        payload->data[payload->len - 1] = 1;
        assert_true(
            channel_send_bytes(fixture->out, FRAME_PAGES, payload->data, payload->len, NULL));
    }
    write_ns = SLOW_WRITE_NS;
    for (guint i = 0; i < frames; i++) {
        FrameSlot *slot = frame_queue_pop(fixture->queue, 5000, NULL);

        assert_non_null(slot);
        assert_true(push(fixture, slot, NULL));
    }
    g_clear_pointer(&fixture->applier, page_applier_free);
    write_ns = 0;
    for (guint i = 0; i < frames; i++)
        applied += fixture->destination.memory[(i + 1) * 256 * PAGE_BYTES - 1];
    assert_in_range(applied, 0, 4); /* one a thread */
}

#define MIB (1u << 20)
#define MANY_FRAMES 40

static gpointer send_many(gpointer data)
{
    g_autofree uint8_t *payload = g_malloc0(MIB);

    for (guint i = 0; i < MANY_FRAMES; i++)
        if (!channel_send_bytes(data, FRAME_DEVICE_STATE, payload, MIB, NULL))
            return NULL;
    return data;
}

/* However many slots there are, frames that wait are limited in bytes. */
static void test_queue_limit(void **state)
{
    Fixture *fixture = *state;
    GThread *thread;
    uint64_t received;

    /* Both read from the queue. */
    end_applier(fixture);
    frame_queue_free(fixture->queue);
    fixture->queue = frame_queue_start(fixture->in, MANY_FRAMES + 1, NULL);
    start_applier(fixture);
    thread = g_thread_new("many", send_many, fixture->out);
    do {
        received = channel_get_received_bytes(fixture->in);
        poll(NULL, 0, 300);
    } while (received == 0 || channel_get_received_bytes(fixture->in) != received);
    assert_true(received >= FRAME_QUEUE_MOST_BYTES);
    assert_true(received <= FRAME_QUEUE_MOST_BYTES + 3 * MIB);
    for (guint i = 0; i < MANY_FRAMES; i++) {
        FrameSlot *slot = frame_queue_pop(fixture->queue, 5000, NULL);

        assert_non_null(slot);
        frame_queue_release(fixture->queue, slot);
    }
    assert_non_null(g_thread_join(thread));
}

/* Sends all pages; returns how many were under way at most. */
static uint64_t send_with_link(Fixture *fixture, LinkRate *link)
{
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(fixture->source.guest);

    page_set_add(g_ptr_array_index(sets, 0), 0, PAGES);
    page_sender_set_link(fixture->sender, link);
    send_round(fixture, sets);
    return fixture->most_under_way;
}

/* On a slow link little is read ahead, and in small batches, and as long as nothing is known of it; on a
 * fast one, or where pages cost little, neither is limited. */
static void test_link_limits_what_is_ahead(void **state)
{
    Fixture *fixture = *state;
    LinkRate link = {0};
    guint large;

    page_sender_free(fixture->sender);
    fixture->sender = make_sender(fixture, 4, SENT_STORE_OFF);
    assert_int_equal(page_sender_get_batch_pages(fixture->sender), WORK_BATCH_PAGES);
    for (size_t i = 0; i < BYTES; i += 4)
        *(uint32_t *)(fixture->source.memory + i) = g_random_int();
    for (guint i = 0; i < 5; i++) /* until it is known what a page costs */
        send_with_link(fixture, &link);
    assert_int_equal(page_sender_get_batch_pages(fixture->sender), 64);
    link.bytes_per_ms = 117000;
    assert_int_equal(page_sender_get_batch_pages(fixture->sender), WORK_BATCH_PAGES);
    link.bytes_per_ms = 12000; /* 50 ms of it: 146 pages */
    large = page_sender_get_batch_pages(fixture->sender);
    assert_true(large > 120 && large < 180);
    link.bytes_per_ms = 2000;
    assert_int_equal(page_sender_get_batch_pages(fixture->sender), WORK_LEAST_BATCH_PAGES);
    assert_true(send_with_link(fixture, &link) <= 2 * WORK_BATCH_PAGES);
    memset(fixture->source.memory, 0, BYTES);
    for (guint i = 0; i < 5; i++)
        send_with_link(fixture, &link);
    assert_true(page_sender_get_batch_pages(fixture->sender) > WORK_LEAST_BATCH_PAGES);
}

#define PAGES_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PAGES_TEST(test_rounds),
        PAGES_TEST(test_changes),
        PAGES_TEST(test_discarded),
        PAGES_TEST(test_packed_pages),
        PAGES_TEST(test_windows),
        PAGES_TEST(test_hostile_windows),
        PAGES_TEST(test_segments),
        PAGES_TEST(test_hostile_segments),
        PAGES_TEST(test_copies),
        PAGES_TEST(test_hostile_copies),
        PAGES_TEST(test_failure_ends_it),
        PAGES_TEST(test_verification),
        PAGES_TEST(test_hostile_digests),
        PAGES_TEST(test_epochs),
        PAGES_TEST(test_hostile_epochs),
        PAGES_TEST(test_queue_limit),
        PAGES_TEST(test_zero_runs_touch_what_there_is),
        PAGES_TEST(test_giving_up_waits_for_little),
        PAGES_TEST(test_queue_end),
        PAGES_TEST(test_link_limits_what_is_ahead),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

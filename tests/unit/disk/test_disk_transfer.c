/* Content of disks from a sender to a receiver, by a real session. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "disk_transfer.h"
#include "loopback.h"
#include "page/zstd_block.h"
#include "wire/disk_frame.h"

#define MIB ((uint64_t)1 << 20)
#define GRANULE 65536u
#define PIECE_BYTES 65536u
#define SECOND_NS 1000000000ULL
#define OPERATIONS 150
#define ROUNDS 20

static uint8_t *random_bytes(GRand *random, size_t length)
{
    uint8_t *bytes = g_malloc(length + 4);

    for (size_t i = 0; i < length; i += 4)
        memcpy(bytes + i, &(guint32){g_rand_int(random)}, 4);
    return bytes;
}

/* ---- anything, from several threads ---- */

/* Random, text, zeros, or pages of each. */
static void fill(GRand *random, uint8_t *at, size_t length)
{
    gint kind = g_rand_int_range(random, 0, 4);

    for (size_t done = 0; done < length;) {
        size_t piece = MIN(length - done, PAGE_BYTES);
        gint here = kind < 3 ? kind : g_rand_int_range(random, 0, 3);
        g_autofree uint8_t *noise = random_bytes(random, piece);

        for (size_t i = 0; i < piece; i++)
            at[done + i] = here == 0 ? noise[i] : here == 1 ? (uint8_t)("lorem ipsum"[i % 11]) : 0;
        done += piece;
    }
}

/* Small, or up to more than a frame takes; half of them aligned as a file system's are. */
static void choose_place(GRand *random, uint64_t bytes, uint64_t *offset, uint64_t *length)
{
    static const uint64_t most[] = {100, 8 * PAGE_BYTES, 3 * GRANULE, 3 * MIB};

    uint64_t limit = most[g_rand_int_range(random, 0, 4)];

    *length = 1 + g_rand_int(random) % MIN(bytes, limit);
    *offset = g_rand_int(random) % (bytes - *length + 1);
    if (g_rand_boolean(random)) {
        *offset -= *offset % PAGE_BYTES;
        *length += PAGE_BYTES - 1 - (*length - 1) % PAGE_BYTES;
        *length = MIN(*length, bytes - *offset);
    }
}

typedef struct {
    Transfer *transfer;
    guint file, seed;
    GThread *thread;
} Writer;

static gpointer write_anything(gpointer data)
{
    Writer *writer = data;
    Transfer *transfer = writer->transfer;
    uint64_t bytes = transfer->files[writer->file].bytes, offset, length, number;
    GRand *random = g_rand_new_with_seed(writer->seed);
    g_autofree uint8_t *buffer = g_malloc(bytes);
    gboolean done = TRUE;

    for (guint i = 0; i < OPERATIONS && done; i++) {
        guint what = g_rand_int_range(random, 0, 10);

        choose_place(random, bytes, &offset, &length);
        if (what == 0)
            done = disk_sender_flush(transfer->sender, FALSE, &number, NULL);
        else if (what < 4)
            done = transfer_zero(transfer, writer->file, offset, length);
        else {
            fill(random, buffer, length);
            done = transfer_write(transfer, writer->file, offset, buffer, length);
        }
    }
    g_rand_free(random);
    return GINT_TO_POINTER(done);
}

static void start_writers(Transfer *transfer, Writer writers[TRANSFER_FILES], guint seed)
{
    for (guint i = 0; i < TRANSFER_FILES; i++) {
        writers[i] = (Writer){transfer, i, seed * TRANSFER_FILES + i, NULL};
        writers[i].thread = g_thread_new("writer", write_anything, &writers[i]);
    }
}

static guint join_writers(Writer writers[TRANSFER_FILES])
{
    guint through = 0;

    for (guint i = 0; i < TRANSFER_FILES; i++)
        through += g_thread_join(writers[i].thread) ? 1 : 0;
    return through;
}

static const TransferPlan anything = {{5 * MIB, 4 * MIB + 4096, 777777, 512}, TRUE, TRUE};

static void test_anything(void **state)
{
    for (guint seed = 0; seed < 4; seed++) {
        TransferPlan plan = anything;
        Writer writers[TRANSFER_FILES];
        Transfer transfer;

        plan.pack = seed % 2 == 0;
        transfer_open(&transfer, &plan);
        start_writers(&transfer, writers, seed);
        assert_int_equal(join_writers(writers), TRANSFER_FILES);
        transfer_finish(&transfer);
        transfer_close(&transfer);
    }
}

/* ---- zeros ---- */

static void assert_counts(Transfer *transfer, guint file, uint64_t data, uint64_t zeros,
                          uint64_t wire)
{
    DiskCounts counts;

    disk_sender_get_counts(transfer->sender, file, &counts);
    assert_int_equal(counts.data_bytes, data);
    assert_int_equal(counts.zero_bytes, zeros);
    assert_int_equal(counts.wire_bytes, wire);
}

static void test_zeros_of_a_new_file_are_not_sent(void **state)
{
    static const uint8_t zeros[3 * GRANULE];
    TransferPlan plan = {{8 * MIB}, FALSE, FALSE};
    Transfer transfer;

    transfer_open(&transfer, &plan);
    assert_true(transfer_zero(&transfer, 0, 0, 8 * MIB));
    assert_true(transfer_write(&transfer, 0, MIB, zeros, sizeof zeros));
    assert_counts(&transfer, 0, 0, 8 * MIB + sizeof zeros, 0);
    transfer_finish(&transfer);
    assert_int_equal(transfer.opened, 0);
    transfer_close(&transfer);
}

/* Only there, and as a zero. */
static void test_zeros_are_sent_over_content(void **state)
{
    static const uint8_t zeros[GRANULE];
    TransferPlan plan = {{8 * MIB}, FALSE, FALSE};
    Transfer transfer;

    transfer_open(&transfer, &plan);
    assert_true(transfer_write(&transfer, 0, 5 * GRANULE + 7, (const uint8_t *)"content", 7));
    assert_counts(&transfer, 0, 7, 0, FRAME_DISK_WRITE_HEAD_BYTES + 7);
    assert_true(transfer_zero(&transfer, 0, 0, 8 * MIB));
    assert_counts(&transfer, 0, 7, 8 * MIB,
                  FRAME_DISK_WRITE_HEAD_BYTES + 7 + FRAME_DISK_ZERO_BYTES);
    assert_true(transfer_write(&transfer, 0, 5 * GRANULE, zeros, sizeof zeros));
    assert_counts(&transfer, 0, 7, 8 * MIB + sizeof zeros,
                  FRAME_DISK_WRITE_HEAD_BYTES + 7 + 2 * FRAME_DISK_ZERO_BYTES);
    transfer_finish(&transfer);
    transfer_close(&transfer);
}

static void test_zeros_of_a_covering_file_are_sent(void **state)
{
    TransferPlan plan = {{0, 8 * MIB}, TRUE, FALSE};
    Transfer transfer;

    transfer_open(&transfer, &plan);
    assert_true(transfer_zero(&transfer, 1, 4096, 5 * MIB));
    assert_counts(&transfer, 1, 0, 5 * MIB, FRAME_DISK_ZERO_BYTES);
    transfer_finish(&transfer);
    assert_int_equal(transfer.opened, 1);
    transfer_close(&transfer);
}

static void test_what_is_beyond_is_refused(void **state)
{
    static const struct {
        uint64_t offset, length;
    } places[] = {{0, 0},
                  {0, 513},
                  {512, 1},
                  {513, 0},
                  {UINT64_MAX, 1},
                  {511, UINT32_MAX},
                  {UINT64_MAX, UINT32_MAX}};
    TransferPlan plan = {{512}, FALSE, FALSE};
    Transfer transfer;

    transfer_open(&transfer, &plan);
    for (guint i = 0; i < G_N_ELEMENTS(places); i++) {
        g_autoptr(GError) error = NULL;

        assert_false(
            disk_sender_zero(transfer.sender, 0, places[i].offset, places[i].length, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
        assert_false(disk_sender_write(transfer.sender, 0, places[i].offset, (const uint8_t *)"",
                                       places[i].length, NULL));
    }
    assert_counts(&transfer, 0, 0, 0, 0);
    transfer_finish(&transfer);
    transfer_close(&transfer);
}

static void test_compressible_content_is_packed(void **state)
{
    TransferPlan plan = {{2 * MIB, 2 * MIB}, FALSE, TRUE};
    g_autofree uint8_t *text = g_malloc(MIB);
    GRand *random = g_rand_new_with_seed(3);
    g_autofree uint8_t *noise = random_bytes(random, MIB);
    DiskCounts counts;
    Transfer transfer;

    memset(text, 'x', MIB);
    transfer_open(&transfer, &plan);
    assert_true(transfer_write(&transfer, 0, 0, text, MIB));
    assert_true(transfer_write(&transfer, 1, 0, noise, MIB));
    disk_sender_get_counts(transfer.sender, 0, &counts);
    assert_true(counts.data_bytes == MIB && counts.wire_bytes < 10000);
    disk_sender_get_counts(transfer.sender, 1, &counts);
    assert_true(counts.data_bytes == MIB && counts.wire_bytes < MIB + 10000);
    transfer_finish(&transfer);
    transfer_close(&transfer);
    g_rand_free(random);
}

/* ---- back-pressure ---- */

typedef struct {
    Transfer *transfer;
    uint64_t bytes;
    size_t piece;
    gboolean done;
} Stream;

/* What does not become smaller. */
static gpointer write_stream(gpointer data)
{
    Stream *stream = data;
    GRand *random = g_rand_new_with_seed(1);
    g_autofree uint8_t *noise = random_bytes(random, stream->piece);

    stream->done = TRUE;
    for (uint64_t at = 0; at < stream->bytes && stream->done; at += stream->piece)
        stream->done = transfer_write(stream->transfer, 0, at, noise, stream->piece);
    g_rand_free(random);
    return NULL;
}

static void test_answers_wait_for_a_stalled_receiver(void **state)
{
    TransferPlan plan = {{8 * MIB}, FALSE, FALSE};
    Transfer transfer;
    Stream stream = {&transfer, 4 * MIB, PIECE_BYTES, FALSE};
    uint64_t first_ns;
    GThread *thread;
    guint answered;

    transfer_open(&transfer, &plan);
    assert_true(disk_sender_get_stall_ns(transfer.sender) == 0);
    transfer_set_gate(&transfer, TRUE);
    thread = g_thread_new("stream", write_stream, &stream);
    answered = transfer_settle_answers(&transfer);
    /* At most a MiB before anything is known of the link; how much the kernel takes differs. */
    assert_in_range(answered, 4, MIB / PIECE_BYTES);
    first_ns = disk_sender_get_stall_ns(transfer.sender);
    assert_true(first_ns > SECOND_NS / 10);
    g_usleep(100000);
    assert_true(disk_sender_get_stall_ns(transfer.sender) >= first_ns + SECOND_NS / 10);
    assert_true(transfer_count_ticks(&transfer) > 0);
    transfer_set_gate(&transfer, FALSE);
    g_thread_join(thread);
    assert_true(stream.done);
    transfer_await_answers(&transfer, 4 * MIB / PIECE_BYTES);
    transfer_finish(&transfer);
    transfer_close(&transfer);
}

/* A link that carries little is none that carries nothing. */
static void test_a_slow_link_is_no_stall(void **state)
{
    TransferPlan plan = {{2 * MIB}, FALSE, FALSE};
    Transfer transfer;
    Stream stream = {&transfer, 2 * MIB, 2 * MIB, FALSE};
    uint64_t longest_ns = 0;
    GThread *thread;

    transfer_open(&transfer, &plan);
    session_set_rate(transfer.pair.client, 800000);
    thread = g_thread_new("stream", write_stream, &stream);
    for (guint i = 0; i < 300; i++) {
        longest_ns = MAX(longest_ns, disk_sender_get_stall_ns(transfer.sender));
        g_usleep(10000);
    }
    g_thread_join(thread);
    assert_true(longest_ns > 0 && longest_ns < SECOND_NS / 2);
    transfer_finish(&transfer);
    transfer_close(&transfer);
}

/* ---- the end of a sender ---- */

static void test_a_peer_that_dies(void **state)
{
    TransferPlan plan = {{8 * MIB}, FALSE, FALSE};
    Transfer transfer;
    Stream stream = {&transfer, 2 * MIB, PIECE_BYTES, FALSE};
    g_autoptr(GError) error = NULL;
    uint64_t number;
    GThread *thread;
    guint answered;

    transfer_open(&transfer, &plan);
    transfer_set_gate(&transfer, TRUE);
    thread = g_thread_new("stream", write_stream, &stream);
    answered = transfer_settle_answers(&transfer);
    session_shutdown(transfer.pair.server);
    transfer_close_receiver(&transfer);
    transfer_await_failure(&transfer);
    g_thread_join(thread);
    assert_true(error_is(transfer.why, VMFERRY_ERROR_DISCONNECTED));
    assert_false(disk_sender_write(transfer.sender, 0, 0, (const uint8_t *)"x", 1, NULL));
    assert_false(disk_sender_zero(transfer.sender, 0, 4 * MIB, MIB, &error));
    assert_string_equal(error->message, transfer.why->message);
    assert_false(disk_sender_flush(transfer.sender, TRUE, &number, NULL));
    assert_false(disk_sender_is_flushed(transfer.sender, number));
    disk_sender_answer(transfer.sender, 0, TRANSFER_MOST_ANSWERS);
    assert_int_equal(transfer_settle_answers(&transfer), answered);
    assert_int_equal(transfer.failures, 1);
    transfer_close(&transfer);
}

static void set_silent(Transfer *transfer)
{
    g_mutex_lock(&transfer->lock);
    transfer->silent = TRUE;
    g_mutex_unlock(&transfer->lock);
}

/* Content may come all the same. */
static void test_a_stopped_sender_calls_nobody(void **state)
{
    TransferPlan plan = {{8 * MIB}, FALSE, FALSE};
    Transfer transfer;

    transfer_open(&transfer, &plan);
    assert_true(transfer_write(&transfer, 0, 0, (const uint8_t *)"a", 1));
    transfer_await_answers(&transfer, 1);
    disk_sender_stop(transfer.sender);
    set_silent(&transfer);
    assert_true(transfer_write(&transfer, 0, 1, (const uint8_t *)"b", 1));
    assert_int_equal(transfer_settle_answers(&transfer), 1);
    transfer_close(&transfer);
}

static gpointer write_one(gpointer data)
{
    transfer_write(data, 0, 0, (const uint8_t *)"a", 1);
    return NULL;
}

/* Whoever gives content may be giving an answer to somebody else. */
static void test_stopping_waits_for_an_answer(void **state)
{
    TransferPlan plan = {{8 * MIB}, FALSE, FALSE};
    Transfer transfer;
    GThread *thread;

    transfer_open(&transfer, &plan);
    transfer.slow_answers = TRUE;
    thread = g_thread_new("writer", write_one, &transfer);
    transfer_await_answers(&transfer, 1);
    disk_sender_stop(transfer.sender);
    set_silent(&transfer);
    g_thread_join(thread);
    transfer_close(&transfer);
}

/* ---- what a receiver refuses ---- */

typedef struct {
    SessionPair pair;
    DiskReceiver *receiver;
    int fd;
} Far;

static DiskTarget *open_far(guint number, gpointer user, GError **error)
{
    Far *far = user;

    if (number == 1) {
        error_set(error, VMFERRY_ERROR_REFUSED, "not this one");
        return NULL;
    }
    return disk_target_open_file(far->fd, 4096, error);
}

static void far_open(Far *far, int fd)
{
    DiskReceiverOptions options = {2, open_far, NULL, far};

    far->fd = fd;
    session_pair_open(&far->pair, TRAFFIC_DISK);
    far->receiver = disk_receiver_start(far->pair.server, &options, NULL);
    assert_non_null(far->receiver);
}

static void far_close(Far *far)
{
    g_clear_pointer(&far->receiver, disk_receiver_free);
    session_pair_close(&far->pair);
    fd_close(&far->fd);
}

static int scratch_file(void)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("vmferry-disk-XXXXXX", &path, NULL);

    assert_true(fd >= 0);
    unlink(path);
    return fd;
}

static void send_write(Far *far, const DiskWrite *write)
{
    uint8_t head[FRAME_DISK_WRITE_HEAD_BYTES];
    struct iovec payload[] = {{head, sizeof head}, {(void *)write->content, write->content_bytes}};

    disk_write_encode_head(write, head);
    assert_true(session_send(far->pair.client, FRAME_DISK_WRITE, payload, 2, NULL));
}

static void send_zero(Far *far, const DiskZero *zero)
{
    uint8_t payload[FRAME_DISK_ZERO_BYTES];

    disk_zero_encode(zero, payload);
    assert_true(
        session_send_bytes(far->pair.client, FRAME_DISK_ZERO, payload, sizeof payload, NULL));
}

static void send_flush(Far *far, uint64_t number, gboolean last)
{
    uint8_t payload[FRAME_DISK_FLUSH_BYTES];

    disk_flush_encode(&(DiskFlush){number, last}, payload);
    session_send_bytes(far->pair.client, FRAME_DISK_FLUSH, payload, sizeof payload, NULL);
}

static void expect_done(Far *far, uint64_t bytes, uint64_t flushed)
{
    DiskDone done;
    Frame frame;

    do {
        assert_true(session_receive(far->pair.client, TRAFFIC_DISK, 10000, &frame, NULL));
        assert_int_equal(frame.type, FRAME_DISK_DONE);
        assert_true(disk_done_decode(frame.payload, frame.length, &done, NULL));
        assert_true(done.applied_bytes <= bytes && done.flushed <= flushed);
    } while (done.applied_bytes != bytes || done.flushed != flushed);
}

/* The peer is told, it stays failed, and is not complete. */
static void expect_failure(Far *far, VmferryErrorCode code, const char *words)
{
    g_autoptr(GError) told = NULL;
    g_autoptr(GError) kept = NULL;
    g_autoptr(GError) final = NULL;
    Frame frame;

    assert_false(session_expect(far->pair.client, FRAME_DISKS_MADE, 10000, &frame, &told));
    if (!error_is(told, code) || !strstr(told->message, words))
        fail_msg("expected \"%s\", got \"%s\"", words, told->message);
    assert_false(disk_receiver_finish(far->receiver, &final));
    assert_true(error_is(final, code));
    assert_false(disk_receiver_check(far->receiver, &kept));
    assert_string_equal(kept->message, final->message);
    assert_non_null(strstr(kept->message, words));
}

static void expect_refused(void (*send)(Far *far), VmferryErrorCode code, const char *words)
{
    Far far;

    far_open(&far, scratch_file());
    assert_true(disk_receiver_check(far.receiver, NULL));
    send(&far);
    expect_failure(&far, code, words);
    far_close(&far);
}

static const uint8_t some[16] = "some content";

static void write_beyond(Far *far)
{
    send_write(far, &(DiskWrite){0, DISK_PACKING_NONE, 16, 4090, some, 16});
}

static void zero_beyond(Far *far)
{
    send_zero(far, &(DiskZero){0, 4096, 1});
}

static void write_no_file(Far *far)
{
    send_write(far, &(DiskWrite){2, DISK_PACKING_NONE, 16, 0, some, 16});
}

static void zero_no_file(Far *far)
{
    send_zero(far, &(DiskZero){UINT32_MAX, 0, 1});
}

static void write_unopened(Far *far)
{
    send_write(far, &(DiskWrite){1, DISK_PACKING_NONE, 16, 0, some, 16});
}

static void write_garbage(Far *far)
{
    send_write(far, &(DiskWrite){0, DISK_PACKING_ZSTD, 100, 0, some, 16});
}

/* A frame that becomes more than it says. */
static void write_bomb(Far *far)
{
    static const uint8_t zeros[4096];
    uint8_t packed[200];
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t length = ZSTD_compressCCtx(context, packed, sizeof packed, zeros, sizeof zeros, 1);

    assert_false(ZSTD_isError(length));
    send_write(far, &(DiskWrite){0, DISK_PACKING_ZSTD, 512, 0, packed, (uint32_t)length});
    ZSTD_freeCCtx(context);
}

static void flush_too_early(Far *far)
{
    send_flush(far, 2, FALSE);
}

static void flush_twice(Far *far)
{
    send_flush(far, 1, FALSE);
    send_flush(far, 1, TRUE);
}

static void send_done(Far *far)
{
    uint8_t payload[FRAME_DISK_DONE_BYTES] = {0};

    session_send_bytes(far->pair.client, FRAME_DISK_DONE, payload, sizeof payload, NULL);
}

static void send_malformed(Far *far)
{
    uint8_t payload[FRAME_DISK_ZERO_BYTES] = {0};

    session_send_bytes(far->pair.client, FRAME_DISK_ZERO, payload, sizeof payload, NULL);
}

static void test_refused(void **state)
{
    expect_refused(write_beyond, VMFERRY_ERROR_INVALID, "beyond");
    expect_refused(zero_beyond, VMFERRY_ERROR_INVALID, "beyond");
    expect_refused(write_no_file, VMFERRY_ERROR_INVALID, "content of file 2 of 2");
    expect_refused(zero_no_file, VMFERRY_ERROR_INVALID, "content of file 4294967295 of 2");
    expect_refused(write_unopened, VMFERRY_ERROR_REFUSED, "not this one");
    expect_refused(write_garbage, VMFERRY_ERROR_INVALID, "disks: ");
    expect_refused(write_bomb, VMFERRY_ERROR_INVALID, "disks: ");
    expect_refused(flush_too_early, VMFERRY_ERROR_INVALID, "flush 2 out of turn");
    expect_refused(flush_twice, VMFERRY_ERROR_INVALID, "flush 1 out of turn");
    expect_refused(send_done, VMFERRY_ERROR_INVALID, "unexpected DISK_DONE");
    expect_refused(send_malformed, VMFERRY_ERROR_INVALID, "DISK_ZERO: malformed");
}

/* Takes all that is left. */
static void fill_storage(const char *folder)
{
    static const uint8_t waste[4096];
    g_autofree char *path = g_build_filename(folder, "filler", NULL);
    autofd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    while (write(fd, waste, sizeof waste) > 0)
        ;
}

static void test_full_storage(void **state)
{
    g_autofree char *folder = g_dir_make_tmp("vmferry-disk-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "image", NULL);
    Far far;

    if (mount("none", folder, "tmpfs", 0, "size=64k") < 0) {
        rmdir(folder);
        skip();
    }
    far_open(&far, open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    fill_storage(folder);
    send_write(&far, &(DiskWrite){0, DISK_PACKING_NONE, 16, 0, some, 16});
    expect_failure(&far, VMFERRY_ERROR_NO_SPACE, "disks: write");
    far_close(&far);
    umount2(folder, MNT_DETACH);
    rmdir(folder);
}

/* ---- the end of a receiver ---- */

static void test_incomplete_without_the_last_flush(void **state)
{
    g_autoptr(GError) error = NULL;
    Far far;

    far_open(&far, scratch_file());
    send_write(&far, &(DiskWrite){0, DISK_PACKING_NONE, 16, 0, some, 16});
    send_flush(&far, 1, FALSE);
    expect_done(&far, FRAME_DISK_WRITE_HEAD_BYTES + 16, 1);
    assert_true(disk_receiver_check(far.receiver, NULL));
    assert_false(disk_receiver_finish(far.receiver, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_non_null(strstr(error->message, "not complete"));
    send_flush(&far, 2, TRUE);
    expect_done(&far, FRAME_DISK_WRITE_HEAD_BYTES + 16, 2);
    assert_true(disk_receiver_finish(far.receiver, NULL));
    far_close(&far);
}

/* Nothing changes a disk that is complete. */
static void test_what_follows_the_last_flush_is_not_applied(void **state)
{
    uint8_t there[16];
    Far far;

    far_open(&far, scratch_file());
    send_write(&far, &(DiskWrite){0, DISK_PACKING_NONE, 16, 0, some, 16});
    send_flush(&far, 1, TRUE);
    send_write(&far,
               &(DiskWrite){0, DISK_PACKING_NONE, 16, 0, (const uint8_t *)"0123456789abcdef", 16});
    expect_done(&far, FRAME_DISK_WRITE_HEAD_BYTES + 16, 1);
    assert_true(disk_receiver_finish(far.receiver, NULL));
    g_usleep(100000);
    assert_int_equal(pread(far.fd, there, sizeof there, 0), sizeof there);
    assert_memory_equal(there, some, sizeof some);
    far_close(&far);
}

static void test_a_source_that_dies(void **state)
{
    g_autoptr(GError) error = NULL;
    Far far;

    far_open(&far, scratch_file());
    send_write(&far, &(DiskWrite){0, DISK_PACKING_NONE, 16, 0, some, 16});
    session_shutdown(far.pair.client);
    assert_false(disk_receiver_finish(far.receiver, &error));
    assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
    far_close(&far);
}

/* ---- freed at any moment ---- */

static void end_somehow(Transfer *transfer, Writer writers[TRANSFER_FILES], guint how)
{
    switch (how) {
    case 0: /* the receiver gives up */
        transfer_close_receiver(transfer);
        session_shutdown(transfer->pair.server);
        break;
    case 1: /* the source does, while its disks are written to */
        disk_sender_stop(transfer->sender);
        session_shutdown(transfer->pair.client);
        break;
    case 2: /* its connection is cut */
        session_shutdown(transfer->pair.client);
        break;
    default: /* late, both */
        g_usleep(20000);
        session_shutdown(transfer->pair.server);
        session_shutdown(transfer->pair.client);
        break;
    }
    join_writers(writers);
}

static void test_freed_at_any_moment(void **state)
{
    for (guint i = 0; i < ROUNDS; i++) {
        Writer writers[TRANSFER_FILES];
        Transfer transfer;

        transfer_open(&transfer, &anything);
        start_writers(&transfer, writers, 100 + i);
        g_usleep(i * 2000);
        end_somehow(&transfer, writers, i % 4);
        transfer_close(&transfer);
    }
}

static void test_unused(void **state)
{
    TransferPlan plan = {{0}, FALSE, FALSE};
    Transfer transfer;

    transfer_open(&transfer, &plan);
    transfer_close(&transfer);
    transfer_open(&transfer, &plan);
    transfer_finish(&transfer);
    transfer_close(&transfer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_anything),
        cmocka_unit_test(test_zeros_of_a_new_file_are_not_sent),
        cmocka_unit_test(test_zeros_are_sent_over_content),
        cmocka_unit_test(test_zeros_of_a_covering_file_are_sent),
        cmocka_unit_test(test_what_is_beyond_is_refused),
        cmocka_unit_test(test_compressible_content_is_packed),
        cmocka_unit_test(test_answers_wait_for_a_stalled_receiver),
        cmocka_unit_test(test_a_slow_link_is_no_stall),
        cmocka_unit_test(test_a_peer_that_dies),
        cmocka_unit_test(test_a_stopped_sender_calls_nobody),
        cmocka_unit_test(test_stopping_waits_for_an_answer),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_full_storage),
        cmocka_unit_test(test_incomplete_without_the_last_flush),
        cmocka_unit_test(test_what_follows_the_last_flush_is_not_applied),
        cmocka_unit_test(test_a_source_that_dies),
        cmocka_unit_test(test_freed_at_any_moment),
        cmocka_unit_test(test_unused),
    };

    alarm(TEST_DEADLINE_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

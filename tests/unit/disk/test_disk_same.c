/* A file that is made in place of another one: only what differs is sent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "disk/disk_receiver.h"
#include "disk/disk_sender.h"
#include "disk/granule_digest.h"
#include "disk/peer_digests.h"
#include "session_pair.h"

#define MIB ((uint64_t)1 << 20)
#define GRANULE ((uint64_t)DISK_GRANULE_BYTES)
#define PIECE_BYTES MIB
#define PATIENCE_MS 30000u
#define POLL_US 2000
#define TEST_DEADLINE_S 200

/* ---- both ends ---- */

typedef struct {
    SessionPair pair;
    DiskSender *sender;
    DiskReceiver *receiver;
    uint8_t *content; /* that is sent */
    uint64_t bytes;
    int fd;  /* what is made of it */
    int old; /* the old file, or -1 */
    char *old_path;
    char *why; /* the sender's failure; its thread writes it once */
    gint failed;
} Resync;

static void on_tick(DiskSender *sender, gpointer user)
{
}

static void on_failed(const GError *why, gpointer user)
{
    Resync *resync = user;

    resync->why = g_strdup(why->message);
    g_atomic_int_set(&resync->failed, 1);
}

static DiskTarget *on_open(guint number, gpointer user, GError **error)
{
    Resync *resync = user;
    DiskTarget *target = disk_target_open_file(resync->fd, resync->bytes, error);

    disk_target_keep_holes(target);
    return target;
}

static OldFile *on_open_old(guint number, gpointer user, GError **error)
{
    const Resync *resync = user;

    if (number == 1) {
        error_set(error, VMFERRY_ERROR_REFUSED, "not this one");
        return NULL;
    }
    return old_file_open(resync->old >= 0 ? resync->old_path : NULL, resync->bytes, error);
}

static uint8_t *make_noise(uint64_t bytes)
{
    uint8_t *noise = g_malloc(bytes + sizeof(uint64_t));
    uint64_t word = 0x9e3779b97f4a7c15;

    for (uint64_t at = 0; at < bytes; at += sizeof word) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        memcpy(noise + at, &word, sizeof word);
    }
    return noise;
}

/* The old file has *old_bytes* of what is to be sent; 0: there is none. */
static void resync_open(Resync *resync, uint64_t bytes, uint64_t old_bytes)
{
    DiskReceiverOptions receiving = {2, on_open, on_open_old, resync};
    DiskSenderOptions sending = {.files = 2, .tick = on_tick, .failed = on_failed, .user = resync};

    *resync = (Resync){.content = make_noise(MAX(bytes, old_bytes)), .bytes = bytes, .old = -1};
    resync->fd = memfd_create("new", MFD_CLOEXEC);
    assert_true(resync->fd >= 0);
    if (old_bytes > 0) {
        resync->old = g_file_open_tmp("vmferry-old-XXXXXX", &resync->old_path, NULL);
        assert_int_equal(pwrite(resync->old, resync->content, old_bytes, 0), old_bytes);
    }
    session_pair_open(&resync->pair, TRAFFIC_DISK);
    resync->receiver = disk_receiver_start(resync->pair.server, &receiving, NULL);
    resync->sender = disk_sender_start(resync->pair.client, &sending, NULL);
    assert_true(resync->receiver && resync->sender);
    disk_sender_begin_file(resync->sender, 0, bytes, FALSE);
    assert_true(disk_sender_compare_file(resync->sender, 0, old_bytes, NULL));
}

static void resync_close(Resync *resync)
{
    disk_receiver_free(resync->receiver);
    disk_sender_free(resync->sender);
    session_pair_close(&resync->pair);
    fd_close(&resync->fd);
    fd_close(&resync->old);
    if (resync->old_path)
        unlink(resync->old_path);
    g_free(resync->old_path);
    g_free(resync->content);
    g_free(resync->why);
}

static gboolean await_digests(Resync *resync, uint64_t offset)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_MS * G_TIME_SPAN_MILLISECOND;
    gboolean known = FALSE;

    while (!known && g_get_monotonic_time() < end)
        if (!disk_sender_await_digests(resync->sender, 0, offset, 100, &known, NULL))
            return FALSE;
    assert_true(known);
    return TRUE;
}

static gboolean send_piece(Resync *resync, uint64_t offset)
{
    return await_digests(resync, offset) &&
           disk_sender_write_compared(resync->sender, 0, offset, resync->content + offset,
                                      MIN(PIECE_BYTES, resync->bytes - offset), NULL);
}

static void send_all(Resync *resync)
{
    for (uint64_t at = 0; at < resync->bytes; at += PIECE_BYTES)
        assert_true(send_piece(resync, at));
}

/* It arrived as it is. */
static void finish(Resync *resync)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_MS * G_TIME_SPAN_MILLISECOND;
    g_autofree uint8_t *there = g_malloc(resync->bytes);
    g_autoptr(GError) error = NULL;
    uint64_t number;

    assert_true(disk_sender_flush(resync->sender, TRUE, &number, NULL));
    while (!disk_sender_is_flushed(resync->sender, number)) {
        assert_true(g_get_monotonic_time() < end);
        g_usleep(POLL_US);
    }
    if (!disk_receiver_finish(resync->receiver, &error))
        fail_msg("%s", error->message);
    assert_int_equal(pread(resync->fd, there, resync->bytes, 0), resync->bytes);
    assert_memory_equal(there, resync->content, resync->bytes);
    assert_true(disk_sender_get_stall_ns(resync->sender) == 0);
}

static void check_counts(Resync *resync, uint64_t same, uint64_t data, uint64_t zeros)
{
    DiskCounts counts;

    disk_sender_get_counts(resync->sender, 0, &counts);
    assert_int_equal(counts.same_bytes, same);
    assert_int_equal(counts.data_bytes, data);
    assert_int_equal(counts.zero_bytes, zeros);
    assert_true(counts.wire_bytes < data + data / 100 + same / 1000 + 10000);
}

static void write_old(Resync *resync, uint64_t offset, const char *text)
{
    assert_int_equal(pwrite(resync->old, text, strlen(text), (off_t)offset), strlen(text));
}

/* ---- what differs ---- */

static void test_equal(void **state)
{
    Resync resync;

    resync_open(&resync, 40 * MIB + 777, 40 * MIB + 777);
    send_all(&resync);
    finish(&resync);
    check_counts(&resync, 40 * MIB + 777, 0, 0);
    resync_close(&resync);
}

static void test_parts_differ(void **state)
{
    static const uint64_t places[] = {0, 5 * GRANULE + 100, 6 * GRANULE, 16 * MIB - 5, 33 * MIB};
    Resync resync;

    resync_open(&resync, 40 * MIB, 40 * MIB);
    for (guint i = 0; i < G_N_ELEMENTS(places); i++)
        write_old(&resync, places[i], "xyz");
    send_all(&resync);
    finish(&resync);
    check_counts(&resync, 40 * MIB - 5 * GRANULE, 5 * GRANULE, 0);
    resync_close(&resync);
}

/* What is zero here is so there, whatever the old file had; and the other way round. */
static void test_zeros_and_holes(void **state)
{
    Resync resync;

    resync_open(&resync, 48 * MIB, 48 * MIB);
    memset(resync.content + 2 * MIB, 0, MIB);
    memset(resync.content + 20 * MIB, 0, MIB);
    assert_int_equal(fallocate(resync.old, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               (off_t)(20 * MIB), (off_t)(20 * MIB)),
                     0);
    send_all(&resync);
    finish(&resync);
    check_counts(&resync, 27 * MIB, 19 * MIB, 2 * MIB);
    resync_close(&resync);
}

/* The granule in which the old file ends has to be sent. */
static void test_shorter(void **state)
{
    Resync resync;

    resync_open(&resync, 20 * MIB + 4096, 17 * MIB + 5);
    send_all(&resync);
    finish(&resync);
    check_counts(&resync, 17 * MIB, 3 * MIB + 4096, 0);
    resync_close(&resync);
}

static void test_longer(void **state)
{
    Resync resync;

    resync_open(&resync, 3 * MIB + 1, 20 * MIB);
    send_all(&resync);
    finish(&resync);
    check_counts(&resync, 3 * MIB + 1, 0, 0);
    resync_close(&resync);
}

static void test_nothing_was_there(void **state)
{
    Resync resync;

    resync_open(&resync, 3 * MIB, 0);
    send_all(&resync);
    finish(&resync);
    check_counts(&resync, 0, 3 * MIB, 0);
    resync_close(&resync);
}

/* The source thinks that there is an old file. */
static void test_it_has_gone(void **state)
{
    Resync resync;

    resync_open(&resync, 3 * MIB, 3 * MIB);
    fd_close(&resync.old);
    send_all(&resync);
    finish(&resync);
    check_counts(&resync, 0, 3 * MIB, 0);
    resync_close(&resync);
}

/* Ranges that were asked for ahead are passed over. */
static void test_holes_are_jumped_over(void **state)
{
    Resync resync;

    resync_open(&resync, 200 * MIB, 200 * MIB);
    memset(resync.content + MIB, 0, 198 * MIB);
    assert_true(send_piece(&resync, 0));
    for (uint64_t at = 20; at < 199; at += 37) {
        memset(resync.content + at * MIB, 7, 1);
        assert_true(send_piece(&resync, at * MIB));
    }
    assert_true(send_piece(&resync, 199 * MIB));
    finish(&resync);
    check_counts(&resync, 2 * MIB, 5 * GRANULE, 5 * (MIB - GRANULE));
    resync_close(&resync);
}

/* Not by whole granules: sent. */
static void test_pieces(void **state)
{
    Resync resync;

    resync_open(&resync, MIB, MIB);
    assert_true(await_digests(&resync, 0));
    assert_true(disk_sender_write_compared(resync.sender, 0, 0, resync.content, 4096, NULL));
    assert_true(disk_sender_write_compared(resync.sender, 0, 4096, resync.content + 4096,
                                           MIB - 4096, NULL));
    finish(&resync);
    check_counts(&resync, 0, MIB, 0);
    resync_close(&resync);
}

/* ---- an old file that changes ---- */

static void expect_failure(Resync *resync, VmferryErrorCode code, const char *words)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_MS * G_TIME_SPAN_MILLISECOND;
    g_autoptr(GError) error = NULL;

    while (disk_receiver_check(resync->receiver, &error)) {
        assert_true(g_get_monotonic_time() < end);
        g_usleep(POLL_US);
    }
    if (!error_is(error, code) || !strstr(error->message, words))
        fail_msg("expected \"%s\", got \"%s\"", words, error->message);
}

static void test_it_changes_meanwhile(void **state)
{
    Resync resync;

    resync_open(&resync, 2 * MIB, 2 * MIB);
    assert_true(await_digests(&resync, 0));
    write_old(&resync, MIB + 3, "changed");
    send_piece(&resync, 0);
    send_piece(&resync, MIB);
    expect_failure(&resync, VMFERRY_ERROR_FAILED, "has changed at 1048576 since it was compared");
    resync_close(&resync);
}

static void test_it_is_cut_meanwhile(void **state)
{
    Resync resync;

    resync_open(&resync, MIB, MIB);
    assert_true(await_digests(&resync, 0));
    assert_int_equal(ftruncate(resync.old, GRANULE + 5), 0);
    send_piece(&resync, 0);
    expect_failure(&resync, VMFERRY_ERROR_FAILED, "has changed at 65536 since it was compared");
    resync_close(&resync);
}

/* ---- what a receiver refuses ---- */

static void send_compare(Resync *resync, const DiskCompare *compare)
{
    uint8_t payload[FRAME_DISK_COMPARE_BYTES];

    disk_compare_encode(compare, payload);
    session_send_bytes(resync->pair.client, FRAME_DISK_COMPARE, payload, sizeof payload, NULL);
}

static void send_same(Resync *resync, uint64_t offset, uint64_t length)
{
    uint8_t payload[FRAME_DISK_SAME_HEAD_BYTES + FRAME_DISK_DIGEST_BYTES] = {0};

    disk_same_encode_head(&(DiskSame){0, offset, length, NULL}, payload);
    session_send_bytes(resync->pair.client, FRAME_DISK_SAME, payload, sizeof payload, NULL);
}

static void compare_beyond(Resync *resync)
{
    send_compare(resync, &(DiskCompare){0, 0, MIB + 1, {0}});
}

static void compare_behind(Resync *resync)
{
    send_compare(resync, &(DiskCompare){0, 2 * MIB, 1, {0}});
}

static void compare_another(Resync *resync)
{
    send_compare(resync, &(DiskCompare){1, 0, 1, {0}});
}

static void compare_no_file(Resync *resync)
{
    send_compare(resync, &(DiskCompare){2, 0, 1, {0}});
}

static void same_unasked(Resync *resync)
{
    send_same(resync, 0, GRANULE);
}

static void same_beyond(Resync *resync)
{
    assert_true(await_digests(resync, 0));
    send_same(resync, MIB, GRANULE);
}

static void same_by_no_digest(Resync *resync)
{
    assert_true(await_digests(resync, 0));
    send_same(resync, 0, GRANULE);
}

static void expect_refused(void (*send)(Resync *resync), VmferryErrorCode code, const char *words)
{
    Resync resync;

    resync_open(&resync, MIB, MIB);
    send(&resync);
    expect_failure(&resync, code, words);
    resync_close(&resync);
}

static void test_refused(void **state)
{
    expect_refused(compare_beyond, VMFERRY_ERROR_INVALID, "1048577 bytes at 0 to be compared");
    expect_refused(compare_behind, VMFERRY_ERROR_INVALID, "1 bytes at 2097152 to be compared");
    expect_refused(compare_another, VMFERRY_ERROR_REFUSED, "not this one");
    expect_refused(compare_no_file, VMFERRY_ERROR_INVALID, "content of file 2 of 2");
    expect_refused(same_unasked, VMFERRY_ERROR_INVALID, "was not compared");
    expect_refused(same_beyond, VMFERRY_ERROR_FAILED, "has changed");
    expect_refused(same_by_no_digest, VMFERRY_ERROR_FAILED, "has changed");
}

/* ---- what a sender refuses ---- */

static void answer(Resync *resync, guint file, uint64_t offset, guint count)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    g_byte_array_set_size(payload, FRAME_DISK_DIGESTS_HEAD_BYTES + 16 * count);
    memset(payload->data, 1, payload->len);
    disk_digests_encode_head(&(DiskDigests){.file = file, .offset = offset}, payload->data);
    assert_true(session_send_bytes(resync->pair.server, FRAME_DISK_DIGESTS, payload->data,
                                   payload->len, NULL));
}

static void expect_sender_fails(guint file, uint64_t offset, guint count, const char *words)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_MS * G_TIME_SPAN_MILLISECOND;
    Resync resync;
    gboolean known;

    resync_open(&resync, MIB, MIB);
    answer(&resync, file, offset, count);
    while (!g_atomic_int_get(&resync.failed)) {
        assert_true(g_get_monotonic_time() < end);
        g_usleep(POLL_US);
    }
    if (!strstr(resync.why, words))
        fail_msg("expected \"%s\", got \"%s\"", words, resync.why);
    assert_false(disk_sender_await_digests(resync.sender, 0, 0, 100, &known, NULL) && known);
    assert_false(disk_sender_write_compared(resync.sender, 0, 0, resync.content, MIB, NULL));
    resync_close(&resync);
}

static void test_unasked_digests(void **state)
{
    expect_sender_fails(0, 0, 1, "1 digests at 0 of file 0 that were not asked for");
    expect_sender_fails(1, 0, 1, "digests of file 1, which is not compared");
    expect_sender_fails(77, 0, 1, "digests of file 77, which is not compared");
}

/* ---- which digests are known ---- */

static gboolean take(PeerDigests *digests, uint64_t offset, guint count, guint8 first)
{
    g_autofree uint8_t *bytes = g_malloc0(16 * (count + 1));

    bytes[0] = first;
    return peer_digests_take(digests, &(DiskDigests){3, offset, bytes, count}, NULL);
}

static void test_asking(void **state)
{
    uint64_t range = PEER_DIGESTS_RANGE_BYTES, bytes = 20 * range + 5 * GRANULE + 1;
    g_autoptr(PeerDigests) digests = peer_digests_new(3, bytes - 1, bytes);
    DiskCompare question;

    for (guint i = 0; i < PEER_DIGESTS_RANGES; i++) {
        assert_true(peer_digests_ask(digests, 17, &question));
        assert_true(question.file == 3 && question.offset == i * range && question.length == range);
    }
    assert_false(peer_digests_ask(digests, 0, &question));
    assert_false(peer_digests_knows(digests, 0));
    assert_null(peer_digests_find(digests, 0));
    /* Unasked, too many, twice. */
    assert_false(take(digests, PEER_DIGESTS_RANGES * range, 1, 1));
    assert_false(take(digests, GRANULE, 1, 1));
    assert_false(take(digests, 0, (guint)(range / GRANULE) + 1, 1));
    assert_true(take(digests, 0, 2, 1));
    assert_false(take(digests, 0, 2, 1));
    assert_true(peer_digests_knows(digests, range - 1) && !peer_digests_knows(digests, range));
    assert_non_null(peer_digests_find(digests, 0));
    assert_null(peer_digests_find(digests, GRANULE));     /* told to have none */
    assert_null(peer_digests_find(digests, 2 * GRANULE)); /* the same, by not being told */
    /* The last range, whose place waits for an answer that is not needed any more (20 = 4 · 5). */
    assert_true(peer_digests_ask(digests, 20 * range, &question));
    assert_true(question.offset == 20 * range && question.length == 5 * GRANULE + 1);
    assert_false(peer_digests_ask(digests, 20 * range, &question));
    assert_false(take(digests, 20 * range, 7, 1));
    assert_true(take(digests, 20 * range, 6, 0));
    assert_false(peer_digests_ask(digests, 18 * range, &question));
    assert_true(take(digests, 2 * range, 0, 0));
    assert_true(peer_digests_ask(digests, 18 * range, &question));
    assert_true(question.offset == 18 * range);
    assert_null(peer_digests_find(digests, 2 * range));
    assert_true(peer_digests_knows(digests, bytes - 1));
    assert_true(peer_digests_knows(digests, UINT64_MAX - 1));
    assert_null(peer_digests_find(digests, UINT64_MAX - 1));
}

/* ---- digests ---- */

/* RFC 8439, 2.5.2 */
static void test_digest(void **state)
{
    static const uint8_t key[DISK_KEY_BYTES] = {0x85, 0xd6, 0xbe, 0x78, 0x57, 0x55, 0x6d, 0x33,
                                                0x7f, 0x44, 0x52, 0xfe, 0x42, 0xd5, 0x06, 0xa8,
                                                0x01, 0x03, 0x80, 0x8a, 0xfb, 0x0d, 0xb2, 0xfd,
                                                0x4a, 0xbf, 0xf6, 0xaf, 0x41, 0x49, 0xf5, 0x1b};
    static const uint8_t golden[FRAME_DISK_DIGEST_BYTES] = {0xa8, 0x06, 0x1d, 0xc1, 0x30, 0x51,
                                                            0x36, 0xc6, 0xc2, 0x2b, 0x8b, 0xaf,
                                                            0x0c, 0x01, 0x27, 0xa9};
    static const char text[] = "Cryptographic Forum Research Group";
    g_autoptr(GranuleDigest) digest = granule_digest_new(key, NULL);
    uint8_t made[FRAME_DISK_DIGEST_BYTES];

    assert_non_null(digest);
    assert_memory_equal(granule_digest_get_key(digest), key, sizeof key);
    for (guint i = 0; i < 2; i++) {
        assert_true(
            granule_digest_compute(digest, (const uint8_t *)text, strlen(text), made, NULL));
        assert_memory_equal(made, golden, sizeof golden);
    }
    assert_false(granule_digest_is_none(made));
    memset(made, 0, sizeof made);
    assert_true(granule_digest_is_none(made));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_digest),
        cmocka_unit_test(test_asking),
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_parts_differ),
        cmocka_unit_test(test_zeros_and_holes),
        cmocka_unit_test(test_shorter),
        cmocka_unit_test(test_longer),
        cmocka_unit_test(test_nothing_was_there),
        cmocka_unit_test(test_it_has_gone),
        cmocka_unit_test(test_holes_are_jumped_over),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_it_changes_meanwhile),
        cmocka_unit_test(test_it_is_cut_meanwhile),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_unasked_digests),
    };

    alarm(TEST_DEADLINE_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Epochs of a block tap, with NBD clients in place of a VMM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glib.h>
#include <libnbd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "disk/epoch_tap.h"
#include "disk/tap_sink.h"

#define DISK_BYTES (1u << 20)
#define CUT_MS 10000
#define DISKS 2u

static const uint64_t sizes[DISKS] = {DISK_BYTES, DISK_BYTES};

typedef struct {
    EpochTap *tap;
    struct nbd_handle *nbd[DISKS];
    uint8_t image[DISKS][DISK_BYTES], replica[DISKS][DISK_BYTES];
} Guest;

static struct nbd_handle *connect_to(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct nbd_handle *nbd = nbd_create();
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));

    memcpy(address.sun_path + 1, name, strlen(name));
    assert_int_equal(connect(fd, (struct sockaddr *)&address, length), 0);
    assert_int_equal(nbd_set_export_name(nbd, TAP_EXPORT_NAME), 0);
    if (nbd_connect_socket(nbd, fd) < 0)
        fail_msg("%s", nbd_get_error());
    return nbd;
}

static Guest *begin_limited(uint64_t limit_bytes)
{
    Guest *guest = g_new0(Guest, 1);
    GError *error = NULL;

    guest->tap = epoch_tap_start(
        &(EpochTapOptions){
            .client = getpid(), .bytes = sizes, .count = DISKS, .limit_bytes = limit_bytes},
        &error);
    if (!guest->tap)
        fail_msg("%s", error->message);
    for (guint i = 0; i < DISKS; i++)
        guest->nbd[i] = connect_to(epoch_tap_get_address(guest->tap, i));
    return guest;
}

static Guest *begin(void)
{
    return begin_limited(EPOCH_TAP_LIMIT_BYTES);
}

static void end(Guest *guest)
{
    epoch_tap_free(guest->tap);
    for (guint i = 0; i < DISKS; i++)
        nbd_close(guest->nbd[i]);
    g_free(guest);
}

static void write_to(Guest *guest, guint disk, uint64_t offset, guint length, uint8_t value)
{
    g_autofree uint8_t *data = g_malloc(length);

    memset(data, value, length);
    memset(guest->image[disk] + offset, value, length);
    assert_int_equal(nbd_pwrite(guest->nbd[disk], data, length, offset, 0), 0);
}

static void pause_guest(Guest *guest)
{
    for (guint i = 0; i < DISKS; i++)
        assert_int_equal(nbd_flush(guest->nbd[i], 0), 0);
}

static void apply(Guest *guest, WriteBatch *batch)
{
    WriteBatchWalk walk = write_batch_walk(batch);
    g_autoptr(GByteArray) piece = g_byte_array_new();
    WriteRecord record;
    ByteReader reader;

    (void)write_batch_encode(&walk, 1u << 30, piece);
    reader = byte_reader_make(piece->data, piece->len);
    while (write_record_read(&reader, sizes, DISKS, &record, NULL) == 1) {
        if (record.data)
            memcpy(guest->replica[record.disk] + record.offset, record.data, record.length);
        else
            memset(guest->replica[record.disk] + record.offset, 0, record.length);
    }
}

static WriteBatch *cut(Guest *guest)
{
    GError *error = NULL;
    WriteBatch *batch = epoch_tap_cut(guest->tap, CUT_MS, &error);

    if (!batch)
        fail_msg("%s", error->message);
    return batch;
}

static void apply_cut(Guest *guest)
{
    g_autoptr(WriteBatch) batch = cut(guest);

    apply(guest, batch);
    assert_memory_equal(guest->image, guest->replica, sizeof guest->image);
}

static void test_epochs(void **unused)
{
    Guest *guest = begin();
    g_autoptr(GRand) random = g_rand_new_with_seed(1);

    for (guint epoch = 0; epoch < 100; epoch++) {
        guint writes = (guint)g_rand_int_range(random, 0, 20);

        for (guint i = 0; i < writes; i++)
            write_to(guest, (guint)g_rand_int_range(random, 0, DISKS),
                     (guint64)g_rand_int_range(random, 0, 2000) * 512,
                     (guint)g_rand_int_range(random, 1, 40) * 512,
                     (uint8_t)g_rand_int_range(random, 0, 256));
        for (gint i = g_rand_int_range(random, 1, 4); i > 0; i--)
            pause_guest(guest);
        apply_cut(guest);
    }
    end(guest);
}

/* A cut of a guest that runs says so, and loses nothing. */
static void test_not_paused(void **unused)
{
    Guest *guest = begin();
    g_autoptr(GError) error = NULL;

    write_to(guest, 0, 0, 512, 1);
    write_to(guest, 1, 512, 512, 2);
    assert_int_equal(nbd_flush(guest->nbd[0], 0), 0);
    assert_null(epoch_tap_cut(guest->tap, CUT_MS, &error));
    assert_true(error_is(error, VMFERRY_ERROR_FAILED));
    assert_non_null(strstr(error->message, "disk 1 was written after the end of the epoch"));
    pause_guest(guest);
    apply_cut(guest);
    end(guest);
}

/* What did not get to its place comes again, under what was written since. */
static void test_given_back(void **unused)
{
    Guest *guest = begin();
    WriteBatch *first, *second;

    write_to(guest, 0, 0, 4096, 1);
    pause_guest(guest);
    first = cut(guest);
    write_to(guest, 0, 1024, 1024, 2);
    pause_guest(guest);
    second = cut(guest);
    write_to(guest, 0, 1536, 512, 3);
    epoch_tap_give_back(guest->tap, second);
    epoch_tap_give_back(guest->tap, first);
    pause_guest(guest);
    apply_cut(guest);
    end(guest);
}

static void test_taken_ahead(void **unused)
{
    Guest *guest = begin();
    g_autoptr(WriteBatch) ahead = NULL;
    gint64 deadline = g_get_monotonic_time() + CUT_MS * 1000;

    write_to(guest, 0, 0, 65536, 1);
    while (epoch_tap_get_cost(guest->tap) < 65536 && g_get_monotonic_time() < deadline)
        g_usleep(1000);
    ahead = epoch_tap_take(guest->tap);
    assert_false(write_batch_is_empty(ahead));
    assert_int_equal(epoch_tap_get_cost(guest->tap), 0);
    write_to(guest, 0, 512, 512, 2);
    pause_guest(guest);
    apply(guest, ahead);
    apply_cut(guest);
    end(guest);
}

/* What is in the sink's buffer is read by a cut, also above the limit. */
static void test_limit(void **unused)
{
    Guest *guest = begin_limited(100000);

    for (guint i = 0; i < 15; i++)
        write_to(guest, 0, i * 65536, 65536, (uint8_t)(i + 1));
    pause_guest(guest);
    apply_cut(guest);
    end(guest);
}

/* Its client hears of a tap's end before its owner does: a cut between them finds a write without
 * the mark of a pause.  None gives anything. */
static void assert_ends(EpochTap *tap)
{
    gint64 deadline = g_get_monotonic_time() + CUT_MS * 1000;
    GError *error = NULL;

    for (;;) {
        g_clear_error(&error);
        assert_null(epoch_tap_cut(tap, CUT_MS, &error));
        if (error_is(error, VMFERRY_ERROR_DISCONNECTED) || g_get_monotonic_time() > deadline)
            break;
    }
    if (!error_is(error, VMFERRY_ERROR_DISCONNECTED))
        fail_msg("%s", error->message);
    g_clear_error(&error);
    assert_false(epoch_tap_check(tap, NULL));
}

/* Nobody cuts: the sink gives up, and that is said. */
static void test_limit_breaks_the_tap(void **unused)
{
    Guest *guest = begin_limited(100000);
    g_autofree uint8_t *data = g_malloc0(DISK_BYTES);
    guint written = 0;

    while (written < 200 && nbd_pwrite(guest->nbd[0], data, DISK_BYTES, 0, 0) == 0) {
        data[written % 100]++;
        written++;
    }
    if (written < 50 || written > 190)
        fail_msg("%u MiB were written", written);
    g_clear_pointer(&data, g_free);
    assert_ends(guest->tap);
    end(guest);
}

static void test_broken(void **unused)
{
    Guest *guest = begin();
    gint64 deadline = g_get_monotonic_time() + CUT_MS * 1000;
    g_autoptr(GError) error = NULL;

    assert_true(epoch_tap_check(guest->tap, NULL));
    nbd_close(guest->nbd[1]);
    guest->nbd[1] = NULL;
    while (epoch_tap_check(guest->tap, NULL) && g_get_monotonic_time() < deadline)
        g_usleep(1000);
    assert_null(epoch_tap_cut(guest->tap, CUT_MS, &error));
    assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
    assert_non_null(strstr(error->message, "the tap of disk 1 has ended"));
    assert_false(epoch_tap_check(guest->tap, NULL));
    end(guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epochs),     cmocka_unit_test(test_not_paused),
        cmocka_unit_test(test_given_back), cmocka_unit_test(test_taken_ahead),
        cmocka_unit_test(test_limit),      cmocka_unit_test(test_limit_breaks_the_tap),
        cmocka_unit_test(test_broken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

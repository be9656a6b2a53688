/*
 * Taps of disks and overlays, against a real QEMU
 *
 * Without QEMU (disk_guest.h) or qemu-nbd the tests are skipped.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk/tap_sink.h"
#include "disk_guest.h"

#define TAP "vmferry-tap-1-test"
#define OVERLAY "vmferry-over-1-test"
#define PLAIN " -drive file=@disk,format=raw,if=virtio"
#define EPOCHS 50
#define GRANULE 65536u

/* ---- a tapped guest ---- */

typedef struct {
    Guest guest;
    TapSink *sink;
    const char *id, *format;
    uint8_t *replica; /* of the disk, by the events */
} Tapped;

static TapSink *start_sink(Guest *guest, uint64_t buffer_bytes, const char *address)
{
    TapDisk disk = {.bytes = DISK_BYTES, .address = address};
    GError *error = NULL;
    TapSink *sink = tap_sink_start(&(TapSinkOptions){.client = vmm_get_pid(guest->vmm),
                                                     .buffer_bytes = buffer_bytes,
                                                     .stall_ms = 500,
                                                     .wait_ms = TAP_WAIT_MS,
                                                     .disks = &disk,
                                                     .count = 1},
                                   &error);

    must(sink != NULL, &error);
    return sink;
}

static gboolean try_tap(Guest *guest, const char *id, const char *name, const char *address,
                        GError **error)
{
    g_autoptr(GPtrArray) disks = vmm_list_disks(guest->vmm, NULL);

    return vmm_start_tap(guest->vmm,
                         &(VmmTap){.name = name,
                                   .node = find_disk(disks, id)->node,
                                   .bytes = DISK_BYTES,
                                   .address = address,
                                   .export_name = TAP_EXPORT_NAME},
                         error);
}

/* What the guest sees of its disk now; free with g_free(). */
static uint8_t *read_image(const char *format)
{
    g_autofree char *line = g_strdup_printf("qemu-img convert -U -f %s -O raw @disk @now", format);
    g_autofree char *path = path_of("now");
    char *content;
    gsize length;

    assert_int_equal(run(line), 0);
    assert_true(g_file_get_contents(path, &content, &length, NULL));
    assert_int_equal(length, DISK_BYTES);
    return (uint8_t *)content;
}

static void pause_guest(Guest *guest)
{
    GError *error = NULL;

    must(vmm_pause(guest->vmm, NULL, &error), &error);
}

static void resume_guest(Guest *guest)
{
    GError *error = NULL;

    must(vmm_resume(guest->vmm, &error), &error);
}

static void start_tap(Tapped *tapped, uint64_t buffer_bytes)
{
    GError *error = NULL;

    tapped->sink = start_sink(&tapped->guest, buffer_bytes, NULL);
    pause_guest(&tapped->guest);
    must(try_tap(&tapped->guest, tapped->id, TAP, tap_sink_get_address(tapped->sink, 0), &error),
         &error);
    g_free(tapped->replica);
    tapped->replica = read_image(tapped->format);
    resume_guest(&tapped->guest);
}

static void stop_tap(Tapped *tapped)
{
    GError *error = NULL;

    must(vmm_stop_tap(tapped->guest.vmm, TAP, &error), &error);
    g_clear_pointer(&tapped->sink, tap_sink_free);
}

static void apply(Tapped *tapped, const TapEvent *event)
{
    if (event->kind == TAP_EVENT_WRITE)
        memcpy(tapped->replica + event->offset, event->data, event->length);
    else if (event->kind == TAP_EVENT_ZERO)
        memset(tapped->replica + event->offset, 0, event->length);
    else
        assert_int_equal(event->kind, TAP_EVENT_FLUSH);
}

static void next_event(Tapped *tapped, TapEvent *ret)
{
    GError *error = NULL;

    if (tap_sink_read(tapped->sink, WAIT_MS, ret, &error) != 1)
        fail_msg("no event: %s", error ? error->message : "time-out");
}

static void expect_no_event(Tapped *tapped)
{
    TapEvent event;

    if (tap_sink_read(tapped->sink, 5, &event, NULL) != 0)
        fail_msg("event %" G_GUINT64_FORMAT " of kind %d came, of %u bytes", event.sequence,
                 event.kind, event.length);
}

/* Up to the mark; returns how many bytes were written. */
static uint64_t apply_epoch(Tapped *tapped)
{
    uint64_t bytes = 0;
    TapEvent event;

    do {
        next_event(tapped, &event);
        apply(tapped, &event);
        bytes += event.length;
    } while (event.kind != TAP_EVENT_FLUSH);
    return bytes;
}

static void expect_replica(Tapped *tapped)
{
    g_autofree uint8_t *image = read_image(tapped->format);

    for (size_t i = 0; i < DISK_BYTES; i++)
        if (image[i] != tapped->replica[i])
            fail_msg("differs from byte %zu on", i);
}

static VmmTapState get_state(Tapped *tapped, GError **failure)
{
    VmmTapState state = VMM_TAP_ACTIVE;
    GError *error = NULL;

    must(vmm_get_tap(tapped->guest.vmm, TAP, &state, &error), &error);
    if ((state == VMM_TAP_ACTIVE) != (error == NULL))
        fail_msg("state %d with error %s", state, error ? error->message : "none");
    if (failure)
        *failure = error;
    else
        g_clear_error(&error);
    return state;
}

static void await_state(Tapped *tapped, VmmTapState wanted)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_MS * 1000;

    while (get_state(tapped, NULL) != wanted && g_get_monotonic_time() < deadline)
        g_usleep(2000);
    assert_int_equal(get_state(tapped, NULL), wanted);
}

/* ---- epochs of random writes ---- */

typedef struct {
    const char *options; /* of QEMU */
    const char *id;      /* of the disk */
    const char *drive;   /* what qemu-io writes to */
    const char *format;
} Shape;

static const Shape shapes[] = {
    {PLAIN, "virtio0", "virtio0", "raw"},
    {" -drive file=@disk,format=qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0", "d0", "d0",
     "qcow2"},
    {" -blockdev driver=file,node-name=f,filename=@disk,discard=unmap -blockdev "
     "driver=qcow2,node-name=q,file=f,discard=unmap,detect-zeroes=unmap -device "
     "virtio-blk-pci,drive=q,id=card",
     "card", "-d /machine/peripheral/card/virtio-backend", "qcow2"},
    {" -object iothread,id=io -drive file=@disk,format=raw,if=none,id=d0 -device "
     "virtio-blk-pci,drive=d0,iothread=io",
     "d0", "d0", "raw"},
};

static void guest_does(Guest *guest, const char *drive, GRand *random)
{
    guint length = (guint)g_rand_int_range(random, 1, 1 << g_rand_int_range(random, 1, 9)) * 512;
    guint offset = (guint)g_rand_int_range(random, 0, (gint32)(DISK_BYTES - length) / 512) * 512;
    guint kind = (guint)g_rand_int_range(random, 0, 8);
    g_autofree char *what = NULL, *line = NULL, *answer = NULL;
    GError *error = NULL;

    if (kind == 7)
        what = g_strdup("flush");
    else if (kind == 6)
        what = g_strdup_printf("discard %u %u", offset, length);
    else if (kind == 5)
        what = g_strdup_printf("write -z %u %u", offset, length);
    else
        what = g_strdup_printf("%s -P %d %u %u", kind > 2 ? "aio_write" : "write",
                               g_rand_int_range(random, 0, 256), offset, length);
    line = g_strdup_printf("qemu-io %s \"%s\"", drive, what);
    answer = qmp_execute_human(guest->qmp, line, WAIT_MS, &error);
    must(answer != NULL, &error);
    if (strstr(answer, "failed") || strstr(answer, "rror"))
        fail_msg("%s: %s", line, answer);
}

/* Each pause sends one mark, whether something was written before it or not. */
static void run_epoch(Tapped *tapped, const Shape *shape, GRand *random)
{
    guint requests = (guint)g_rand_int_range(random, 0, 9);

    for (guint i = 0; i < requests; i++)
        guest_does(&tapped->guest, shape->drive, random);
    pause_guest(&tapped->guest);
    apply_epoch(tapped);
    expect_no_event(tapped);
    expect_replica(tapped);
    resume_guest(&tapped->guest);
}

static void run_epochs(const Shape *shape, guint seed)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autoptr(json_t) before = NULL, machine = NULL;
    Tapped tapped = {.id = shape->id, .format = shape->format};
    g_auto(GStrv) line = NULL;
    TapEvent event;

    make_image("disk", shape->format, "");
    fill_image("disk", shape->format);
    tapped.guest = start(shape->options);
    before = query_graph(&tapped.guest);
    machine = read_machine(&tapped.guest, &line);
    start_tap(&tapped, TAP_BUFFER_BYTES);
    expect_unchanged(&tapped.guest, machine, line);
    next_event(&tapped, &event);
    assert_int_equal(event.kind, TAP_EVENT_FLUSH);
    for (guint epoch = 0; epoch < EPOCHS; epoch++)
        run_epoch(&tapped, shape, random);
    assert_int_equal(get_state(&tapped, NULL), VMM_TAP_ACTIVE);
    if (seed % 2)
        pause_guest(&tapped.guest);
    stop_tap(&tapped);
    expect_graph(&tapped.guest, before);
    expect_unchanged(&tapped.guest, machine, line);
    end(&tapped.guest);
    g_free(tapped.replica);
}

static void test_epochs(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++)
        run_epochs(&shapes[i], i + 1);
}

/* What was written before the end is in the stream, then that the disk was left in order. */
static void test_end_in_order(void **unused)
{
    Tapped tapped = {.id = "virtio0", .format = "raw"};
    GError *error = NULL;
    TapEvent event;

    make_image("disk", "raw", "");
    tapped.guest = start(PLAIN);
    start_tap(&tapped, TAP_BUFFER_BYTES);
    guest_writes(&tapped.guest, "virtio0", 0x31, "1M 4k");
    must(vmm_stop_tap(tapped.guest.vmm, TAP, &error), &error);
    guest_writes(&tapped.guest, "virtio0", 0x32, "1M 4k");
    next_event(&tapped, &event);
    next_event(&tapped, &event);
    assert_int_equal(event.kind, TAP_EVENT_WRITE);
    assert_int_equal(event.data[4095], 0x31);
    do
        next_event(&tapped, &event);
    while (event.kind == TAP_EVENT_FLUSH);
    assert_int_equal(event.kind, TAP_EVENT_END);
    assert_null(event.reason);
    expect_no_event(&tapped);
    must(vmm_stop_tap(tapped.guest.vmm, TAP, &error), &error);
    tap_sink_free(tapped.sink);
    g_free(tapped.replica);
    end(&tapped.guest);
}

/* ---- what goes wrong ---- */

static Tapped start_plain(json_t **ret_before, uint64_t buffer_bytes)
{
    Tapped tapped = {.id = "virtio0", .format = "raw"};

    make_image("disk", "raw", "");
    fill_image("disk", "raw");
    tapped.guest = start(PLAIN);
    *ret_before = query_graph(&tapped.guest);
    start_tap(&tapped, buffer_bytes);
    return tapped;
}

/* Nothing is left, and another tap works. */
static void expect_usable(Tapped *tapped, json_t *before)
{
    expect_graph(&tapped->guest, before);
    g_clear_pointer(&tapped->sink, tap_sink_free);
    start_tap(tapped, TAP_BUFFER_BYTES);
    guest_writes(&tapped->guest, "virtio0", 0x7f, "5M 64k");
    pause_guest(&tapped->guest);
    apply_epoch(tapped);
    apply_epoch(tapped);
    expect_replica(tapped);
    stop_tap(tapped);
    expect_graph(&tapped->guest, before);
    end(&tapped->guest);
    g_free(tapped->replica);
}

/* In microseconds. */
static gint64 time_write(Tapped *tapped, guint pattern)
{
    gint64 began = g_get_monotonic_time();

    guest_writes(&tapped->guest, "virtio0", pattern, "2M 64k");
    return g_get_monotonic_time() - began;
}

static void expect_broken(Tapped *tapped)
{
    GError *failure = NULL, *error = NULL;

    await_state(tapped, VMM_TAP_BROKEN);
    get_state(tapped, &failure);
    expect_text(failure, VMFERRY_ERROR_DISCONNECTED,
                "NBD server of the tap \"" TAP "\" has failed");
    assert_true(time_write(tapped, 3) < 500000);
    must(vmm_stop_tap(tapped->guest.vmm, TAP, &error), &error);
}

static void test_sink_is_killed(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);

    kill(tap_sink_get_pid(tapped.sink), SIGKILL);
    assert_true(time_write(&tapped, 1) < 1000000);
    expect_broken(&tapped);
    expect_usable(&tapped, before);
}

static void test_sink_is_freed(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);

    g_clear_pointer(&tapped.sink, tap_sink_free);
    assert_true(time_write(&tapped, 1) < 1000000);
    expect_broken(&tapped);
    expect_usable(&tapped, before);
}

/* Also a pause comes through: nothing of QEMU hangs for longer than the sink allows. */
static void test_reader_stalls(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, 1u << 20);
    gint64 slowest_us = 0;

    for (guint i = 0; i < 500 && slowest_us < 300000; i++) {
        gint64 took_us = time_write(&tapped, i % 250);

        slowest_us = MAX(slowest_us, took_us);
    }
    if (slowest_us < 400000 || slowest_us > 1500000)
        fail_msg("the slowest write took %" G_GINT64_FORMAT " us", slowest_us);
    pause_guest(&tapped.guest);
    resume_guest(&tapped.guest);
    expect_broken(&tapped);
    expect_usable(&tapped, before);
}

/* ---- a sink that comes back ---- */

static void restart_sink(Tapped *tapped)
{
    g_autofree char *address = g_strdup(tap_sink_get_address(tapped->sink, 0));

    tap_sink_free(tapped->sink);
    tapped->sink = start_sink(&tapped->guest, TAP_BUFFER_BYTES, address);
}

static void resync(Tapped *tapped)
{
    gint64 deadline = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;
    gboolean done = FALSE;
    GError *error = NULL;

    while (!done && g_get_monotonic_time() < deadline) {
        must(vmm_resync_tap(tapped->guest.vmm, TAP, &done, &error), &error);
        if (!done)
            g_usleep(10000);
    }
    assert_true(done);
}

/* Three pieces of the disk are changed while nobody takes them. */
static void write_unseen(Tapped *tapped)
{
    apply_epoch(tapped);
    guest_writes(&tapped->guest, "virtio0", 0x41, "1M 4k");
    pause_guest(&tapped->guest);
    apply_epoch(tapped);
    resume_guest(&tapped->guest);
    kill(tap_sink_get_pid(tapped->sink), SIGKILL);
    guest_writes(&tapped->guest, "virtio0", 0x42, "3M 64k");
    guest_writes(&tapped->guest, "virtio0", 0x43, "7M 512");
    guest_writes(&tapped->guest, "virtio0", 0x44, "9M 1k");
}

static void test_resync(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);
    GError *failure = NULL;
    uint64_t bytes;

    write_unseen(&tapped);
    await_state(&tapped, VMM_TAP_BROKEN);
    get_state(&tapped, &failure);
    expect_text(failure, VMFERRY_ERROR_DISCONNECTED,
                "NBD server of the tap \"" TAP "\" has failed");
    restart_sink(&tapped);
    resync(&tapped);
    assert_int_equal(get_state(&tapped, NULL), VMM_TAP_ACTIVE);
    guest_writes(&tapped.guest, "virtio0", 0x45, "11M 4k");
    pause_guest(&tapped.guest);
    bytes = apply_epoch(&tapped);
    assert_true(bytes <= 3 * GRANULE + 4096);
    expect_no_event(&tapped);
    expect_replica(&tapped);
    stop_tap(&tapped);
    expect_usable(&tapped, before);
}

static void test_resync_without_a_sink(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);
    GError *error = NULL;
    gboolean done;

    write_unseen(&tapped);
    await_state(&tapped, VMM_TAP_BROKEN);
    for (guint i = 0; i < 20; i++) {
        must(vmm_resync_tap(tapped.guest.vmm, TAP, &done, &error), &error);
        assert_false(done);
    }
    assert_true(time_write(&tapped, 4) < 500000);
    assert_int_equal(get_state(&tapped, NULL), VMM_TAP_BROKEN);
    pause_guest(&tapped.guest);
    resume_guest(&tapped.guest);
    restart_sink(&tapped);
    resync(&tapped);
    pause_guest(&tapped.guest);
    apply_epoch(&tapped);
    expect_replica(&tapped);
    resume_guest(&tapped.guest);
    kill(tap_sink_get_pid(tapped.sink), SIGKILL);
    assert_true(time_write(&tapped, 4) < 500000);
    await_state(&tapped, VMM_TAP_BROKEN);
    stop_tap(&tapped);
    expect_usable(&tapped, before);
}

/* ---- what is refused ---- */

static void expect_no_tap(Guest *guest, const char *name, const char *address,
                          VmferryErrorCode code, const char *text)
{
    GError *error = NULL;

    assert_false(try_tap(guest, "virtio0", name, address, &error));
    expect_text(error, code, text);
}

static void test_one_at_a_time(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);
    g_autoptr(GPtrArray) disks = vmm_list_disks(tapped.guest.vmm, NULL);
    VmmCopy copy = {.name = "vmferry-copy-1",
                    .node = find_disk(disks, "virtio0")->node,
                    .bytes = DISK_BYTES,
                    .address = "vmferry-test-nobody",
                    .export_name = "x"};
    VmmTapState state;
    GError *error = NULL;

    assert_false(vmm_start_copy(tapped.guest.vmm, &copy, &error));
    expect_text(error, VMFERRY_ERROR_EXISTS, "is being tapped already (\"" TAP "\")");
    error = NULL;
    pause_guest(&tapped.guest);
    expect_no_tap(&tapped.guest, TAP "2", "x", VMFERRY_ERROR_EXISTS, "is being tapped already");
    assert_null(vmm_save_device_state(tapped.guest.vmm, VMM_SAVE_SWITCHOVER, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "copied or tapped");
    error = NULL;
    stop_tap(&tapped);
    assert_false(vmm_get_tap(tapped.guest.vmm, TAP, &state, &error));
    expect_text(error, VMFERRY_ERROR_NOT_FOUND, "no disk is tapped as \"" TAP "\"");
    resume_guest(&tapped.guest);
    expect_usable(&tapped, before);
}

static void test_taps_that_cannot_begin(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);

    stop_tap(&tapped);
    expect_no_tap(&tapped.guest, TAP, "x", VMFERRY_ERROR_FAILED,
                  "can only be tapped while the guest is paused");
    pause_guest(&tapped.guest);
    expect_no_tap(&tapped.guest, "mine", "x", VMFERRY_ERROR_INVALID,
                  "must begin with \"vmferry-tap-\"");
    expect_no_tap(&tapped.guest, TAP, "vmferry-test-nobody", VMFERRY_ERROR_FAILED,
                  "tap a disk: blockdev-add: QEMU says: ");
    expect_graph(&tapped.guest, before);
    resume_guest(&tapped.guest);
    expect_usable(&tapped, before);
}

static void test_foreign_job(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);
    GError *error = NULL;

    stop_tap(&tapped);
    must(qmp_run(tapped.guest.qmp, "blockdev-add",
                 json_pack("{s:s, s:s, s:i}", "driver", "null-co", "node-name", "hole", "size",
                           (int)DISK_BYTES),
                 WAIT_MS, &error),
         &error);
    must(qmp_run(tapped.guest.qmp, "blockdev-mirror",
                 json_pack("{s:s, s:s, s:s, s:s}", "job-id", "theirs", "device", "virtio0",
                           "target", "hole", "sync", "full"),
                 WAIT_MS, &error),
         &error);
    pause_guest(&tapped.guest);
    expect_no_tap(&tapped.guest, TAP, "x", VMFERRY_ERROR_BUSY,
                  "block job \"theirs\" works on disk");
    end(&tapped.guest);
    g_free(tapped.replica);
}

static void test_taps_of_a_killed_agent(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);
    GError *error = NULL;

    for (guint i = 0; i < 2; i++) {
        vmm_free(tapped.guest.vmm);
        if (i == 1)
            g_clear_pointer(&tapped.sink, tap_sink_free);
        guest_writes(&tapped.guest, "virtio0", 0x34, "3M 64k");
        tapped.guest.vmm = qemu_reattach(tapped.guest.identity, &error);
        must(tapped.guest.vmm != NULL, &error);
        expect_graph(&tapped.guest, before);
        g_clear_pointer(&tapped.sink, tap_sink_free);
        if (i == 0)
            start_tap(&tapped, TAP_BUFFER_BYTES);
    }
    expect_usable(&tapped, before);
}

/* ---- overlays ---- */

static void begin_overlay(Guest *guest, const char *id)
{
    g_autoptr(GPtrArray) disks = vmm_list_disks(guest->vmm, NULL);
    g_autofree char *path = path_of("overlay");
    GError *error = NULL;

    make_image("overlay", "qcow2", "");
    must(vmm_begin_overlay(guest->vmm,
                           &(VmmOverlay){.name = OVERLAY,
                                         .node = find_disk(disks, id)->node,
                                         .bytes = DISK_BYTES,
                                         .path = path},
                           &error),
         &error);
}

static gboolean try_commit(Guest *guest, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_MS * 1000;
    gboolean done = FALSE;

    while (!done && g_get_monotonic_time() < deadline) {
        if (!vmm_commit_overlay(guest->vmm, OVERLAY, &done, error))
            return FALSE;
        if (!done)
            g_usleep(2000);
    }
    assert_true(done);
    return TRUE;
}

static void commit(Guest *guest)
{
    GError *error = NULL;

    must(try_commit(guest, &error), &error);
}

static void expect_byte(const Shape *shape, size_t at, guint wanted)
{
    g_autofree uint8_t *image = read_image(shape->format);

    assert_int_equal(image[at], wanted);
}

static void run_overlay(const Shape *shape)
{
    g_autoptr(json_t) before = NULL, machine = NULL;
    g_auto(GStrv) line = NULL;
    Guest guest;

    make_image("disk", shape->format, "");
    fill_image("disk", shape->format);
    guest = start(shape->options);
    before = query_graph(&guest);
    machine = read_machine(&guest, &line);
    for (guint i = 1; i < 4; i++) {
        begin_overlay(&guest, shape->id);
        guest_writes(&guest, shape->drive, i, "3M 1M");
        commit(&guest);
        expect_graph(&guest, before);
        expect_unchanged(&guest, machine, line);
        expect_byte(shape, 3u << 20, i);
        commit(&guest); /* again: nothing is there */
        guest_writes(&guest, shape->drive, 9, "3M 4k");
        commit(&guest);
        expect_byte(shape, 3u << 20, 9);
    }
    end(&guest);
}

static void test_overlays_are_committed(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++)
        run_overlay(&shapes[i]);
}

static void test_overlay_is_dropped(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++) {
        Guest guest;

        make_image("disk", shapes[i].format, "");
        fill_image("disk", shapes[i].format);
        assert_int_equal(run("cp @disk @before"), 0);
        guest = start(shapes[i].options);
        begin_overlay(&guest, shapes[i].id);
        guest_writes(&guest, shapes[i].drive, 5, "3M 1M");
        end(&guest);
        assert_int_equal(run("rm @overlay && cmp @disk @before"), 0);
    }
}

/* The guest was tapped before, and is tapped with the overlay. */
static void test_tapped_overlay(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);
    GError *error = NULL;

    stop_tap(&tapped);
    begin_overlay(&tapped.guest, "virtio0");
    start_tap(&tapped, TAP_BUFFER_BYTES);
    guest_writes(&tapped.guest, "virtio0", 0x51, "1M 4k");
    pause_guest(&tapped.guest);
    apply_epoch(&tapped);
    assert_int_equal(apply_epoch(&tapped), 4096);
    resume_guest(&tapped.guest);
    assert_false(try_commit(&tapped.guest, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "QEMU says: ");
    stop_tap(&tapped);
    commit(&tapped.guest);
    expect_usable(&tapped, before);
}

/* Somebody cancels the commit; a restarted agent goes on with it. */
static void test_commit_goes_on(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);
    GError *error = NULL;
    gboolean done;

    stop_tap(&tapped);
    begin_overlay(&tapped.guest, "virtio0");
    guest_writes(&tapped.guest, "virtio0", 0x52, "1M 4k");
    must(vmm_commit_overlay(tapped.guest.vmm, OVERLAY, &done, &error), &error);
    assert_false(done);
    g_usleep(200000);
    must(qmp_run(tapped.guest.qmp, "block-job-cancel", json_pack("{s:s}", "device", OVERLAY),
                 WAIT_MS, &error),
         &error);
    g_usleep(200000);
    assert_false(vmm_commit_overlay(tapped.guest.vmm, OVERLAY, &done, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "another program has ended the job \"" OVERLAY "\"");
    error = NULL;
    guest_writes(&tapped.guest, "virtio0", 0x53, "1M 4k");
    must(vmm_commit_overlay(tapped.guest.vmm, OVERLAY, &done, &error), &error);
    assert_false(done);
    vmm_free(tapped.guest.vmm);
    tapped.guest.vmm = qemu_reattach(tapped.guest.identity, &error);
    must(tapped.guest.vmm != NULL, &error);
    commit(&tapped.guest);
    expect_byte(&shapes[0], 1u << 20, 0x53);
    expect_usable(&tapped, before);
}

static void test_overlays_that_cannot_begin(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Tapped tapped = start_plain(&before, TAP_BUFFER_BYTES);
    g_autoptr(GPtrArray) disks = vmm_list_disks(tapped.guest.vmm, NULL);
    g_autofree char *path = path_of("overlay");
    VmmOverlay overlay = {.name = OVERLAY,
                          .node = find_disk(disks, "virtio0")->node,
                          .bytes = DISK_BYTES,
                          .path = path};
    GError *error = NULL;

    make_image("overlay", "qcow2", "");
    assert_false(vmm_begin_overlay(tapped.guest.vmm, &overlay, &error));
    expect_text(error, VMFERRY_ERROR_EXISTS, "is being tapped already");
    error = NULL;
    stop_tap(&tapped);
    overlay.bytes--;
    assert_false(vmm_begin_overlay(tapped.guest.vmm, &overlay, &error));
    expect_text(error, VMFERRY_ERROR_REFUSED, "the overlay offers 16777216 bytes for a disk of");
    error = NULL;
    overlay.name = "mine";
    assert_false(vmm_begin_overlay(tapped.guest.vmm, &overlay, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "must begin with \"vmferry-over-\"");
    expect_usable(&tapped, before);
}

/* ---- the frame ---- */

static int begin(void **unused)
{
    qemu_guest_begin();
    return 0;
}

static int clean_up(void **unused)
{
    return qemu_guest_clean_up();
}

#define QEMU_TEST(name) cmocka_unit_test_setup_teardown(name, begin, clean_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        QEMU_TEST(test_epochs),
        QEMU_TEST(test_end_in_order),
        QEMU_TEST(test_sink_is_killed),
        QEMU_TEST(test_sink_is_freed),
        QEMU_TEST(test_reader_stalls),
        QEMU_TEST(test_resync),
        QEMU_TEST(test_resync_without_a_sink),
        QEMU_TEST(test_one_at_a_time),
        QEMU_TEST(test_taps_that_cannot_begin),
        QEMU_TEST(test_foreign_job),
        QEMU_TEST(test_taps_of_a_killed_agent),
        QEMU_TEST(test_overlays_are_committed),
        QEMU_TEST(test_overlay_is_dropped),
        QEMU_TEST(test_tapped_overlay),
        QEMU_TEST(test_commit_goes_on),
        QEMU_TEST(test_overlays_that_cannot_begin),
    };

    if (!qemu_guest_is_there())
        return 77;
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

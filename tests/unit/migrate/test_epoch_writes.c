/*
 * Revocable disk writes, epoch by epoch, against a real QEMU
 *
 * One process is both sides: the guest that runs, its journal, and the takeover of its image.
 * Without QEMU (disk_guest.h) or qemu-nbd the tests are skipped.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/process.h"
#include "disk/write_journal.h"
#include "disk_guest.h"
#include "migrate/epoch_writes.h"
#include "migrate/takeover_disks.h"
#include "vmm/vmm_driver.h"

#define TRANSACTION "guest-1:7"
#define EPOCHS 25u
#define CUT_MS 10000
#define PIECE_BYTES 100000u
#define LIMIT (1ull << 30)
#define PLAIN " -drive file=@disk,format=raw,if=virtio"

typedef struct {
    const char *options; /* of QEMU */
    const char *drive;   /* what qemu-io writes to */
    const char *format;
} Shape;

static const Shape shapes[] = {
    {PLAIN, "virtio0", "raw"},
    {" -drive file=@disk,format=qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0", "d0",
     "qcow2"},
    {" -blockdev driver=file,node-name=f,filename=@disk,discard=unmap -blockdev "
     "driver=qcow2,node-name=q,file=f,discard=unmap,detect-zeroes=unmap -device "
     "virtio-blk-pci,drive=q,id=card",
     "-d /machine/peripheral/card/virtio-backend", "qcow2"},
    {" -object iothread,id=io -drive file=@disk,format=raw,if=none,id=d0,cache=none -device "
     "virtio-blk-pci,drive=d0,iothread=io",
     "d0", "raw"},
};

typedef struct {
    const Shape *shape;
    Guest guest;
    json_t *graph; /* before anything of ours */
    char *directory;
    EpochWrites *writes;
    WriteJournal *journal;
    uint64_t epoch;
    uint8_t *committed; /* what the guest saw of its disk at the last committed epoch */
} Split;

/* ---- the storage process ---- */

static VmmStorage *start_storage(void)
{
    const char *named = g_getenv("VMFERRY_TEST_QEMU");
    g_auto(GStrv) words = g_strsplit(named ? named : "qemu-system-x86_64", " ", 2);
    g_autofree char *directory = path_of("storage");
    VmmStorageLaunch launch = {.program = words[0], .directory = directory};
    GError *error = NULL;
    VmmStorage *storage;

    assert_true(mkdir(directory, 0700) == 0 || g_file_test(directory, G_FILE_TEST_IS_DIR));
    storage = vmm_driver_find("qemu", NULL)->open_storage(&launch, &error);
    must(storage != NULL, &error);
    return storage;
}

/* ---- the guest ---- */

static void pause_guest(Split *split)
{
    GError *error = NULL;

    must(vmm_pause(split->guest.vmm, NULL, &error), &error);
}

static void resume_guest(Split *split)
{
    GError *error = NULL;

    must(vmm_resume(split->guest.vmm, &error), &error);
}

/* Writes of all kinds; some are under way when the guest is paused. */
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
        what = g_strdup_printf("%s -P %d %u %u", kind > 2 ? "write" : "aio_write",
                               g_rand_int_range(random, 0, 256), offset, length);
    line = g_strdup_printf("qemu-io %s \"%s\"", drive, what);
    answer = qmp_execute_human(guest->qmp, line, WAIT_MS, &error);
    must(answer != NULL, &error);
    if (strstr(answer, "failed") || strstr(answer, "rror"))
        fail_msg("%s: %s", line, answer);
}

static void guest_does_some(Split *split, GRand *random)
{
    guint requests = (guint)g_rand_int_range(random, 0, 9);

    for (guint i = 0; i < requests; i++)
        guest_does(&split->guest, split->shape->drive, random);
}

static uint8_t *read_content(const char *line)
{
    g_autofree char *path = path_of("now");
    char *content;
    gsize length;

    assert_int_equal(run(line), 0);
    assert_true(g_file_get_contents(path, &content, &length, NULL));
    assert_int_equal(length, DISK_BYTES);
    return (uint8_t *)content;
}

static uint8_t *read_image(const Split *split)
{
    g_autofree char *line =
        g_strdup_printf("qemu-img convert -U -f %s -O raw @disk @now", split->shape->format);

    return read_content(line);
}

/* Of a paused guest: the overlay above the image. */
static uint8_t *read_disk(const Split *split)
{
    g_autofree char *line = g_strdup_printf(
        "qemu-img convert -U -O raw 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\","
        "\"filename\":\"'@overlays/*-0.qcow2'\"},\"backing\":{\"driver\":\"%s\",\"file\":{"
        "\"driver\":\"file\",\"filename\":\"'@disk'\"}}}' @now",
        split->shape->format);
    g_autofree char *overlays = path_of("overlays");
    GString *text = g_string_new(line);
    GDir *dir = g_dir_open(overlays, 0, NULL);
    g_autofree char *file = g_strdup(g_dir_read_name(dir));
    uint8_t *content;

    g_dir_close(dir);
    g_string_replace(text, "*-0.qcow2", file, 0);
    content = read_content(text->str);
    g_string_free(text, TRUE);
    return content;
}

static void expect_content(const uint8_t *got, const uint8_t *wanted)
{
    for (size_t i = 0; i < DISK_BYTES; i++)
        if (got[i] != wanted[i])
            fail_msg("differs from byte %zu on", i);
}

static void expect_image(const Split *split, const uint8_t *wanted)
{
    g_autofree uint8_t *image = read_image(split);

    expect_content(image, wanted);
}

/* ---- beginning and end ---- */

static EpochWritesPlace place_of(const Split *split)
{
    return (EpochWritesPlace){.transaction = TRANSACTION,
                              .directory = split->directory,
                              .limit_bytes = EPOCH_TAP_LIMIT_BYTES};
}

static void prepare(Split *split)
{
    EpochWritesPlace place = place_of(split);
    GError *error = NULL;
    g_autoptr(VmmStorage) storage = start_storage();

    split->writes =
        epoch_writes_prepare(split->guest.vmm, &place, storage, geteuid(), getegid(), &error);
    must(split->writes != NULL, &error);
    assert_int_equal(run("test -n \"$(ls @overlays)\""), 0);
}

static void start_writes(Split *split)
{
    GError *error = NULL;

    must(epoch_writes_start(split->writes, &error), &error);
}

static Split begin_guest(const Shape *shape)
{
    Split split = {.shape = shape, .directory = path_of("overlays")};

    assert_int_equal(mkdir(split.directory, 0700), 0);
    make_image("disk", shape->format, "");
    fill_image("disk", shape->format);
    split.guest = start(shape->options);
    split.graph = query_graph(&split.guest);
    return split;
}

static void begin_journal(Split *split)
{
    g_autofree char *path = path_of("journal");
    uint64_t bytes = DISK_BYTES;
    GError *error = NULL;

    split->journal = write_journal_create(path, TRANSACTION, &bytes, 1, LIMIT, &error);
    must(split->journal != NULL, &error);
}

static Split begin_split(const Shape *shape)
{
    Split split = begin_guest(shape);

    prepare(&split);
    expect_graph(&split.guest, split.graph);
    begin_journal(&split);
    pause_guest(&split);
    start_writes(&split);
    split.committed = read_disk(&split);
    assert_int_equal(run("cp @disk @before"), 0);
    resume_guest(&split);
    return split;
}

static void forget(Split *split)
{
    epoch_writes_free(split->writes);
    write_journal_free(split->journal);
    json_decref(split->graph);
    g_free(split->committed);
    g_free(split->directory);
}

static void kill_guest(Split *split)
{
    const VmmIdentity *identity = split->guest.identity;
    EpochWritesPlace place = place_of(split);

    must(process_kill(identity->pid, identity->start_time, SIGKILL, NULL), &(GError *){NULL});
    assert_true(process_wait_gone(identity->pid, identity->start_time, WAIT_MS));
    g_clear_pointer(&split->writes, epoch_writes_free);
    epoch_writes_remove(&place);
    qmp_free(split->guest.qmp);
    vmm_free(split->guest.vmm);
    vmm_identity_free(split->guest.identity);
    assert_int_equal(run("test -z \"$(ls @overlays)\""), 0);
    assert_int_equal(run("cmp @disk @before"), 0);
}

static void finish_writes(Split *split)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_MS * 1000;
    GError *error = NULL;
    gboolean done = FALSE;

    while (!done && g_get_monotonic_time() < deadline) {
        must(epoch_writes_end(split->writes, &done, &error), &error);
        if (!done)
            g_usleep(2000);
    }
    assert_true(done);
    expect_graph(&split->guest, split->graph);
    assert_int_equal(run("test -z \"$(ls @overlays)\""), 0);
}

/* ---- epochs ---- */

static void stage(Split *split, WriteBatch *batch)
{
    g_autoptr(GByteArray) piece = g_byte_array_new();
    WriteBatchWalk walk = write_batch_walk(batch);
    GError *error = NULL;

    for (; write_batch_encode(&walk, PIECE_BYTES, piece); g_byte_array_set_size(piece, 0))
        must(write_journal_stage(split->journal, split->epoch + 1, piece->data, piece->len, &error),
             &error);
    write_batch_free(batch);
}

/* Returns what the guest sees of its disk. */
static uint8_t *seal_epoch(Split *split)
{
    GError *error = NULL;
    WriteBatch *batch;
    uint8_t *state;

    pause_guest(split);
    batch = epoch_writes_cut(split->writes, CUT_MS, &error);
    must(batch != NULL, &error);
    state = read_disk(split);
    resume_guest(split);
    must(epoch_writes_check_taps(split->writes, &error), &error);
    stage(split, batch);
    must(write_journal_seal(split->journal, split->epoch + 1, &error), &error);
    return state;
}

static void run_epoch(Split *split)
{
    GError *error = NULL;

    g_free(split->committed);
    split->committed = seal_epoch(split);
    must(write_journal_commit(split->journal, ++split->epoch, &error), &error);
}

static void apply_journal(Split *split)
{
    g_autofree char *journal_path = path_of("journal"), *image = path_of("disk");
    TakeoverImage images[] = {{image, split->shape->format, DISK_BYTES}};
    GError *error = NULL;

    write_journal_free(split->journal);
    split->journal = write_journal_open(journal_path, TRANSACTION, split->epoch, LIMIT, &error);
    must(split->journal != NULL, &error);
    for (guint times = 0; times < 2; times++) {
        g_autoptr(VmmStorage) storage = start_storage();

        must(takeover_disks_apply(split->journal, storage, images, 1, &error), &error);
    }
    assert_false(takeover_disks_apply(split->journal, NULL, images, 0, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "the guest has 0 disks here, the journal has 1");
}

/* ---- takeover and ordinary end ---- */

/* The guest's VMM dies with an epoch that is complete and not committed, and one under way. */
static void take_over(const Shape *shape, guint seed)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    Split split = begin_split(shape);

    for (guint i = 0; i < EPOCHS; i++) {
        guest_does_some(&split, random);
        run_epoch(&split);
    }
    guest_writes(&split.guest, shape->drive, 0xe1, "1M 64k");
    g_free(seal_epoch(&split));
    guest_writes(&split.guest, shape->drive, 0xe2, "2M 64k");
    kill_guest(&split);
    apply_journal(&split);
    expect_image(&split, split.committed);
    forget(&split);
}

static void test_takeover(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++) {
        take_over(&shapes[i], i + 1);
        assert_int_equal(run("rm -r @overlays @journal @storage"), 0);
    }
}

static void test_ordinary_end(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++) {
        g_autoptr(GRand) random = g_rand_new_with_seed(i + 100);
        Split split = begin_split(&shapes[i]);

        for (guint k = 0; k < 5; k++) {
            guest_does_some(&split, random);
            run_epoch(&split);
        }
        finish_writes(&split);
        expect_image(&split, split.committed);
        guest_writes(&split.guest, shapes[i].drive, 0x55, "5M 64k");
        pause_guest(&split);
        g_free(split.committed);
        split.committed = read_image(&split);
        assert_int_equal(split.committed[5u << 20], 0x55);
        end(&split.guest);
        forget(&split);
        assert_int_equal(run("rm -r @overlays @journal @storage"), 0);
    }
}

/* Each of these leaves marks: they are none of a later epoch. */
static void test_pauses_without_a_cut(void **unused)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(7);
    Split split = begin_split(&shapes[0]);
    GError *error = NULL;

    for (guint i = 0; i < 10; i++) {
        g_autoptr(GBytes) state = NULL;

        guest_does_some(&split, random);
        pause_guest(&split);
        pause_guest(&split);
        state = vmm_save_device_state(split.guest.vmm, VMM_SAVE_CHECKPOINT, &error);
        must(state != NULL, &error);
        resume_guest(&split);
        guest_does_some(&split, random);
        run_epoch(&split);
        pause_guest(&split);
        resume_guest(&split);
    }
    kill_guest(&split);
    apply_journal(&split);
    expect_image(&split, split.committed);
    forget(&split);
}

/* ---- taps that break ---- */

/* Staged as parts of the next epoch meanwhile. */
static void await_whole(Split *split)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_MS * 1000;
    GError *error = NULL;
    gboolean whole = FALSE;

    while (!whole && g_get_monotonic_time() < deadline) {
        must(epoch_writes_is_whole(split->writes, &whole, &error), &error);
        stage(split, epoch_tap_take(epoch_writes_get_tap(split->writes)));
        if (!whole)
            g_usleep(2000);
    }
    assert_true(whole);
}

static void restart_writes(Split *split)
{
    GError *error = NULL;

    pause_guest(split);
    must(epoch_writes_restart(split->writes, &error), &error);
    resume_guest(split);
}

static void run_on(Split *split, GRand *random)
{
    for (guint i = 0; i < 5; i++) {
        guest_does_some(split, random);
        run_epoch(split);
    }
}

static void end_by_takeover(Split *split)
{
    kill_guest(split);
    apply_journal(split);
    expect_image(split, split->committed);
    forget(split);
}

/* *key* of the command says what is to become of the job of the tap. */
static void change_tap(Split *split, const char *command, const char *key, int value)
{
    g_autoptr(json_t) jobs = qmp_execute(split->guest.qmp, "query-jobs", NULL, WAIT_MS, NULL);
    const char *name = json_text_or(json_array_get(jobs, 0), "id", "?");
    json_t *arguments = json_pack("{s:s}", "device", name);
    GError *error = NULL;

    json_object_set_new(arguments, key,
                        strcmp(key, "force") == 0 ? json_true() : json_integer(value));
    must(qmp_run(split->guest.qmp, command, arguments, WAIT_MS, &error), &error);
}

/* While the overlay is being sent there is no epoch. */
static void expect_not_whole(Split *split)
{
    GError *error = NULL;
    gboolean whole;

    must(epoch_writes_is_whole(split->writes, &whole, &error), &error);
    assert_false(whole);
    assert_null(epoch_writes_cut(split->writes, CUT_MS, &error));
    expect_text(error, VMFERRY_ERROR_BUSY, "not all there yet");
}

static void expect_tap_is_broken(Split *split)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_MS * 1000;

    while (epoch_writes_check_taps(split->writes, NULL) && g_get_monotonic_time() < deadline)
        g_usleep(2000);
    assert_false(epoch_writes_check_taps(split->writes, NULL));
}

/* Another program ends the tap, the first one and the one in its place. */
static void break_taps(const Shape *shape)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(9);
    Split split = begin_split(shape);
    GError *error = NULL;

    run_on(&split, random);
    for (guint i = 0; i < 2; i++) {
        change_tap(&split, "block-job-cancel", "force", 1);
        expect_tap_is_broken(&split);
        guest_writes(&split.guest, shape->drive, 0x91 + i, "1M 14M");
        pause_guest(&split);
        must(epoch_writes_restart(split.writes, &error), &error);
        change_tap(&split, "block-job-set-speed", "speed", 1 << 20);
        resume_guest(&split);
        expect_not_whole(&split);
        change_tap(&split, "block-job-set-speed", "speed", 0);
        guest_does_some(&split, random);
        await_whole(&split);
        run_on(&split, random);
    }
    end_by_takeover(&split);
}

static void test_broken_taps(void **unused)
{
    for (guint i = 0; i < 2; i++) {
        break_taps(&shapes[i]);
        assert_int_equal(run("rm -r @overlays @journal @storage"), 0);
    }
}

/* ---- an agent that dies ---- */

static void reattach(Split *split)
{
    GError *error = NULL;

    split->guest.vmm = qemu_reattach(split->guest.identity, &error);
    must(split->guest.vmm != NULL, &error);
}

/* The threads of the parent are not in the child: it makes its own connection. */
static void be_agent(Split *split, int told)
{
    reattach(split);
    prepare(split);
    pause_guest(split);
    start_writes(split);
    resume_guest(split);
    (void)!write(told, "", 1);
    for (;;)
        pause();
}

/* It starts the writes, and dies while the guest runs. */
static void run_agent(Split *split)
{
    pid_t child;
    char byte;
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    vmm_free(split->guest.vmm);
    child = fork();
    if (child == 0)
        be_agent(split, ends[1]);
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    guest_writes(&split->guest, split->shape->drive, 0x71, "1M 64k");
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    reattach(split);
}

static void find_writes(Split *split)
{
    EpochWritesPlace place = place_of(split);
    GError *error = NULL;

    split->writes = epoch_writes_find(split->guest.vmm, &place, &error);
    must(split->writes != NULL, &error);
}

static void test_agent_dies(void **unused)
{
    for (guint i = 0; i < 4; i++) {
        g_autoptr(GRand) random = g_rand_new_with_seed(11);
        Split split = begin_guest(&shapes[i / 2]);
        EpochWritesPlace place = place_of(&split);
        GError *error = NULL;

        assert_null(epoch_writes_find(split.guest.vmm, &place, &error));
        expect_text(error, VMFERRY_ERROR_NOT_FOUND, "no overlay of transaction " TRANSACTION);
        begin_journal(&split);
        assert_int_equal(run("cp @disk @before"), 0);
        run_agent(&split);
        guest_writes(&split.guest, split.shape->drive, 0x72, "2M 64k");
        find_writes(&split);
        if (i % 2 == 0) {
            error = NULL;
            assert_null(epoch_writes_cut(split.writes, CUT_MS, &error));
            expect_text(error, VMFERRY_ERROR_FAILED, "not tapped");
            restart_writes(&split);
            await_whole(&split);
            run_on(&split, random);
            end_by_takeover(&split);
        } else {
            finish_writes(&split);
            split.committed = read_image(&split);
            assert_int_equal(split.committed[1u << 20], 0x71);
            assert_int_equal(split.committed[2u << 20], 0x72);
            error = NULL;
            assert_false(epoch_writes_restart(split.writes, &error));
            expect_text(error, VMFERRY_ERROR_REFUSED, "part of its images already");
            end(&split.guest);
            forget(&split);
        }
        assert_int_equal(run("rm -rf @overlays @journal @storage"), 0);
    }
}

/* ---- several disks ---- */

static const Shape two = {
    PLAIN " -drive file=@read-only,format=raw,if=none,id=ro,read-only=on -device "
          "virtio-blk-pci,drive=ro -drive file=@second,format=qcow2,if=none,id=d1 -device "
          "virtio-blk-pci,drive=d1",
    "virtio0", "raw"};

static Split begin_two(void)
{
    make_image("read-only", "raw", "");
    make_image("second", "qcow2", "");
    return begin_guest(&two);
}

static int find_pattern(const char *image, const char *format, guint pattern, const char *where)
{
    g_autofree char *line =
        g_strdup_printf("qemu-io -f %s -c \"read -P %u %s\" @%s", format, pattern, where, image);

    return run(line);
}

/* Which disk an image is for is known by its place in the list, at both sides. */
static void test_two_disks(void **unused)
{
    g_autofree char *journal_path = path_of("journal");
    Split split = begin_two();
    GError *error = NULL;
    g_autoptr(GPtrArray) disks = epoch_writes_list(split.guest.vmm, &error);
    g_autoptr(VmmStorage) storage = NULL;
    uint64_t bytes[2] = {DISK_BYTES, DISK_BYTES};
    TakeoverImage images[2];

    must(disks != NULL, &error);
    assert_int_equal(disks->len, 2);
    for (guint i = 0; i < 2; i++) {
        const VmmDiskFile *file = ((VmmDisk *)disks->pdata[i])->files->pdata[0];

        images[i] = (TakeoverImage){file->file, file->format, file->bytes};
    }
    prepare(&split);
    split.journal = write_journal_create(journal_path, TRANSACTION, bytes, 2, LIMIT, &error);
    must(split.journal != NULL, &error);
    assert_int_equal(run("cp @disk @before"), 0);
    pause_guest(&split);
    start_writes(&split);
    resume_guest(&split);
    guest_writes(&split.guest, "virtio0", 0x81, "4M 64k");
    guest_writes(&split.guest, "d1", 0x82, "5M 64k");
    g_free(seal_epoch(&split));
    must(write_journal_commit(split.journal, ++split.epoch, &error), &error);
    guest_writes(&split.guest, "d1", 0x83, "5M 64k");
    kill_guest(&split);
    storage = start_storage();
    must(takeover_disks_apply(split.journal, storage, images, 2, &error), &error);
    assert_int_equal(find_pattern("disk", "raw", 0x81, "4M 64k"), 0);
    assert_int_equal(find_pattern("second", "qcow2", 0x82, "5M 64k"), 0);
    assert_int_not_equal(find_pattern("second", "qcow2", 0x83, "5M 64k"), 0);
    images[1].bytes--;
    assert_false(takeover_disks_apply(split.journal, storage, images, 2, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "its journal is for 16777216");
    forget(&split);
}

/* ---- what cannot begin ---- */

static void test_undone(void **unused)
{
    GError *error = NULL;
    Split split = begin_two();

    prepare(&split);
    assert_int_equal(epoch_writes_get_count(split.writes), 2);
    assert_int_equal(run("rm @overlays/*-1.qcow2"), 0);
    pause_guest(&split);
    assert_false(epoch_writes_start(split.writes, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "overlay of disk d1: ");
    expect_graph(&split.guest, split.graph);
    assert_int_equal(run("test -z \"$(ls @overlays)\""), 0);
    resume_guest(&split);
    epoch_writes_free(split.writes);
    prepare(&split);
    g_clear_pointer(&split.writes, epoch_writes_free);
    expect_graph(&split.guest, split.graph);
    assert_int_equal(run("test -z \"$(ls @overlays)\""), 0);
    prepare(&split);
    error = NULL;
    assert_false(epoch_writes_start(split.writes, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "can only be tapped while the guest is paused");
    expect_graph(&split.guest, split.graph);
    assert_int_equal(run("test -z \"$(ls @overlays)\""), 0);
    end(&split.guest);
    forget(&split);
}

/* Known before the switch: the VMM cannot open the file. */
static void test_overlay_that_cannot_be_opened(void **unused)
{
    Split split = begin_guest(&shapes[0]);
    EpochWritesPlace place = place_of(&split);
    g_autofree char *path = path_of("nowhere");
    VmmOverlay overlay = {
        .name = "vmferry-over-x", .node = "virtio0", .bytes = DISK_BYTES, .path = path};
    g_autoptr(VmmStorage) storage = start_storage();
    GError *error = NULL;

    assert_false(vmm_check_overlay(split.guest.vmm, &overlay, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "No such file");
    error = NULL;
    make_image("nowhere", "qcow2", "");
    must(vmm_check_overlay(split.guest.vmm, &overlay, &error), &error);
    overlay.bytes--;
    assert_false(vmm_check_overlay(split.guest.vmm, &overlay, &error));
    expect_text(error, VMFERRY_ERROR_REFUSED, "the overlay offers");
    expect_graph(&split.guest, split.graph);
    error = NULL;
    place.directory = "/nonexistent";
    assert_null(epoch_writes_prepare(split.guest.vmm, &place, storage, 0, 0, &error));
    expect_text(error, VMFERRY_ERROR_NOT_FOUND, "/nonexistent");
    end(&split.guest);
    forget(&split);
}

static void expect_unsupported(const char *options, const char *text)
{
    GError *error = NULL;
    Guest guest = start(options);
    g_autoptr(GPtrArray) disks = epoch_writes_list(guest.vmm, &error);

    must(disks != NULL, &error);
    if (text) {
        assert_false(epoch_writes_check(disks, &error));
        expect_text(error, VMFERRY_ERROR_UNSUPPORTED, text);
    } else {
        must(epoch_writes_check(disks, &error), &error);
        assert_int_equal(disks->len, 0);
    }
    end(&guest);
}

static void test_what_cannot(void **unused)
{
    make_image("disk", "raw", "");
    make_image("vmdk", "vmdk", "");
    expect_unsupported(" -drive file=@disk,format=raw,if=none,id=d0 -device "
                       "virtio-blk-pci,drive=d0,share-rw=on",
                       "disk d0 (virtio-blk-pci at pci.0 02.0) cannot be held back: others may");
    expect_unsupported(" -drive file=@vmdk,format=vmdk,if=none,id=d0 -device "
                       "virtio-blk-pci,drive=d0",
                       "only raw and qcow2 images");
    expect_unsupported(" -drive file=@disk,format=raw,if=none,id=d0,read-only=on -device "
                       "virtio-blk-pci,drive=d0",
                       NULL);
}

static void test_room(void **unused)
{
    g_autofree char *missing = path_of("nowhere");
    g_autoptr(GPtrArray) none = g_ptr_array_new();
    GError *error = NULL;

    must(epoch_writes_check_room(none, "/dev", &error), &error);
    assert_false(epoch_writes_check_room(none, missing, &error));
    expect_text(error, VMFERRY_ERROR_NOT_FOUND, "room for what the guest writes: ");
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
        QEMU_TEST(test_takeover),
        QEMU_TEST(test_ordinary_end),
        QEMU_TEST(test_pauses_without_a_cut),
        QEMU_TEST(test_broken_taps),
        QEMU_TEST(test_agent_dies),
        QEMU_TEST(test_two_disks),
        QEMU_TEST(test_undone),
        QEMU_TEST(test_overlay_that_cannot_be_opened),
        QEMU_TEST(test_what_cannot),
        QEMU_TEST(test_room),
    };

    if (!qemu_guest_is_there())
        return 77;
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

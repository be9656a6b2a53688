/*
 * The journal of disk writes, with crashes at each of its steps
 *
 * The calls that change files are wrapped by the linker: a child process ends at its Nth one, before
 * it, or in the middle of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "disk/disk_target.h"
#include "disk/write_batch.h"
#include "disk/write_journal.h"

#define DISKS 2u
#define BYTES (256u << 10)
#define LIMIT (64u << 20)
#define EPOCHS 6u
#define TRANSACTION "t-1"

static const uint64_t sizes[DISKS] = {BYTES, BYTES / 2};

/* ---- calls that end the process, or fail ---- */

enum { CRASHED = 77 };

static guint calls, crash_at; /* crash_at 0: never */
static gboolean crash_midway, full;

ssize_t __real_pwrite64(int fd, const void *data, size_t length, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t length, off_t offset);
int __real_ftruncate64(int fd, off_t length);
int __wrap_ftruncate64(int fd, off_t length);
int __real_fallocate64(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length);

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __real_unlink(const char *path);
int __wrap_unlink(const char *path);

static gboolean is_time(void)
{
    return ++calls == crash_at;
}

ssize_t __wrap_pwrite64(int fd, const void *data, size_t length, off_t offset)
{
    if (is_time()) {
        if (crash_midway)
            (void)!__real_pwrite64(fd, data, length / 2, offset);
        _exit(CRASHED);
    }
    if (full) {
        errno = ENOSPC;
        return -1;
    }
    return __real_pwrite64(fd, data, length, offset);
}

int __wrap_ftruncate64(int fd, off_t length)
{
    if (is_time())
        _exit(CRASHED);
    return __real_ftruncate64(fd, length);
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length)
{
    if (is_time())
        _exit(CRASHED);
    return __real_fallocate64(fd, mode, offset, length);
}

int __wrap_rename(const char *from, const char *to)
{
    if (is_time())
        _exit(CRASHED);
    return __real_rename(from, to);
}

int __wrap_unlink(const char *path)
{
    if (is_time())
        _exit(CRASHED);
    return __real_unlink(path);
}

/* ---- places ---- */

static char *folder;
static gboolean rotating; /* what is committed goes to the images by and by */

static char *path_of(const char *name)
{
    return g_build_filename(folder, name, NULL);
}

static int set_up(void **unused)
{
    folder = g_dir_make_tmp("vmferry-test-XXXXXX", NULL);
    calls = crash_at = 0;
    crash_midway = full = rotating = FALSE;
    return 0;
}

static int tear_down(void **unused)
{
    g_autofree char *journal = path_of("j"), *record = path_of("record"), *image = path_of("image");

    write_journal_remove(journal, NULL);
    unlink(record);
    unlink(image);
    for (guint disk = 0; disk < DISKS; disk++) {
        g_autofree char *drained = path_of(disk == 0 ? "image-0" : "image-1");

        unlink(drained);
    }
    rmdir(folder);
    g_free(folder);
    return 0;
}

/* *error* by its address: arguments are evaluated in any order. */
static WriteJournal *must_have(WriteJournal *journal, GError **error)
{
    if (!journal)
        fail_msg("%s", (*error)->message);
    return journal;
}

static void must(gboolean done, GError **error)
{
    if (!done)
        fail_msg("%s", *error ? (*error)->message : "failed without an error");
}

static void expect_text(GError *error, VmferryErrorCode code, const char *text)
{
    assert_non_null(error);
    if (!error_is(error, code) || !strstr(error->message, text))
        fail_msg("%s", error->message);
    g_error_free(error);
}

static WriteJournal *create(void)
{
    g_autofree char *path = path_of("j");
    GError *error = NULL;

    return must_have(write_journal_create(path, TRANSACTION, sizes, DISKS, LIMIT, &error), &error);
}

static WriteJournal *reopen(uint64_t committed)
{
    g_autofree char *path = path_of("j");
    GError *error = NULL;

    return must_have(write_journal_open(path, TRANSACTION, committed, LIMIT, &error), &error);
}

static void expect_damaged(uint64_t committed, const char *text)
{
    g_autofree char *path = path_of("j");
    GError *error = NULL;

    assert_null(write_journal_open(path, TRANSACTION, committed, LIMIT, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, text);
}

/* ---- epochs: what each one writes is made from its number ---- */

typedef struct {
    uint8_t content[DISKS][BYTES];
} Model;

static WriteBatch *make_batch(uint64_t epoch, Model *model)
{
    g_autoptr(GRand) random = g_rand_new_with_seed((guint32)epoch);
    WriteBatch *batch = write_batch_new(DISKS);
    static uint8_t data[BYTES];

    for (guint i = epoch == 4 ? 0 : 12; i > 0; i--) {
        guint disk = (guint)g_rand_int_range(random, 0, DISKS);
        guint length = (guint)g_rand_int_range(random, 1, 60) * 512;
        guint offset =
            (guint)g_rand_int_range(random, 0, (gint32)(sizes[disk] - length) / 512 + 1) * 512;
        gboolean zeros = i % 4 == 0;

        memset(data, (int)(epoch * 16 + i), length);
        write_batch_add(batch, disk, offset, length, zeros ? NULL : data);
        if (model && zeros)
            memset(model->content[disk] + offset, 0, length);
        else if (model)
            memcpy(model->content[disk] + offset, data, length);
    }
    return batch;
}

static gboolean try_stage(WriteJournal *journal, uint64_t epoch, GError **error)
{
    g_autoptr(WriteBatch) batch = make_batch(epoch, NULL);
    g_autoptr(GByteArray) piece = g_byte_array_new();
    WriteBatchWalk walk = write_batch_walk(batch);

    for (; write_batch_encode(&walk, 50000, piece); g_byte_array_set_size(piece, 0))
        if (!write_journal_stage(journal, epoch, piece->data, piece->len, error))
            return FALSE;
    return TRUE;
}

static void stage(WriteJournal *journal, uint64_t epoch)
{
    GError *error = NULL;

    must(try_stage(journal, epoch, &error), &error);
}

static void seal(WriteJournal *journal, uint64_t epoch)
{
    GError *error = NULL;

    must(write_journal_seal(journal, epoch, &error), &error);
}

static void commit(WriteJournal *journal, uint64_t epoch)
{
    GError *error = NULL;

    must(write_journal_commit(journal, epoch, &error), &error);
}

static void run_epoch(WriteJournal *journal, uint64_t epoch)
{
    stage(journal, epoch);
    seal(journal, epoch);
    commit(journal, epoch);
}

/* ---- the image ---- */

static uint8_t base_byte(size_t at)
{
    return (uint8_t)(at / 512 * 7 + 3);
}

static Model *make_model(uint64_t epoch)
{
    Model *model = g_new(Model, 1);

    for (guint disk = 0; disk < DISKS; disk++)
        for (size_t i = 0; i < BYTES; i++)
            model->content[disk][i] = base_byte(i);
    for (uint64_t i = 1; i <= epoch; i++)
        write_batch_free(make_batch(i, model));
    return model;
}

/* The image that what is full goes to, and that outlives a crash. */
static int open_drained(guint disk)
{
    g_autofree char *path = path_of(disk == 0 ? "image-0" : "image-1");
    g_autofree uint8_t *content = g_malloc(BYTES);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat info;

    assert_true(fd >= 0 && fstat(fd, &info) == 0);
    if ((uint64_t)info.st_size == sizes[disk])
        return fd;
    for (size_t i = 0; i < sizes[disk]; i++)
        content[i] = base_byte(i);
    assert_true(fd_write_all(fd, content, sizes[disk], NULL));
    return fd;
}

static void drain(WriteJournal *journal)
{
    GError *error = NULL;

    for (guint disk = 0; disk < DISKS; disk++) {
        autofd int fd = open_drained(disk);
        g_autoptr(DiskTarget) target = disk_target_open_file(fd, sizes[disk], &error);

        must(target != NULL, &error);
        must(write_journal_apply_full(journal, disk, target, &error), &error);
    }
    must(write_journal_drop_full(journal, &error), &error);
}

static void rotate(WriteJournal *journal)
{
    GError *error = NULL;

    must(write_journal_rotate(journal, &error), &error);
    assert_true(write_journal_has_full(journal));
}

static void expect_image(const WriteJournal *journal, guint disk, const Model *model)
{
    g_autofree char *path = path_of("image");
    autofd int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_autofree uint8_t *content = g_malloc(BYTES);
    g_autoptr(DiskTarget) target = NULL;
    GError *error = NULL;

    if (rotating) {
        autofd int drained = open_drained(disk);

        assert_int_equal(pread(drained, content, sizes[disk], 0), sizes[disk]);
    } else {
        for (size_t i = 0; i < sizes[disk]; i++)
            content[i] = base_byte(i);
    }
    must(fd_write_all(fd, content, sizes[disk], &error), &error);
    target = disk_target_open_file(fd, sizes[disk], &error);
    must(target != NULL, &error);
    for (guint times = 0; times < 2; times++) {
        must(write_journal_apply(journal, disk, target, &error), &error);
        assert_int_equal(pread(fd, content, sizes[disk], 0), sizes[disk]);
        assert_memory_equal(content, model->content[disk], sizes[disk]);
    }
}

static void expect_images(const WriteJournal *journal, uint64_t epoch)
{
    g_autofree Model *model = make_model(epoch);

    for (guint disk = 0; disk < DISKS; disk++)
        expect_image(journal, disk, model);
}

/* ---- tests ---- */

static void test_epochs(void **unused)
{
    WriteJournal *journal = create();
    gboolean any;

    assert_true(write_journal_has_writes(journal, 0, &any, NULL));
    assert_false(any);
    expect_images(journal, 0);
    for (uint64_t epoch = 1; epoch <= EPOCHS; epoch++) {
        run_epoch(journal, epoch);
        expect_images(journal, epoch);
        if (epoch % 2 == 0) {
            write_journal_free(journal);
            journal = reopen(epoch);
        }
        assert_int_equal(write_journal_get_committed(journal), epoch);
    }
    assert_true(write_journal_has_writes(journal, 1, &any, NULL));
    assert_true(any);
    assert_int_equal(write_journal_get_count(journal), DISKS);
    assert_int_equal(write_journal_get_disk_bytes(journal, 1), sizes[1]);
    write_journal_free(journal);
}

/* By and by it goes to the images, and is no more in the journal. */
static void test_generations(void **unused)
{
    WriteJournal *journal = create();
    GError *error = NULL;
    gboolean any;

    rotating = TRUE;
    run_epoch(journal, 1);
    rotate(journal);
    assert_false(write_journal_rotate(journal, &error));
    expect_text(error, VMFERRY_ERROR_BUSY, "not now");
    expect_images(journal, 1);
    run_epoch(journal, 2);
    expect_images(journal, 2);
    write_journal_free(journal);
    journal = reopen(2);
    assert_true(write_journal_has_full(journal));
    expect_images(journal, 2);
    drain(journal);
    assert_false(write_journal_has_full(journal));
    expect_images(journal, 2);
    rotate(journal);
    drain(journal);
    assert_true(write_journal_has_writes(journal, 0, &any, NULL));
    assert_false(any);
    assert_true(write_journal_get_used(journal) < 4096);
    run_epoch(journal, 3);
    expect_images(journal, 3);
    write_journal_free(journal);
}

/* The journal is as large as what is different, whatever comes. */
static void test_does_not_grow(void **unused)
{
    g_autoptr(WriteJournal) journal = create();

    for (uint64_t epoch = 1; epoch < 200; epoch++) {
        run_epoch(journal, epoch);
        assert_true(write_journal_get_used(journal) < 2 * BYTES);
    }
    expect_images(journal, 199);
}

/* An epoch that was sealed is good or is nothing, as its owner's record says. */
static void test_owner_decides(void **unused)
{
    for (guint taken = 0; taken < 2; taken++) {
        WriteJournal *journal = create();

        run_epoch(journal, 1);
        stage(journal, 2);
        seal(journal, 2);
        write_journal_free(journal);
        journal = reopen(1 + taken);
        expect_images(journal, 1 + taken);
        stage(journal, 2 + taken);
        seal(journal, 2 + taken);
        commit(journal, 2 + taken);
        expect_images(journal, 2 + taken);
        write_journal_free(journal);
        tear_down(NULL);
        set_up(NULL);
    }
}

static void test_forget(void **unused)
{
    g_autoptr(WriteJournal) journal = create();
    GError *error = NULL;

    run_epoch(journal, 1);
    stage(journal, 2);
    seal(journal, 2);
    stage(journal, 3);
    must(write_journal_forget(journal, &error), &error);
    expect_images(journal, 1);
    run_epoch(journal, 2);
    expect_images(journal, 2);
}

static void test_order(void **unused)
{
    g_autoptr(WriteJournal) journal = create();
    GError *error = NULL;

    run_epoch(journal, 1);
    assert_false(try_stage(journal, 1, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "epoch 1 comes after 1");
    error = NULL;
    stage(journal, 2);
    assert_false(try_stage(journal, 3, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "epoch 3 comes after 2");
    error = NULL;
    assert_false(write_journal_commit(journal, 2, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "the last complete epoch is 1, and not 2");
    seal(journal, 2);
    commit(journal, 2);
    expect_images(journal, 2);
}

static void test_bad_pieces(void **unused)
{
    g_autoptr(WriteJournal) journal = create();
    g_autoptr(WriteBatch) batch = write_batch_new(DISKS);
    g_autoptr(GByteArray) piece = g_byte_array_new();
    WriteBatchWalk walk = write_batch_walk(batch);
    const uint8_t data[700] = {1};
    GError *error = NULL;

    assert_false(write_journal_stage(journal, 1, "nonsense", 8, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "is cut off");
    error = NULL;
    write_batch_add(batch, 0, 0, sizeof data, data);
    assert_true(write_batch_encode(&walk, 4096, piece));
    assert_false(write_journal_stage(journal, 1, piece->data, piece->len, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "whole sectors");
    run_epoch(journal, 1);
    expect_images(journal, 1);
}

static void test_limit(void **unused)
{
    g_autofree char *path = path_of("j");
    GError *error = NULL;
    WriteJournal *journal =
        must_have(write_journal_create(path, TRANSACTION, sizes, DISKS, 400000, &error), &error);
    uint64_t epoch = 1;

    while (try_stage(journal, epoch, &error)) {
        seal(journal, epoch);
        commit(journal, epoch++);
        assert_true(epoch < 50);
    }
    expect_text(error, VMFERRY_ERROR_NO_SPACE, "more than the 400000 bytes that it may");
    assert_true(epoch > 1);
    expect_images(journal, epoch - 1);
    write_journal_free(journal);
    journal = reopen(epoch - 1);
    expect_images(journal, epoch - 1);
    write_journal_free(journal);
}

/* A committed epoch that cannot be folded is good; nothing more is taken. */
static void test_full_disk(void **unused)
{
    WriteJournal *journal = create();
    GError *error = NULL;
    gboolean any = FALSE;

    stage(journal, 1);
    seal(journal, 1);
    full = TRUE;
    commit(journal, 1);
    full = FALSE;
    assert_true(write_journal_has_writes(journal, 0, &any, NULL));
    assert_true(any);
    expect_images(journal, 1);
    assert_false(try_stage(journal, 2, &error));
    expect_text(error, VMFERRY_ERROR_NO_SPACE, "epoch 1: ");
    write_journal_free(journal);
    journal = reopen(1);
    expect_images(journal, 1);
    run_epoch(journal, 2);
    full = TRUE;
    error = NULL;
    assert_false(try_stage(journal, 3, &error));
    expect_text(error, VMFERRY_ERROR_NO_SPACE, "journal of disk writes: write");
    full = FALSE;
    expect_images(journal, 2);
    run_epoch(journal, 3);
    expect_images(journal, 3);
    write_journal_free(journal);
}

/* ---- crashes ---- */

static void write_record_of(uint64_t epoch)
{
    g_autofree char *path = path_of("record");

    assert_true(file_replace(path, &epoch, sizeof epoch, FALSE, NULL));
}

static uint64_t read_record_of(void)
{
    g_autofree char *path = path_of("record");
    g_autofree char *text = file_read(path, 100, &(size_t){0}, NULL);
    uint64_t epoch = 0;

    if (text)
        memcpy(&epoch, text, sizeof epoch);
    return epoch;
}

static void run_owner(WriteJournal *journal, uint64_t first, uint64_t last)
{
    for (uint64_t epoch = first; epoch <= last; epoch++) {
        stage(journal, epoch);
        seal(journal, epoch);
        write_record_of(epoch);
        commit(journal, epoch);
        if (rotating && write_journal_has_full(journal) && epoch % 2 == 0)
            drain(journal);
        else if (rotating && !write_journal_has_full(journal))
            rotate(journal);
    }
}

/* Returns FALSE where the child came to its end without a crash.  The second of two crashes comes
 * while the journal is opened. */
static gboolean crash(guint at, gboolean open_again)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        WriteJournal *journal;

        calls = 0;
        crash_at = at;
        journal = open_again ? reopen(read_record_of()) : create();
        if (!open_again)
            run_owner(journal, 1, EPOCHS);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == CRASHED);
    return WEXITSTATUS(status) == CRASHED;
}

/* A crash before the journal is complete leaves none, or an empty one. */
static gboolean is_there(void)
{
    g_autofree char *path = path_of("j");
    g_autoptr(WriteJournal) journal = write_journal_open(path, TRANSACTION, 0, LIMIT, NULL);

    return journal != NULL;
}

static void recover(guint at)
{
    uint64_t committed = read_record_of();
    g_autoptr(WriteJournal) journal = NULL;

    if (committed == 0 && !is_there())
        return;
    (void)crash(1 + at % 5, TRUE);
    journal = reopen(committed);
    expect_images(journal, committed);
    run_owner(journal, committed + 1, EPOCHS + 1);
    expect_images(journal, EPOCHS + 1);
}

static void crash_everywhere(gboolean rotates, guint least)
{
    guint at = 1, crashes = 0;

    for (gboolean midway = FALSE; midway <= TRUE; midway++) {
        crash_midway = midway;
        rotating = rotates;
        for (at = 1; crash(at, FALSE); at++) {
            recover(at);
            crashes++;
            tear_down(NULL);
            set_up(NULL);
            crash_midway = midway;
            rotating = rotates;
        }
        tear_down(NULL);
        set_up(NULL);
    }
    if (crashes < least)
        fail_msg("%u crashes", crashes);
}

static void test_crashes(void **unused)
{
    crash_everywhere(FALSE, 200);
}

static void test_crashes_of_generations(void **unused)
{
    crash_everywhere(TRUE, 250);
}

/* ---- damaged files ---- */

static void change_log(off_t at, gboolean cut)
{
    g_autofree char *path = path_of("j/log");
    autofd int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte = 0;

    assert_true(fd >= 0);
    if (cut) {
        assert_int_equal(ftruncate(fd, at), 0);
        return;
    }
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static off_t log_bytes(void)
{
    g_autofree char *path = path_of("j/log");
    struct stat info;

    assert_int_equal(stat(path, &info), 0);
    return info.st_size;
}

/* Epoch 1 is committed, 2 is sealed and 3 staged. */
static off_t make_log(off_t *ret_head)
{
    g_autoptr(WriteJournal) journal = create();

    *ret_head = log_bytes();
    run_epoch(journal, 1);
    stage(journal, 2);
    seal(journal, 2);
    stage(journal, 3);
    return log_bytes();
}

static void test_torn_log(void **unused)
{
    off_t head, length = make_log(&head);

    for (off_t at = 0; at < length; at += at < head ? 1 : 4999) {
        WriteJournal *journal;

        length = make_log(&head);
        change_log(at, at % 2 == 0);
        if (at < head) {
            expect_damaged(1, at < head - 16 ? "its log is damaged"
                                             : "its last complete epoch is 0, and not 1");
            continue;
        }
        journal = reopen(1);
        expect_images(journal, 1);
        run_epoch(journal, 2);
        expect_images(journal, 2);
        write_journal_free(journal);
    }
}

static void test_missing_epoch(void **unused)
{
    off_t head, length = make_log(&head);

    assert_true(length > head + 100);
    change_log(head + 50, FALSE);
    expect_damaged(2, "its last complete epoch is 1, and not 2");
    expect_damaged(0, "its last complete epoch is 1, and not 0");
}

static void test_other_transaction(void **unused)
{
    g_autofree char *path = path_of("j"), *nowhere = path_of("k");
    GError *error = NULL;

    write_journal_free(create());
    assert_null(write_journal_open(path, "t-2", 0, LIMIT, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "another transaction, " TRANSACTION);
    error = NULL;
    assert_null(write_journal_open(nowhere, TRANSACTION, 0, LIMIT, &error));
    expect_text(error, VMFERRY_ERROR_NOT_FOUND, "k/log");
    error = NULL;
    must(write_journal_remove(path, &error), &error);
    must(write_journal_remove(path, &error), &error);
    assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

static void test_options_are_checked(void **unused)
{
    g_autofree char *path = path_of("j");
    uint64_t odd = 1000;
    GError *error = NULL;

    assert_null(write_journal_create(path, TRANSACTION, &odd, 1, LIMIT, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "no whole sectors");
    assert_null(write_journal_create(path, TRANSACTION, &odd, 0, LIMIT, NULL));
}

#define JOURNAL_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        JOURNAL_TEST(test_epochs),
        JOURNAL_TEST(test_generations),
        JOURNAL_TEST(test_does_not_grow),
        JOURNAL_TEST(test_owner_decides),
        JOURNAL_TEST(test_forget),
        JOURNAL_TEST(test_order),
        JOURNAL_TEST(test_bad_pieces),
        JOURNAL_TEST(test_limit),
        JOURNAL_TEST(test_full_disk),
        JOURNAL_TEST(test_crashes),
        JOURNAL_TEST(test_crashes_of_generations),
        JOURNAL_TEST(test_torn_log),
        JOURNAL_TEST(test_missing_epoch),
        JOURNAL_TEST(test_other_transaction),
        JOURNAL_TEST(test_options_are_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Targets of disks: files, and exports of a qemu-nbd. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/unix_socket.h"
#include "disk/disk_target.h"
#include "disk/image_view.h"

#define MIB (1u << 20)
#define DISK_BYTES (64u * MIB)
#define HOST_BLOCKS_SLACK 64 /* of 512 bytes: what a file system needs beside data */

typedef struct {
    char *folder;
    char *path; /* of an image */
    char *socket;
    GPid server; /* 0: none */
} Place;

static int set_up(void **state)
{
    Place *place = g_new0(Place, 1);

    place->folder = g_dir_make_tmp("vmferry-target-XXXXXX", NULL);
    assert_non_null(place->folder);
    place->path = g_build_filename(place->folder, "image", NULL);
    place->socket = g_build_filename(place->folder, "socket", NULL);
    *state = place;
    return 0;
}

static void end_server(Place *place)
{
    if (place->server == 0)
        return;
    kill(place->server, SIGKILL);
    waitpid(place->server, NULL, 0);
    place->server = 0;
}

static int tear_down(void **state)
{
    Place *place = *state;

    end_server(place);
    umount2(place->folder, MNT_DETACH);
    unlink(place->path);
    unlink(place->socket);
    rmdir(place->folder);
    g_free(place->folder);
    g_free(place->path);
    g_free(place->socket);
    g_free(place);
    return 0;
}

static int make_image(const Place *place, off_t bytes)
{
    int fd = open(place->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, bytes), 0);
    return fd;
}

/* FALSE: there is none here. */
static gboolean serve(Place *place)
{
    char *argv[] = {"qemu-nbd", "-t",   "-e", "4",           "-f",        "raw", "--discard=unmap",
                    "-x",       "disk", "-k", place->socket, place->path, NULL};

    unlink(place->socket);
    if (!g_spawn_async(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL,
                       NULL, &place->server, NULL))
        return FALSE;
    for (guint i = 0; i < 1000 && !unix_socket_in_use(place->socket); i++)
        g_usleep(10000);
    return TRUE;
}

static uint8_t *random_bytes(size_t count)
{
    uint8_t *bytes = g_malloc(count);

    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(g_random_int() | 1);
    return bytes;
}

static char *digest_file(const Place *place, uint64_t bytes)
{
    g_autoptr(ImageView) view = image_view_open(place->path, NULL);
    char *digest;

    assert_non_null(view);
    digest = image_view_digest_content(view, bytes, NULL, NULL);
    assert_non_null(digest);
    return digest;
}

static void expect_blocks_at_most(const Place *place, uint64_t bytes)
{
    struct stat info;

    assert_int_equal(stat(place->path, &info), 0);
    if ((uint64_t)info.st_blocks > bytes / 512 + HOST_BLOCKS_SLACK)
        fail_msg("%llu blocks for %llu bytes", (unsigned long long)info.st_blocks,
                 (unsigned long long)bytes);
}

static void expect_content(const Place *place, uint64_t offset, const uint8_t *bytes, size_t count)
{
    autofd int fd = open(place->path, O_RDONLY | O_CLOEXEC);
    g_autofree uint8_t *read = g_malloc(count);

    assert_int_equal(pread(fd, read, count, (off_t)offset), count);
    assert_memory_equal(read, bytes, count);
}

/* Data here and there, some of it made zero again; what stays is 3 MiB and 4096 bytes. */
static void use_target(DiskTarget *target, const Place *place)
{
    g_autofree uint8_t *bytes = random_bytes(4 * MIB);
    g_autofree uint8_t *zeros = g_malloc0(MIB);

    assert_true(disk_target_write(target, 8 * MIB, bytes, 4 * MIB, NULL));
    assert_true(disk_target_zero(target, 9 * MIB, MIB, NULL));
    assert_true(disk_target_write(target, DISK_BYTES - 4096, bytes, 4096, NULL));
    assert_true(disk_target_zero(target, 0, 8 * MIB, NULL));
    assert_true(disk_target_zero(target, 32 * MIB, 0, NULL));
    assert_true(disk_target_flush(target, NULL));
    expect_content(place, 8 * MIB, bytes, MIB);
    expect_content(place, 9 * MIB, zeros, MIB);
    expect_content(place, 10 * MIB, bytes + 2 * MIB, 2 * MIB);
    expect_content(place, DISK_BYTES - 4096, bytes, 4096);
    expect_blocks_at_most(place, 3 * MIB + 4096);
}

static void expect_range_checked(DiskTarget *target)
{
    g_autoptr(GError) error = NULL;
    uint8_t byte = 1;

    assert_false(disk_target_write(target, DISK_BYTES, &byte, 1, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_false(disk_target_write(target, UINT64_MAX, &byte, 1, NULL));
    assert_false(disk_target_write(target, 0, &byte, DISK_BYTES + 1ul, NULL));
    assert_false(disk_target_zero(target, 1, UINT64_MAX, NULL));
    assert_false(disk_target_zero(target, DISK_BYTES - 1, 2, NULL));
}

/* ---- files ---- */

static void test_file(void **state)
{
    Place *place = *state;
    autofd int fd = make_image(place, 100);
    g_autoptr(DiskTarget) target = disk_target_open_file(fd, DISK_BYTES, NULL);
    struct stat info;

    assert_non_null(target);
    assert_int_equal(stat(place->path, &info), 0);
    assert_int_equal(info.st_size, DISK_BYTES);
    use_target(target, place);
    expect_range_checked(target);
}

/* The flush is in another thread: nothing but time shows that it ends. */
static void test_flushing_thread(void **state)
{
    Place *place = *state;
    autofd int fd = make_image(place, 0);
    g_autoptr(DiskTarget) target = disk_target_open_file(fd, DISK_BYTES, NULL);
    g_autofree uint8_t *bytes = random_bytes(4096);

    for (guint i = 0; i < 150; i++) {
        assert_true(disk_target_write(target, i * 4096, bytes, 4096, NULL));
        g_usleep(10000);
    }
    assert_true(disk_target_flush(target, NULL));
}

static void test_full_file_system(void **state)
{
    Place *place = *state;
    g_autoptr(DiskTarget) target = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree uint8_t *bytes = random_bytes(4 * MIB);
    autofd int fd = -1;

    if (mount("none", place->folder, "tmpfs", 0, "size=2m") < 0)
        skip();
    fd = make_image(place, 0);
    target = disk_target_open_file(fd, DISK_BYTES, NULL);
    assert_false(disk_target_write(target, 0, bytes, 4 * MIB, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NO_SPACE));
    assert_true(disk_target_zero(target, 0, 4 * MIB, NULL));
    assert_true(disk_target_write(target, 0, bytes, MIB, NULL));
}

static void test_read_only_file(void **state)
{
    Place *place = *state;
    autofd int writable = make_image(place, 0);
    autofd int fd = open(place->path, O_RDONLY | O_CLOEXEC);
    g_autoptr(GError) error = NULL;

    assert_null(disk_target_open_file(fd, DISK_BYTES, &error));
    assert_non_null(error);
}

/* ---- exports ---- */

static void test_export(void **state)
{
    Place *place = *state;
    autofd int fd = make_image(place, DISK_BYTES);
    g_autoptr(DiskTarget) target = NULL;
    g_autofree char *by_file = NULL, *by_export = NULL;

    if (!serve(place))
        skip();
    target = disk_target_open_export(place->socket, "disk", DISK_BYTES, NULL);
    assert_non_null(target);
    use_target(target, place);
    expect_range_checked(target);
    by_export = disk_digest_export(place->socket, "disk", NULL, NULL);
    by_file = digest_file(place, DISK_BYTES);
    assert_string_equal(by_export, by_file);
}

/* More than a request can hold; also a size that is no multiple of what is read at once. */
static void test_large_write_and_odd_size(void **state)
{
    Place *place = *state;
    uint64_t size = DISK_BYTES + 1536;
    autofd int fd = make_image(place, (off_t)size);
    g_autofree uint8_t *bytes = random_bytes(40 * MIB);
    g_autoptr(DiskTarget) target = NULL;
    g_autofree char *by_file = NULL, *by_export = NULL;

    if (!serve(place))
        skip();
    target = disk_target_open_export(place->socket, "disk", size, NULL);
    assert_non_null(target);
    assert_true(disk_target_write(target, size - 40 * MIB, bytes, 40 * MIB, NULL));
    assert_true(disk_target_flush(target, NULL));
    expect_content(place, size - 40 * MIB, bytes, 40 * MIB);
    by_export = disk_digest_export(place->socket, "disk", NULL, NULL);
    by_file = digest_file(place, size);
    assert_string_equal(by_export, by_file);
}

static void test_no_such_export(void **state)
{
    Place *place = *state;
    autofd int fd = make_image(place, DISK_BYTES);
    g_autoptr(GError) error = NULL;

    assert_null(disk_target_open_export(place->socket, "disk", DISK_BYTES, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    g_clear_error(&error);
    if (!serve(place))
        skip();
    assert_null(disk_target_open_export(place->socket, "other", DISK_BYTES, &error));
    assert_non_null(strstr(error->message, "other"));
    g_clear_error(&error);
    assert_null(disk_target_open_export(place->socket, "disk", DISK_BYTES + 512, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

static void test_cancelled_digest(void **state)
{
    Place *place = *state;
    autofd int fd = make_image(place, DISK_BYTES);
    g_autoptr(GError) error = NULL;
    gint cancelled = 1;

    if (!serve(place))
        skip();
    assert_null(disk_digest_export(place->socket, "disk", &cancelled, &error));
    assert_true(error_is(error, VMFERRY_ERROR_CANCELLED));
}

static void test_killed_server(void **state)
{
    Place *place = *state;
    autofd int fd = make_image(place, DISK_BYTES);
    g_autoptr(DiskTarget) target = NULL;
    g_autofree uint8_t *bytes = random_bytes(4096);

    if (!serve(place))
        skip();
    target = disk_target_open_export(place->socket, "disk", DISK_BYTES, NULL);
    assert_true(disk_target_write(target, 0, bytes, 4096, NULL));
    end_server(place);
    for (guint i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;

        assert_false(disk_target_write(target, 0, bytes, 4096, &error));
        assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
    }
    assert_false(disk_target_flush(target, NULL));
    assert_false(disk_target_flush(target, NULL));
}

static void test_full_export(void **state)
{
    Place *place = *state;
    g_autoptr(DiskTarget) target = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree uint8_t *bytes = random_bytes(4 * MIB);
    autofd int fd = -1;

    if (mount("none", place->folder, "tmpfs", 0, "size=2m") < 0)
        skip();
    fd = make_image(place, DISK_BYTES);
    if (!serve(place))
        skip();
    target = disk_target_open_export(place->socket, "disk", DISK_BYTES, NULL);
    assert_false(disk_target_write(target, 0, bytes, 4 * MIB, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NO_SPACE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_flushing_thread, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_file_system, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_read_only_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_export, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_large_write_and_odd_size, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_such_export, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancelled_digest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_server, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_export, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The storage process, with a real QEMU: the one that is installed, or VMFERRY_TEST_QEMU.
 */
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
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "disk/disk_target.h"
#include "disk/image_view.h"
#include "vmm/qemu/image_options.h"
#include "vmm/qemu/qmp.h"
#include "vmm/qemu/storage.h"
#include "vmm/vmm_driver.h"

#define MIB (1u << 20)
#define DISK_BYTES (64u * MIB)

typedef struct {
    char *folder, *images;
    char *program;
    uint64_t start_time;
    VmmStorage *storage;
} Place;

static char *find_qemu(void)
{
    const char *named = g_getenv("VMFERRY_TEST_QEMU");

    return g_find_program_in_path(named ? named : "qemu-system-x86_64");
}

static VmmStorage *start(const Place *place, GError **error)
{
    VmmStorageLaunch launch = {.program = place->program, .directory = place->folder};

    return vmm_driver_find("qemu", NULL)->open_storage(&launch, error);
}

/* Without a QEMU there is no storage, and each test skips itself. */
static int set_up(void **state)
{
    Place *place = g_new0(Place, 1);
    g_autoptr(GError) error = NULL;

    place->program = find_qemu();
    place->folder = g_dir_make_tmp("vmferry-storage-XXXXXX", NULL);
    place->images = g_build_filename(place->folder, "images", NULL);
    assert_int_equal(mkdir(place->images, 0700), 0);
    *state = place;
    if (!place->program)
        return 0;
    place->storage = start(place, &error);
    if (!place->storage)
        fail_msg("%s", error->message);
    return process_get_start_time(vmm_storage_get_pid(place->storage), &place->start_time, NULL)
               ? 0
               : -1;
}

static void remove_all(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *entry = g_build_filename(path, name, NULL);

        remove_all(entry);
    }
    if (dir)
        g_dir_close(dir);
    remove(path);
}

static void end_storage(Place *place)
{
    pid_t pid = place->storage ? vmm_storage_get_pid(place->storage) : 0;

    g_clear_pointer(&place->storage, vmm_storage_free);
    if (pid)
        assert_false(process_is_same(pid, place->start_time));
}

static int tear_down(void **state)
{
    Place *place = *state;

    end_storage(place);
    umount2(place->images, MNT_DETACH);
    remove_all(place->folder);
    g_free(place->folder);
    g_free(place->images);
    g_free(place->program);
    g_free(place);
    return 0;
}

static Place *get_place(void **state)
{
    Place *place = *state;

    if (!place->storage)
        skip();
    return place;
}

static char *make_file(const Place *place, const char *name)
{
    char *path = g_build_filename(place->images, name, NULL);
    autofd int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    return path;
}

static void check(gboolean ok, GError *error)
{
    if (!ok)
        fail_msg("%s", error ? error->message : "no error");
}

static gboolean create(Place *place, const char *path, const char *format, const char *options_text,
                       GError **error)
{
    g_autoptr(json_t) options =
        options_text ? json_parse_object(options_text, strlen(options_text), 65536, NULL) : NULL;
    VmmImageRequest request = {
        .path = path, .format = format, .bytes = DISK_BYTES, .options = options};

    return vmm_storage_create(place->storage, &request, error);
}

static void create_well(Place *place, const char *path, const char *format,
                        const char *options_text)
{
    g_autoptr(GError) error = NULL;

    check(create(place, path, format, options_text, &error), error);
}

static void open_well(Place *place, const char *path, const char *format, gboolean writable)
{
    g_autoptr(GError) error = NULL;

    check(vmm_storage_open_image(place->storage, "disk", path, format, writable, &error), error);
}

static void close_well(Place *place)
{
    g_autoptr(GError) error = NULL;

    check(vmm_storage_close_image(place->storage, "disk", &error), error);
}

static DiskTarget *open_target(Place *place)
{
    g_autofree char *socket = vmm_storage_get_socket(place->storage);
    g_autoptr(GError) error = NULL;
    DiskTarget *target = disk_target_open_export(socket, "disk", DISK_BYTES, &error);

    check(target != NULL, error);
    return target;
}

static uint8_t *random_bytes(size_t count)
{
    uint8_t *bytes = g_malloc(count);
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);

    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(g_rand_int(rand) | 1);
    return bytes;
}

/* 3 MiB and 4096 bytes of data; the rest is zeros, some of them written, some made. */
static void write_disk(DiskTarget *target)
{
    g_autofree uint8_t *bytes = random_bytes(4 * MIB);
    g_autofree uint8_t *zeros = g_malloc0(4 * MIB);
    g_autoptr(GError) error = NULL;

    check(disk_target_write(target, 8 * MIB, bytes, 4 * MIB, &error), error);
    check(disk_target_zero(target, 9 * MIB, MIB, &error), error);
    check(disk_target_write(target, 20 * MIB, zeros, 4 * MIB, &error), error);
    check(disk_target_write(target, DISK_BYTES - 4096, bytes, 4096, &error), error);
    check(disk_target_zero(target, 24 * MIB, 8 * MIB, &error), error);
    check(disk_target_flush(target, &error), error);
}

/* Of the same in a plain file. */
static char *reference_digest(Place *place)
{
    g_autofree char *path = make_file(place, "reference");
    autofd int fd = open(path, O_RDWR | O_CLOEXEC);
    g_autoptr(DiskTarget) target = disk_target_open_file(fd, DISK_BYTES, NULL);
    g_autoptr(ImageView) view = NULL;

    write_disk(target);
    view = image_view_open(path, NULL);
    return image_view_digest_content(view, DISK_BYTES, NULL, NULL);
}

static char *digest_image(Place *place, const char *path, const char *format)
{
    g_autofree char *socket = vmm_storage_get_socket(place->storage);
    g_autoptr(GError) error = NULL;
    char *digest;

    open_well(place, path, format, FALSE);
    digest = disk_digest_export(socket, "disk", NULL, &error);
    check(digest != NULL, error);
    close_well(place);
    return digest;
}

static uint64_t allocated_bytes(const char *path)
{
    struct stat info;

    assert_int_equal(stat(path, &info), 0);
    return (uint64_t)info.st_blocks * 512;
}

/* Makes, fills, closes, opens again and reads; *overhead*: of the format. */
static void expect_whole_way(Place *place, const char *format, const char *options,
                             uint64_t overhead)
{
    g_autofree char *path = make_file(place, "image");
    g_autofree char *wanted = reference_digest(place), *digest = NULL;
    DiskTarget *target;

    create_well(place, path, format, options);
    open_well(place, path, format, TRUE);
    target = open_target(place);
    write_disk(target);
    disk_target_free(target);
    close_well(place);
    digest = digest_image(place, path, format);
    assert_string_equal(digest, wanted);
    if (allocated_bytes(path) > 3 * MIB + 4096 + overhead)
        fail_msg("%llu bytes are allocated", (unsigned long long)allocated_bytes(path));
}

static void test_raw(void **state)
{
    expect_whole_way(get_place(state), "raw", NULL, 32768);
}

static void test_qcow2(void **state)
{
    expect_whole_way(get_place(state), "qcow2", NULL, 8 * 65536);
}

static void test_qcow2_v2(void **state)
{
    expect_whole_way(get_place(state), "qcow2",
                     "{\"version\":\"v2\",\"cluster-size\":4096,\"refcount-bits\":16}", 65536);
}

#define ALL_OPTIONS                                                                                \
    "{\"version\":\"v3\",\"cluster-size\":131072,\"refcount-bits\":64,\"lazy-refcounts\":true,"    \
    "\"extended-l2\":true,\"compression-type\":\"zstd\"}"

static void test_qcow2_with_all_options(void **state)
{
    expect_whole_way(get_place(state), "qcow2", ALL_OPTIONS, 12 * 131072);
}

/* What QEMU says of an image that was made by options must be those options. */
static json_t *ask_for_options(Place *place, const char *path)
{
    g_autofree char *command = g_strdup_printf("qemu-img info --output=json -U %s", path);
    g_autofree char *text = NULL;
    g_autoptr(json_t) info = NULL;
    g_autofree char *obstacle = NULL;
    json_t *options = NULL;

    if (!g_spawn_command_line_sync(command, &text, NULL, NULL, NULL))
        skip();
    info = json_parse_object(text, strlen(text), 65536, NULL);
    assert_true(qemu_image_options_from_info(info, &options, &obstacle));
    return options;
}

static void test_options_come_back(void **state)
{
    Place *place = get_place(state);
    g_autofree char *path = make_file(place, "image");
    g_autoptr(json_t) wanted = json_parse_object(ALL_OPTIONS, strlen(ALL_OPTIONS), 65536, NULL);
    g_autoptr(json_t) options = NULL;

    create_well(place, path, "qcow2", ALL_OPTIONS);
    options = ask_for_options(place, path);
    assert_true(json_equal(options, wanted));
}

static void test_backing_file(void **state)
{
    Place *place = get_place(state);
    g_autofree char *base = make_file(place, "base");
    g_autofree char *path = make_file(place, "image");
    g_autofree char *wanted = reference_digest(place), *digest = NULL;
    g_autofree uint8_t *bytes = random_bytes(4 * MIB);
    VmmImageRequest request = {.path = path,
                               .format = "qcow2",
                               .bytes = DISK_BYTES,
                               .backing = "base",
                               .backing_format = "raw"};
    DiskTarget *target;

    create_well(place, base, "raw", NULL);
    open_well(place, base, "raw", TRUE);
    target = open_target(place);
    assert_true(disk_target_write(target, 8 * MIB, bytes, 4 * MIB, NULL));
    assert_true(disk_target_write(target, 40 * MIB, bytes, 512, NULL));
    disk_target_free(target);
    close_well(place);

    assert_true(vmm_storage_create(place->storage, &request, NULL));
    open_well(place, path, "qcow2", TRUE);
    target = open_target(place);
    /* The same disk again, on top of another one. */
    assert_true(disk_target_zero(target, 9 * MIB, MIB, NULL));
    assert_true(disk_target_zero(target, 40 * MIB, 512, NULL));
    assert_true(disk_target_write(target, DISK_BYTES - 4096, bytes, 4096, NULL));
    disk_target_free(target);
    close_well(place);
    digest = digest_image(place, path, "qcow2");
    assert_string_equal(digest, wanted);
}

static void expect_not_made(Place *place, const char *path, const char *format, const char *options,
                            VmferryErrorCode code)
{
    g_autoptr(GError) error = NULL;

    assert_false(create(place, path, format, options, &error));
    if (!error_is(error, code))
        fail_msg("%s: %s", vmferry_error_code_name(error->code), error->message);
}

static void test_what_is_not_made(void **state)
{
    Place *place = get_place(state);
    g_autofree char *path = make_file(place, "image");
    VmmImageRequest request = {.path = path, .format = "qcow2", .bytes = UINT64_MAX};

    expect_not_made(place, path, "vmdk", NULL, VMFERRY_ERROR_UNSUPPORTED);
    expect_not_made(place, path, "qcow2", "{\"driver\":\"luks\"}", VMFERRY_ERROR_UNSUPPORTED);
    expect_not_made(place, path, "qcow2", "{\"data-file\":\"x\"}", VMFERRY_ERROR_UNSUPPORTED);
    expect_not_made(place, path, "qcow2", "{\"cluster-size\":1}", VMFERRY_ERROR_INVALID);
    expect_not_made(place, "image", "raw", NULL, VMFERRY_ERROR_INVALID);
    expect_not_made(place, "nbd:host:1", "raw", NULL, VMFERRY_ERROR_INVALID);
    expect_not_made(place, "/nowhere/image", "raw", NULL, VMFERRY_ERROR_FAILED);
    /* Only QEMU knows that these do not go together. */
    expect_not_made(place, path, "qcow2", "{\"cluster-size\":512,\"extended-l2\":true}",
                    VMFERRY_ERROR_FAILED);
    assert_false(vmm_storage_create(place->storage, &request, NULL));
    request.bytes = DISK_BYTES;
    request.backing = "base";
    assert_false(vmm_storage_create(place->storage, &request, NULL));
    /* None of these is in the way of one that is right. */
    create_well(place, path, "qcow2", NULL);
}

static void test_names(void **state)
{
    Place *place = get_place(state);
    g_autofree char *path = make_file(place, "image");
    g_autoptr(GError) error = NULL;

    create_well(place, path, "raw", NULL);
    open_well(place, path, "raw", TRUE);
    assert_false(vmm_storage_open_image(place->storage, "disk", path, "raw", FALSE, &error));
    assert_true(error_is(error, VMFERRY_ERROR_EXISTS));
    g_clear_error(&error);
    close_well(place);
    assert_false(vmm_storage_close_image(place->storage, "disk", &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    g_clear_error(&error);
    assert_false(vmm_storage_open_image(place->storage, "disk", path, "qcow2", TRUE, &error));
    assert_non_null(strstr(error->message, path));
    open_well(place, path, "raw", FALSE);
}

static void test_second_process_of_a_folder(void **state)
{
    Place *place = get_place(state);
    g_autoptr(GError) error = NULL;

    assert_null(start(place, &error));
    assert_true(error_is(error, VMFERRY_ERROR_EXISTS));
}

/* Nobody else may write to an image that is written to; it may be read when it is in use. */
static void test_locks(void **state)
{
    Place *place = get_place(state);
    g_autofree char *path = make_file(place, "image");
    g_autoptr(GError) error = NULL;

    create_well(place, path, "qcow2", NULL);
    open_well(place, path, "qcow2", TRUE);
    assert_false(vmm_storage_open_image(place->storage, "other", path, "qcow2", TRUE, &error));
    assert_true(error_is(error, VMFERRY_ERROR_BUSY));
    assert_true(vmm_storage_open_image(place->storage, "other", path, "qcow2", FALSE, NULL));
    assert_true(vmm_storage_close_image(place->storage, "other", NULL));
    close_well(place);
}

static void test_full_disk(void **state)
{
    Place *place = get_place(state);
    g_autofree uint8_t *bytes = random_bytes(4 * MIB);
    g_autofree char *path = NULL;
    g_autoptr(DiskTarget) target = NULL;
    g_autoptr(GError) error = NULL;

    if (mount("none", place->images, "tmpfs", 0, "size=2m") < 0)
        skip();
    path = make_file(place, "image");
    create_well(place, path, "qcow2", NULL);
    open_well(place, path, "qcow2", TRUE);
    target = open_target(place);
    assert_false(disk_target_write(target, 0, bytes, 4 * MIB, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NO_SPACE));
}

/* The file system has no room for even the metadata. */
static void test_full_disk_at_once(void **state)
{
    Place *place = get_place(state);
    g_autofree char *path = NULL;

    if (mount("none", place->images, "tmpfs", 0, "size=64k") < 0)
        skip();
    path = make_file(place, "image");
    expect_not_made(place, path, "qcow2", NULL, VMFERRY_ERROR_NO_SPACE);
}

/* The export ends under its client. */
static void test_close_with_clients(void **state)
{
    Place *place = get_place(state);
    g_autofree char *path = make_file(place, "image");
    g_autofree uint8_t *bytes = random_bytes(4096);
    g_autoptr(DiskTarget) target = NULL;

    create_well(place, path, "qcow2", NULL);
    open_well(place, path, "qcow2", TRUE);
    target = open_target(place);
    assert_true(disk_target_write(target, 0, bytes, 4096, NULL));
    close_well(place);
    assert_false(disk_target_write(target, 0, bytes, 4096, NULL));
    open_well(place, path, "qcow2", TRUE);
}

static void test_killed_process(void **state)
{
    Place *place = get_place(state);
    g_autofree char *path = make_file(place, "image");
    g_autofree uint8_t *bytes = random_bytes(4096);
    g_autoptr(DiskTarget) target = NULL;
    g_autoptr(GError) error = NULL;

    create_well(place, path, "raw", NULL);
    open_well(place, path, "raw", TRUE);
    target = open_target(place);
    assert_int_equal(kill(vmm_storage_get_pid(place->storage), SIGKILL), 0);
    assert_true(process_wait_gone(vmm_storage_get_pid(place->storage), place->start_time, 10000));
    assert_false(disk_target_write(target, 0, bytes, 4096, &error));
    assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
    g_clear_error(&error);
    assert_false(vmm_storage_close_image(place->storage, "disk", &error));
    assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
    assert_non_null(strstr(error->message, "has ended"));
}

static void test_what_is_left(void **state)
{
    Place *place = get_place(state);
    g_autofree char *path = make_file(place, "image");
    g_autofree char *socket = vmm_storage_get_socket(place->storage);
    g_autofree char *qmp = g_build_filename(place->folder, "sockets", "storage.qmp", NULL);

    create_well(place, path, "raw", NULL);
    open_well(place, path, "raw", TRUE);
    assert_true(g_file_test(socket, G_FILE_TEST_EXISTS));
    end_storage(place);
    assert_false(g_file_test(socket, G_FILE_TEST_EXISTS));
    assert_false(g_file_test(qmp, G_FILE_TEST_EXISTS));
}

static void test_no_program(void **state)
{
    Place *place = *state;
    VmmStorageLaunch launch = {.program = "/nowhere/qemu-system-x86_64",
                               .directory = place->folder};
    g_autoptr(GError) error = NULL;

    assert_null(qemu_storage_open(&launch, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
}

/* As its guest: another user owns the process, its sockets and the image. */
static void test_another_user(void **state)
{
    Place *place = get_place(state);
    g_autoptr(ProcessIdentity) identity =
        process_identity_read(getpid(), &(ProcessHabits){0}, NULL);
    g_autofree char *path = make_file(place, "image");
    g_autofree char *process = NULL;
    g_autoptr(GError) error = NULL;
    VmmStorageLaunch launch = {
        .program = place->program, .directory = place->folder, .process = identity};
    struct stat info;
    uint32_t uid = 0, gid = 0;

    if (geteuid() != 0 || !identity || !identity_find_user("nobody", &uid) ||
        !identity_find_group("nogroup", &gid))
        skip();
    g_free(identity->user.name);
    g_free(identity->group.name);
    identity->user = (IdentityOwner){uid, g_strdup("nobody")};
    identity->group = (IdentityOwner){gid, g_strdup("nogroup")};
    assert_int_equal(chown(path, uid, gid) + chown(place->images, uid, gid), 0);
    end_storage(place);
    place->storage = qemu_storage_open(&launch, &error);
    check(place->storage != NULL, error);
    assert_true(
        process_get_start_time(vmm_storage_get_pid(place->storage), &place->start_time, NULL));
    process = g_strdup_printf("/proc/%d", (int)vmm_storage_get_pid(place->storage));
    assert_int_equal(stat(process, &info), 0);
    assert_int_equal(info.st_uid, uid);
    create_well(place, path, "qcow2", NULL);
    open_well(place, path, "qcow2", TRUE);
    disk_target_free(open_target(place));
    close_well(place);
}

static char *make_script(const Place *place, const char *text)
{
    char *path = g_build_filename(place->folder, "qemu-script", NULL);

    assert_true(file_replace(path, text, strlen(text), FALSE, NULL));
    assert_int_equal(chmod(path, 0700), 0);
    return path;
}

/* A QEMU that was built without a sandbox is run without one; other failures are told. */
static void test_no_sandbox(void **state)
{
    Place *place = get_place(state);
    g_autofree char *text = g_strdup_printf(
        "#!/bin/sh\ncase \"$*\" in *-sandbox*)\n"
        "echo 'qemu-script: -sandbox support is not enabled in this QEMU binary' >&2; exit 1;;\n"
        "esac\nexec %s \"$@\"\n",
        place->program);
    g_autofree char *script = make_script(place, text);
    g_autofree char *failing = NULL;
    g_autoptr(GError) error = NULL;
    VmmStorageLaunch launch = {.program = script, .directory = place->folder};
    VmmStorage *storage;

    end_storage(place);
    storage = qemu_storage_open(&launch, &error);
    check(storage != NULL, error);
    vmm_storage_free(storage);
    failing = make_script(place, "#!/bin/sh\necho 'qemu-script: no such luck' >&2; exit 1\n");
    assert_null(qemu_storage_open(&launch, &error));
    assert_non_null(strstr(error->message, "no such luck"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_raw, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_qcow2, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_qcow2_v2, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_qcow2_with_all_options, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_options_come_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_backing_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_not_made, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_second_process_of_a_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_locks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_disk_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_close_with_clients, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_process, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_left, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_program, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_another_user, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_sandbox, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

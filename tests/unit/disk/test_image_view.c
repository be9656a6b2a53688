/* Two views of one file, and of two files that look alike. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "disk/image_address.h"
#include "disk/image_device.h"
#include "disk/image_reader.h"
#include "disk/image_view.h"

#define IMAGE_BYTES (1u << 20)

static char *make_file(const char *path)
{
    g_autofree char *content = g_malloc0(IMAGE_BYTES);

    memset(content + IMAGE_BYTES / 2, 'x', 4096);
    assert_true(g_file_set_contents(path, content, IMAGE_BYTES, NULL));
    return g_strdup(path);
}

static int set_up(void **state)
{
    char folder[] = "/tmp/vmferry-image-XXXXXX";

    assert_non_null(mkdtemp(folder));
    *state = g_strdup(folder);
    return 0;
}

static int tear_down(void **state)
{
    g_autofree char *folder = *state;
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        unlink(path);
    }
    g_dir_close(dir);
    rmdir(folder);
    return 0;
}

static char *in_folder(void **state, const char *name)
{
    g_autofree char *path = g_build_filename(*state, name, NULL);

    return make_file(path);
}

static void test_lock_shows_on_the_same_file(void **state)
{
    g_autofree char *path = in_folder(state, "a"), *other = in_folder(state, "b");
    g_autoptr(ImageView) here = image_view_open(path, NULL);
    g_autoptr(ImageView) there = image_view_open(path, NULL);
    g_autoptr(ImageView) copy = image_view_open(other, NULL);
    uint64_t offset = image_lock_offset();

    assert_true(offset > 1ULL << 49);
    assert_false(image_view_sees_lock(there, offset));
    assert_true(image_view_lock(here, offset, NULL));
    assert_true(image_view_sees_lock(there, offset));
    assert_false(image_view_sees_lock(there, offset + 1));
    assert_false(image_view_sees_lock(copy, offset));
    g_clear_pointer(&here, image_view_free);
    assert_false(image_view_sees_lock(there, offset));
}

/* A lock on more than the byte (by another program, on the whole file) is none. */
static void test_a_wide_lock_proves_nothing(void **state)
{
    g_autofree char *path = in_folder(state, "a");
    g_autoptr(ImageView) view = image_view_open(path, NULL);
    int fd = open(path, O_RDWR);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    assert_int_equal(fcntl(fd, F_OFD_SETLK, &whole), 0);
    assert_false(image_view_sees_lock(view, image_lock_offset()));
    close(fd);
}

static void test_token_shows_and_goes(void **state)
{
    g_autofree char *path = in_folder(state, "a");
    g_autoptr(ImageView) here = image_view_open(path, NULL);
    g_autoptr(ImageView) there = image_view_open(path, NULL);
    g_auto(ImageFacts) seen = {0};
    struct stat before, after;
    int64_t seconds;
    uint32_t milliseconds;
    char byte;

    assert_int_equal(stat(path, &before), 0);
    assert_true(image_view_set_token(here, &seconds, &milliseconds));
    assert_true(seconds > time(NULL) + 86400 && milliseconds < 1000);
    /* What reads the image meanwhile does not change it. */
    int fd = open(path, O_RDONLY);

    assert_int_equal(read(fd, &byte, 1), 1);
    close(fd);
    assert_true(image_view_get_facts(there, &seen, NULL));
    assert_int_equal(seen.token_s, seconds);
    assert_int_equal(seen.token_ms, milliseconds);
    g_clear_pointer(&here, image_view_free);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_atim.tv_sec, before.st_atim.tv_sec);
    assert_int_equal(after.st_atim.tv_nsec, before.st_atim.tv_nsec);
    assert_int_equal(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
}

static void test_facts(void **state)
{
    g_autofree char *path = in_folder(state, "a");
    g_autoptr(ImageView) view = image_view_open(path, NULL);
    g_auto(ImageFacts) facts = {0};

    assert_true(image_view_get_facts(view, &facts, NULL));
    assert_int_equal(facts.kind, IMAGE_KIND_FILE);
    assert_int_equal(facts.bytes, IMAGE_BYTES);
    assert_string_equal(facts.device_id, "");
}

static char *digest_of(const char *path, const uint64_t *offsets, guint count)
{
    g_autoptr(ImageView) view = image_view_open(path, NULL);
    char *digest = image_view_digest(view, offsets, count, NULL);

    assert_non_null(digest);
    assert_int_equal(strlen(digest), IMAGE_DIGEST_DIGITS);
    return digest;
}

static void write_at(const char *path, off_t offset)
{
    int fd = open(path, O_WRONLY);

    assert_int_equal(pwrite(fd, "changed", 7, offset), 7);
    close(fd);
}

static void test_samples(void **state)
{
    g_autofree char *path = in_folder(state, "a"), *copy = in_folder(state, "b");
    g_autoptr(ImageView) view = image_view_open(path, NULL);
    uint64_t offsets[IMAGE_SAMPLES_LIMIT];
    guint count = image_view_pick_samples(view, offsets);
    g_autofree char *here = digest_of(path, offsets, count);
    g_autofree char *same = digest_of(copy, offsets, count);
    g_autofree char *start = NULL, *end = NULL;

    assert_true(count > 32 && count <= IMAGE_SAMPLES_LIMIT);
    for (guint i = 0; i < count; i++)
        assert_true(offsets[i] % IMAGE_SAMPLE_BYTES == 0 && offsets[i] <= IMAGE_BYTES);
    assert_string_equal(here, same);
    write_at(copy, 100);
    start = digest_of(copy, offsets, count);
    assert_string_not_equal(start, same);
    write_at(copy, IMAGE_BYTES - 10);
    end = digest_of(copy, offsets, count);
    assert_string_not_equal(end, start);
}

/* Not a whole number of blocks, and places behind the end. */
static void test_odd_length(void **state)
{
    g_autofree char *path = in_folder(state, "a");
    uint64_t offsets[] = {0, 1ULL << 40, IMAGE_BYTES - 4096, 8};
    g_autofree char *first = NULL, *second = NULL;

    assert_int_equal(truncate(path, IMAGE_BYTES - 1000), 0);
    first = digest_of(path, offsets, 3);
    write_at(path, IMAGE_BYTES - 1100);
    second = digest_of(path, offsets, 3);
    assert_string_not_equal(first, second);
}

static char *content_of(const char *path, uint64_t bytes)
{
    g_autoptr(ImageView) view = image_view_open(path, NULL);

    return image_view_digest_content(view, bytes, NULL, NULL);
}

/* Every byte counts, wherever it is; holes and zeros are the same. */
static void test_content(void **state)
{
    g_autofree char *path = in_folder(state, "a"), *copy = in_folder(state, "b");
    g_autofree char *here = content_of(path, IMAGE_BYTES), *there = content_of(copy, IMAGE_BYTES);
    const off_t places[] = {0, 65536 - 3, 300000, IMAGE_BYTES - 7};

    assert_int_equal(strlen(here), IMAGE_DIGEST_DIGITS);
    assert_string_equal(here, there);
    for (guint i = 0; i < G_N_ELEMENTS(places); i++) {
        g_autofree char *other = NULL;

        write_at(copy, places[i]);
        other = content_of(copy, IMAGE_BYTES);
        assert_string_not_equal(other, there);
        g_free(there);
        there = g_steal_pointer(&other);
    }
    assert_null(content_of(path, IMAGE_BYTES + 1));
}

static void test_content_with_holes(void **state)
{
    g_autofree char *path = in_folder(state, "a"), *copy = in_folder(state, "b");
    g_autofree char *here = NULL, *there = NULL, *moved = NULL;
    const uint64_t bytes = (8u << 20) + 1234; /* neither whole pieces nor blocks */

    for (int i = 0; i < 2; i++) {
        const char *name = i ? copy : path;

        assert_int_equal(truncate(name, 0), 0);
        assert_int_equal(truncate(name, (off_t)bytes), 0);
        write_at(name, 5 << 20);
        write_at(name, (off_t)bytes - 7);
    }
    /* Zeros where the other one has a hole. */
    int fd = open(copy, O_WRONLY);
    g_autofree char *zeros = g_malloc0(2 << 20);

    assert_int_equal(pwrite(fd, zeros, 2 << 20, 1 << 20), 2 << 20);
    close(fd);
    here = content_of(path, bytes);
    there = content_of(copy, bytes);
    assert_string_equal(here, there);
    /* The same bytes at another place. */
    assert_int_equal(truncate(copy, 0), 0);
    assert_int_equal(truncate(copy, (off_t)bytes), 0);
    write_at(copy, 6 << 20);
    write_at(copy, (off_t)bytes - 7);
    moved = content_of(copy, bytes);
    assert_string_not_equal(moved, here);
}

static void test_reader(void **state)
{
    g_autofree char *path = in_folder(state, "a");
    g_autofree char *wanted = content_of(path, IMAGE_BYTES);
    g_autoptr(ImageReader) reader = image_reader_new();
    g_autoptr(ImageReader) unused = image_reader_new();
    gint64 end = g_get_monotonic_time() + 20 * G_USEC_PER_SEC;

    assert_int_equal(image_reader_add(reader, path, IMAGE_BYTES), 0);
    assert_int_equal(image_reader_add(reader, "/no/such/image", 5), 1);
    assert_int_equal(image_reader_add(reader, path, 5), 2);
    image_reader_start(reader, NULL, NULL);
    while (!image_reader_is_done(reader) && g_get_monotonic_time() < end)
        g_usleep(1000);
    assert_true(image_reader_is_done(reader));
    assert_string_equal(image_reader_get_digest(reader, 0), wanted);
    assert_null(image_reader_get_digest(reader, 1));
    assert_null(image_reader_get_digest(reader, 2));
}

/* ---- names and addresses ---- */

static void test_unique_names(void **unused)
{
    static const char *const unique[] = {"naa.600140512345678901234567890abcde",
                                         "naa.5000c500a1b2c3d4",
                                         "eui.0025385b71b0c3d4",
                                         "uuid.6ba7b810-9dad-11d1-80b4-00c04fd430c8",
                                         "mpath-3600140512345678901234567890abcde",
                                         "mpath-20025385b71b0c3d4",
                                         "mpath-eui.0025385b71b0c3d4"};
    static const char *const others[] = {
        "",
        "t10.ATA     QEMU HARDDISK                           QM00002",
        "QM00002",
        "LVM-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        "CRYPT-LUKS2-0123456789abcdef0123456789abcdef-x",
        "mpath-0QEMU_QEMU_HARDDISK_drive1",
        "mpath-1ATA_QEMU_HARDDISK_QM00002",
        "naa.",
        "naa.12",
        "naa.0000000000000000",
        "eui.0000000000000000",
        "eui.ffffffffffffffff",
        "uuid.00000000-0000-0000-0000-000000000000",
        "eui.5254000000000001",
        "mpath-eui.5254000000000001",
        "mpath-30000000000000000",
        "nvme.1b36-64656661756c74-51454d55-00000001",
        "naa.QM00002QM00002QM"};

    for (guint i = 0; i < G_N_ELEMENTS(unique); i++)
        assert_true(image_device_id_is_unique(unique[i]));
    for (guint i = 0; i < G_N_ELEMENTS(others); i++)
        assert_false(image_device_id_is_unique(others[i]));
}

static void put(const char *folder, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autofree char *above = g_path_get_dirname(path);

    assert_int_equal(g_mkdir_with_parents(above, 0700), 0);
    assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void check_id(const char *folder, const char *name, const char *wanted)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autofree char *id = image_device_find_id_in(path);

    assert_string_equal(id, wanted);
}

static void test_device_names(void **unused)
{
    char folder[] = "/tmp/vmferry-sysfs-XXXXXX";
    g_autofree char *command = NULL;

    assert_non_null(mkdtemp(folder));
    put(folder, "sda/device/wwid", "naa.5000c500a1b2c3d4\n");
    put(folder, "sda/sda2/partition", "2\n");
    put(folder, "sda/sda2/start", "2048\n");
    put(folder, "sdb/device/wwid", "t10.ATA     QEMU HARDDISK    QM00002\n");
    put(folder, "sdb/device/serial", "QM00002\n");
    put(folder, "nvme0n1/wwid", "uuid.6ba7b810-9dad-11d1-80b4-00c04fd430c8\n");
    /* A volume on a disk with a unique name, and one on a cloned disk. */
    put(folder, "dm-0/dm/uuid", "LVM-vgvgvglvlvlv\n");
    put(folder, "dm-0/slaves/sda/device/wwid", "naa.5000c500a1b2c3d4\n");
    put(folder, "dm-1/dm/uuid", "LVM-vgvgvglvlvlv\n");
    put(folder, "dm-1/slaves/sdb/device/wwid", "t10.ATA     QEMU HARDDISK    QM00002\n");
    put(folder, "dm-1/slaves/sda/device/wwid", "naa.5000c500a1b2c3d4\n");
    put(folder, "dm-2/dm/uuid", "LVM-vgvgvglvlvlv\n");
    check_id(folder, "sda", "naa.5000c500a1b2c3d4");
    check_id(folder, "sda/sda2", "naa.5000c500a1b2c3d4 partition 2 at 2048");
    check_id(folder, "sdb", "");
    check_id(folder, "nvme0n1", "uuid.6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    check_id(folder, "dm-0", "LVM-vgvgvglvlvlv on naa.5000c500a1b2c3d4");
    check_id(folder, "dm-1", "");
    check_id(folder, "dm-2", "");
    check_id(folder, "none", "");
    command = g_strdup_printf("rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

static void test_addresses(void **unused)
{
    static const char *const for_all[] = {"nbd://10.0.0.9/disk",
                                          "nbd://10.0.0.9:10809/disk",
                                          "nbds://store/x",
                                          "rbd:pool/image",
                                          "rbd:pool/image:mon_host=10.0.0.1",
                                          "iscsi://user%pw@san.example/iqn.x/1",
                                          "https://mirror.example/a.iso",
                                          "http://u@[2001:db8::1]:80/a",
                                          "ssh://root@store/srv/a",
                                          "gluster://g1/vol/a",
                                          "gluster+tcp://g1/vol/a",
                                          "nfs://store/export/a?uid=0"};
    static const char *const others[] = {"",
                                         "/srv/a",
                                         "nbd+unix:///x?socket=/run/s",
                                         "nbd://localhost/x",
                                         "nbd://LocalHost:1/x",
                                         "nbd://127.0.0.1/x",
                                         "nbd://127.1/x",
                                         "nbd://[::1]/x",
                                         "nbd://[::ffff:127.0.0.1]/x",
                                         "nbd://0.0.0.0/x",
                                         "nbd:///x",
                                         "nfs:///export/a",
                                         "gluster+unix:///vol/a?socket=s",
                                         "nvme://0000:01:00.0/1",
                                         "json:{\"driver\":\"nbd\"}",
                                         "file:///srv/a",
                                         "nbd://[fe80::1%eth0]/x",
                                         "rbd:pool/image:mon_host=127.0.0.1\\:6789",
                                         "http://localhost.localdomain/a",
                                         "ssh://me@localhost/a",
                                         "nbd://a.localhost./x",
                                         "vitastor://1",
                                         "://x/y",
                                         "fuse://x/y"};

    for (guint i = 0; i < G_N_ELEMENTS(for_all); i++)
        assert_true(image_address_is_for_all(for_all[i]));
    for (guint i = 0; i < G_N_ELEMENTS(others); i++)
        assert_false(image_address_is_for_all(others[i]));
}

static void test_what_is_no_image(void **state)
{
    g_autoptr(GError) folder = NULL, missing = NULL;

    assert_null(image_view_open(*state, &folder));
    assert_non_null(strstr(folder->message, "neither a file nor a block device"));
    assert_null(image_view_open("/no/such/image", &missing));
    assert_true(error_is(missing, VMFERRY_ERROR_NOT_FOUND));
    image_view_free(NULL);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_lock_shows_on_the_same_file),
        IN_FOLDER(test_a_wide_lock_proves_nothing),
        IN_FOLDER(test_token_shows_and_goes),
        IN_FOLDER(test_facts),
        IN_FOLDER(test_samples),
        IN_FOLDER(test_odd_length),
        IN_FOLDER(test_content),
        IN_FOLDER(test_content_with_holes),
        IN_FOLDER(test_reader),
        cmocka_unit_test(test_unique_names),
        cmocka_unit_test(test_device_names),
        cmocka_unit_test(test_addresses),
        IN_FOLDER(test_what_is_no_image),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

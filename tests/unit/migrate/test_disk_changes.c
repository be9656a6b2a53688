/*
 * What has changed of disks since an image, against a real QEMU
 *
 * Without QEMU (disk_guest.h) or qemu-nbd, with which images are made, the tests are skipped.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/unix_socket.h"
#include "disk_guest.h"
#include "migrate/disk_base.h"
#include "migrate/disk_changes.h"

#define TRANSACTION "0123456789abcdef0123456789abcdef"
#define BASE_BITMAP VMM_BITMAP_PREFIX "0-base"

typedef struct {
    const char *options; /* of QEMU */
    const char *drive;   /* what qemu-io writes to */
} Shape;

static const Shape shapes[] = {
    {" -drive file=@disk,format=qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0,id=disk0",
     "d0"},
    {" -blockdev driver=file,node-name=f,filename=@disk -blockdev driver=qcow2,node-name=q,file=f "
     "-device "
     "virtio-blk-pci,drive=q,id=disk0",
     "-d /machine/peripheral/disk0/virtio-backend"},
    {" -object iothread,id=io -drive file=@disk,format=qcow2,if=none,id=d0,cache=none -device "
     "virtio-blk-pci,drive=d0,iothread=io,id=disk0",
     "d0"},
};

/* ---- a copy that is kept up ---- */

typedef struct {
    const Shape *shape;
    Guest guest;
    json_t *graph; /* before anything of ours */
    GPtrArray *disks;
    char *folder;
    int copy; /* raw, of before the base's bitmap */
    uint64_t written;
    gboolean writes; /* the guest, while the first piece is on its way */
} Scene;

static gboolean on_write(guint number, uint64_t offset, const uint8_t *data, size_t length,
                         gpointer user, GError **error)
{
    Scene *scene = user;

    assert_int_equal(number, 7);
    assert_int_equal(pwrite(scene->copy, data, length, (off_t)offset), length);
    scene->written += length;
    if (scene->writes)
        guest_writes(&scene->guest, scene->shape->drive, 99, "0 4k");
    scene->writes = FALSE;
    return TRUE;
}

static VmmDisk *disk_of(const Scene *scene)
{
    return scene->disks->pdata[0];
}

static Scene begin_scene(const Shape *shape)
{
    g_autofree char *copy = path_of("copy");
    Scene scene = {.shape = shape, .folder = path_of("")};
    GError *error = NULL;

    make_image("disk", "qcow2", "");
    fill_image("disk", "qcow2");
    assert_int_equal(run("qemu-img convert -O raw @disk @copy"), 0);
    scene.copy = open(copy, O_RDWR | O_CLOEXEC);
    scene.guest = start(shape->options);
    scene.graph = query_graph(&scene.guest);
    scene.disks = vmm_list_disks(scene.guest.vmm, &error);
    must(scene.disks != NULL, &error);
    must(vmm_begin_bitmap(scene.guest.vmm, disk_of(&scene)->node, BASE_BITMAP, &error), &error);
    return scene;
}

static DiskChanges *open_changes(Scene *scene, const char *bitmap)
{
    const DiskChangesOptions options = {scene->guest.vmm, TRANSACTION, scene->folder, on_write,
                                        scene};
    GError *error = NULL;
    DiskChanges *changes = disk_changes_new(&options, &error);

    must(changes != NULL, &error);
    disk_changes_add(changes, 7, disk_of(scene)->node, DISK_BYTES, bitmap);
    return changes;
}

static uint64_t send_round(DiskChanges *changes, gboolean last)
{
    GError *error = NULL;
    uint64_t bytes;

    must(disk_changes_send(changes, last, &bytes, &error), &error);
    return bytes;
}

/* Nothing of it is left in QEMU but these bitmaps. */
static void expect_bitmaps(Scene *scene, const char *first, const char *second)
{
    g_autoptr(GPtrArray) names = vmm_list_bitmaps(scene->guest.vmm, disk_of(scene)->node, NULL);
    guint count = (first != NULL) + (second != NULL);

    assert_non_null(names);
    assert_int_equal(names->len, count);
    if (first)
        assert_string_equal(names->pdata[0], first);
    if (second)
        assert_string_equal(names->pdata[1], second);
}

static void end_scene(Scene *scene, gboolean compares)
{
    g_autoptr(GPtrArray) names = vmm_list_bitmaps(scene->guest.vmm, disk_of(scene)->node, NULL);

    for (guint i = 0; i < names->len; i++)
        disk_bitmap_drop(scene->guest.vmm, disk_of(scene), names->pdata[i]);
    expect_graph(&scene->guest, scene->graph);
    json_decref(scene->graph);
    g_ptr_array_unref(scene->disks);
    end(&scene->guest);
    fd_close(&scene->copy);
    if (compares)
        expect_equal("disk", "qcow2", "copy", "raw");
    g_free(scene->folder);
}

/* ---- tests ---- */

static void try_rounds(const Shape *shape)
{
    Scene scene = begin_scene(shape);
    DiskChanges *changes;
    GError *error = NULL;
    g_autofree char *next = NULL;

    guest_writes(&scene.guest, shape->drive, 1, "0 64k");
    guest_writes(&scene.guest, shape->drive, 2, "5M 1500k");
    guest_writes(&scene.guest, shape->drive, 0, "1M 64k");
    changes = open_changes(&scene, BASE_BITMAP);
    scene.writes = TRUE;
    assert_int_equal(send_round(changes, FALSE), (64 + 64 + 1536) << 10);
    /* That write came while its range was on its way, or had been read. */
    guest_writes(&scene.guest, shape->drive, 3, "9M 4k");
    assert_int_equal(send_round(changes, FALSE), 128 << 10);
    assert_int_equal(send_round(changes, FALSE), 0);
    guest_writes(&scene.guest, shape->drive, 4, "15M 1M");
    must(vmm_pause(scene.guest.vmm, NULL, &error), &error);
    assert_int_equal(send_round(changes, TRUE), 1 << 20);
    next = disk_bitmap_begin(scene.guest.vmm, disk_of(&scene), TRANSACTION, &error);
    must(next != NULL, &error);
    disk_changes_free(changes);
    expect_bitmaps(&scene, BASE_BITMAP, next);
    end_scene(&scene, TRUE);
}

static void test_rounds(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++) {
        try_rounds(&shapes[i]);
        assert_int_equal(run("rm @disk @copy"), 0);
    }
}

/* The base's bitmap has all of it still. */
static void test_given_up_and_begun_anew(void **unused)
{
    Scene scene = begin_scene(&shapes[0]);
    DiskChanges *changes;
    uint64_t bytes;

    guest_writes(&scene.guest, scene.shape->drive, 1, "0 64k");
    changes = open_changes(&scene, BASE_BITMAP);
    send_round(changes, FALSE);
    disk_changes_free(changes);
    guest_writes(&scene.guest, scene.shape->drive, 2, "1M 64k");
    changes = open_changes(&scene, BASE_BITMAP);
    bytes = send_round(changes, TRUE);
    assert_int_equal(bytes, 128 << 10);
    disk_changes_free(changes);
    expect_bitmaps(&scene, BASE_BITMAP, NULL);
    end_scene(&scene, TRUE);
}

/* The two newest stay. */
static void test_bitmaps_go_in_time(void **unused)
{
    Scene scene = begin_scene(&shapes[0]);
    char *names[3];

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        GError *error = NULL;

        names[i] = disk_bitmap_begin(scene.guest.vmm, disk_of(&scene), TRANSACTION, &error);
        must(names[i] != NULL, &error);
        g_usleep(2);
    }
    disk_bitmap_keep_newest(scene.guest.vmm, disk_of(&scene));
    expect_bitmaps(&scene, names[1], names[2]);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        g_free(names[i]);
    end_scene(&scene, FALSE);
}

/* A guest with such bitmaps may be moved: they are not missed. */
static void test_machine_may_be_moved(void **unused)
{
    Scene scene = begin_scene(&shapes[0]);
    char **line;
    json_t *machine = read_machine(&scene.guest, &line);

    expect_unchanged(&scene.guest, machine, line);
    json_decref(machine);
    g_strfreev(line);
    end_scene(&scene, FALSE);
}

/* What it left is removed when QEMU is adopted. */
static void test_killed_agent(void **unused)
{
    Scene scene = begin_scene(&shapes[0]);
    g_autofree char *path = path_of("left.sock");
    autofd int listener = unix_socket_listen(path, 1, NULL);
    const VmmChanges wanted = {disk_of(&scene)->node, VMM_CHANGES_PREFIX "1", BASE_BITMAP, TRUE,
                               VMM_CHANGES_PREFIX "2"};
    GError *error = NULL;
    g_autofree char *context = NULL;
    DiskChanges *changes;

    must(vmm_start_exports(scene.guest.vmm, listener, &error), &error);
    context = vmm_export_changes(scene.guest.vmm, &wanted, &error);
    must(context != NULL, &error);
    assert_string_equal(context, "qemu:dirty-bitmap:" VMM_CHANGES_PREFIX "1");
    vmm_free(scene.guest.vmm);
    scene.guest.vmm = qemu_reattach(scene.guest.identity, &error);
    must(scene.guest.vmm != NULL, &error);
    changes = open_changes(&scene, BASE_BITMAP);
    disk_changes_free(changes);
    expect_bitmaps(&scene, BASE_BITMAP, NULL);
    end_scene(&scene, FALSE);
}

/* Another program's exports are left alone. */
static void test_server_of_another_program(void **unused)
{
    Scene scene = begin_scene(&shapes[0]);
    g_autofree char *path = path_of("other.sock");
    const DiskChangesOptions options = {scene.guest.vmm, TRANSACTION, scene.folder, on_write,
                                        &scene};
    GError *error = NULL;

    must(qmp_run(scene.guest.qmp, "nbd-server-start",
                 json_pack("{s:{s:s, s:{s:s}}}", "addr", "type", "unix", "data", "path", path),
                 WAIT_MS, &error),
         &error);
    assert_null(disk_changes_new(&options, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "already");
    error = NULL;
    must(qmp_run(scene.guest.qmp, "nbd-server-stop", NULL, WAIT_MS, &error), &error);
    end_scene(&scene, FALSE);
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
        QEMU_TEST(test_rounds),
        QEMU_TEST(test_given_up_and_begun_anew),
        QEMU_TEST(test_bitmaps_go_in_time),
        QEMU_TEST(test_machine_may_be_moved),
        QEMU_TEST(test_killed_agent),
        QEMU_TEST(test_server_of_another_program),
    };

    if (!qemu_guest_is_there())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

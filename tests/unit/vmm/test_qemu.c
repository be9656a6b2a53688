/*
 * The driver against a real QEMU
 *
 * Machines without an operating system: firmware is guest enough for most of
 * it.  VMFERRY_TEST_QEMU names the QEMU to use ("PROGRAM [OPTION…]"); without
 * it and without qemu-system-x86_64 the tests are skipped.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/process.h"
#include "vmm/qemu/qemu.h"
#include "vmm/qemu/qmp.h"

#define MACHINE " -nodefaults -display none -M pc -m 32 -vga std"

static char *qemu; /* program and options */
static char *folder;
static char *disk;         /* an image there */
static GPtrArray *started; /* of QemuIdentity, by this test */

static void expect_text(GError *error, VmferryErrorCode code, const char *text)
{
    assert_non_null(error);
    if (!strstr(error->message, text) || !error_is(error, code))
        fail_msg("\"%s\" (%s) does not hold \"%s\"", error->message,
                 vmferry_error_code_name(error->code), text);
    g_error_free(error);
}

static Vmm *try_launch(const char *name, gboolean incoming, const char *options, GError **error)
{
    g_autofree char *line = g_strdup_printf("%s%s", qemu, options);
    g_auto(GStrv) argv = g_strsplit(line, " ", -1);
    QemuLaunch launch = {
        .name = name, .command_line = argv, .directory = folder, .incoming = incoming};

    return qemu_launch(&launch, error);
}

static Vmm *launch(const char *name, gboolean incoming, const char *options)
{
    GError *error = NULL;
    Vmm *vmm = try_launch(name, incoming, options, &error);

    if (error)
        fail_msg("launch: %s", error->message);
    g_ptr_array_add(started, qemu_get_identity(vmm));
    return vmm;
}

static void end(Vmm *vmm)
{
    assert_true(vmm_quit(vmm, NULL));
    vmm_free(vmm);
}

static VmmRunState run_state(Vmm *vmm)
{
    VmmRunState state = VMM_RUN_STATE_FAILED;

    assert_true(vmm_get_run_state(vmm, &state, NULL));
    return state;
}

static void must(gboolean ok, GError *error)
{
    if (!ok)
        fail_msg("%s", error->message);
}

/* Copies every region; those with a proof must have the same one. */
static void copy_ram(Vmm *from, Vmm *to)
{
    g_autoptr(VmmDescription) source = vmm_describe(from, NULL);
    g_autoptr(VmmDescription) destination = vmm_describe(to, NULL);

    assert_non_null(source);
    assert_non_null(destination);
    assert_int_equal(source->ram_regions->len, destination->ram_regions->len);
    for (guint i = 0; i < source->ram_regions->len; i++) {
        RamRegion *a = source->ram_regions->pdata[i], *b = destination->ram_regions->pdata[i];
        g_autofree char *buffer = g_malloc(a->bytes);
        struct iovec local = {buffer, a->bytes};
        struct iovec there = {(void *)(uintptr_t)a->host_address, a->bytes};
        struct iovec here = {(void *)(uintptr_t)b->host_address, b->bytes};

        assert_string_equal(a->name, b->name);
        assert_int_equal(a->bytes, b->bytes);
        assert_null(a->proof);
        assert_int_equal(process_vm_readv(vmm_get_pid(from), &local, 1, &there, 1, 0), a->bytes);
        assert_int_equal(process_vm_writev(vmm_get_pid(to), &local, 1, &here, 1, 0), a->bytes);
    }
}

static char *with_disk(const char *more)
{
    return g_strdup_printf(MACHINE " -drive file=%s,format=raw,if=virtio%s", disk, more);
}

static void test_description(void **unused)
{
    Vmm *vmm = launch("a", FALSE, MACHINE " -smp 2 -device virtio-net-pci -device virtio-net-pci");
    GError *error = NULL;
    g_autoptr(VmmDescription) description = vmm_describe(vmm, &error);

    must(description != NULL, error);
    assert_string_equal(description->kind, "qemu");
    assert_string_equal(description->accelerator, "tcg");
    assert_true(g_str_has_prefix(description->machine, "pc-i440fx-"));
    assert_int_equal(description->vcpus, 2);
    assert_true(description->memory_bytes == 32 << 20);
    for (guint i = 0; i < description->ram_regions->len; i++) {
        RamRegion *region = description->ram_regions->pdata[i];

        if (region->host_address == 0)
            fail_msg("%s has no address", region->name);
    }
    end(vmm);
}

/* What is at the address is what QEMU itself shows of it. */
static void test_addresses_are_right(void **unused)
{
    Vmm *vmm = launch("a", FALSE, MACHINE);
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    g_autoptr(QemuIdentity) identity = qemu_get_identity(vmm);
    g_autofree char *dump = g_strdup_printf("%s/dump", folder);
    g_autofree char *shown = NULL;
    RamRegion *ram = description->ram_regions->pdata[0];
    g_autofree char *line = g_strdup_printf("pmemsave 0 0x2000000 \"%s\"", dump);
    g_autofree char *read = g_malloc(32 << 20);
    struct iovec local = {read, 32 << 20};
    struct iovec remote = {(void *)(uintptr_t)ram->host_address, 32 << 20};
    g_autoptr(Qmp) qmp = NULL;
    size_t length;
    int pid;

    assert_string_equal(ram->name, "pc.ram");
    assert_true(vmm_pause(vmm, NULL, NULL));
    pid = vmm_get_pid(vmm);
    vmm_free(vmm);
    qmp = qmp_connect(identity->qmp_path, 5000, NULL);
    g_free(qmp_execute_human(qmp, line, 10000, NULL));
    assert_int_equal(process_vm_readv(pid, &local, 1, &remote, 1, 0), 32 << 20);
    shown = file_read(dump, 64 << 20, &length, NULL);
    assert_int_equal(length, 32 << 20);
    assert_memory_equal(shown, read, 0xa0000);
    assert_memory_equal(shown + (1 << 20), read + (1 << 20), 31 << 20);
    g_clear_pointer(&qmp, qmp_free);
    vmm = qemu_reattach(identity, NULL);
    assert_non_null(vmm);
    end(vmm);
}

static void test_move_with_a_shared_image(void **unused)
{
    g_autofree char *options = with_disk(" -device virtio-net-pci -device virtio-net-pci");
    Vmm *a = launch("a", FALSE, options), *b = launch("b", TRUE, options);
    g_autoptr(GBytes) state = NULL;
    GError *error = NULL;

    assert_int_equal(run_state(b), VMM_RUN_STATE_INCOMING);
    assert_false(vmm_resume(b, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "still waits for its state");
    error = NULL;
    must(vmm_check_movable(a, &error), error);
    must(vmm_pause(a, NULL, &error), error);
    assert_int_equal(run_state(a), VMM_RUN_STATE_PAUSED);
    copy_ram(a, b);
    state = vmm_save_device_state(a, &error);
    must(state != NULL, error);
    must(vmm_load_device_state(b, state, &error), error);
    assert_int_equal(run_state(b), VMM_RUN_STATE_PAUSED);
    must(vmm_resume(b, &error), error);
    assert_int_equal(run_state(b), VMM_RUN_STATE_RUNNING);
    must(vmm_announce(b, &error), error);

    /* The image is b's now. */
    assert_false(vmm_resume(a, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "lock");
    end(a);
    end(b);
}

/* Not moved: the source goes on, as if nothing had been. */
static void test_source_resumes_after_a_save(void **unused)
{
    g_autofree char *options = with_disk("");
    Vmm *a = launch("a", FALSE, options);
    GError *error = NULL;

    for (int i = 0; i < 2; i++) {
        g_autoptr(GBytes) state = NULL;

        assert_null(vmm_save_device_state(a, &error));
        expect_text(error, VMFERRY_ERROR_FAILED, "from a paused guest");
        error = NULL;
        must(vmm_pause(a, NULL, &error), error);
        state = vmm_save_device_state(a, &error);
        must(state != NULL, error);
        assert_null(vmm_save_device_state(a, &error));
        expect_text(error, VMFERRY_ERROR_FAILED, "released its disk images");
        error = NULL;
        must(vmm_resume(a, &error), error);
        assert_int_equal(run_state(a), VMM_RUN_STATE_RUNNING);
    }
    end(a);
}

/* A restarted agent does not know of the save; the image's locks tell. */
static void test_released_images_are_noticed(void **unused)
{
    g_autofree char *options = with_disk("");
    Vmm *a = launch("a", FALSE, options);
    g_autoptr(QemuIdentity) identity = qemu_get_identity(a);
    g_autoptr(GBytes) state = NULL;
    GError *error = NULL;

    must(vmm_pause(a, NULL, &error), error);
    vmm_free(a);
    a = qemu_reattach(identity, &error);
    must(a != NULL, error);
    must(vmm_check_movable(a, &error), error);
    state = vmm_save_device_state(a, &error);
    must(state != NULL, error);
    vmm_free(a);
    a = qemu_reattach(identity, &error);
    must(a != NULL, error);
    assert_false(vmm_check_movable(a, &error));
    expect_text(error, VMFERRY_ERROR_REFUSED, "does not hold its disk images");
    error = NULL;
    assert_null(vmm_save_device_state(a, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "released its disk images");
    error = NULL;
    must(vmm_resume(a, &error), error);
    must(vmm_check_movable(a, &error), error);
    end(a);
}

static void test_adoption(void **unused)
{
    g_autofree char *options =
        g_strdup_printf(MACHINE " -qmp unix:%s/own.sock,server=on,wait=off", folder);
    g_autofree char *line = g_strdup_printf("%s%s", qemu, options);
    Vmm *a = launch("a", FALSE, options), *adopted;
    pid_t pid = vmm_get_pid(a);
    g_autoptr(QemuIdentity) identity = NULL;
    g_autofree char *got = NULL;
    GError *error = NULL;

    /* Ours is busy, but there is another one. */
    adopted = qemu_adopt(pid, NULL, &error);
    must(adopted != NULL, error);
    identity = qemu_get_identity(adopted);
    got = g_strjoinv(" ", identity->command_line);
    assert_non_null(strstr(got, options));
    assert_null(strstr(got, "vmferry-qmp"));
    assert_null(qemu_adopt(pid, NULL, &error));
    expect_text(error, VMFERRY_ERROR_BUSY, "is busy: another program is connected to it");
    vmm_free(a);
    end(adopted);
}

static void test_socket_of_another_machine(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE), *b = launch("b", FALSE, MACHINE);
    g_autoptr(QemuIdentity) identity = qemu_get_identity(b);
    pid_t pid = vmm_get_pid(a);
    GError *error = NULL;

    vmm_free(b);
    assert_null(qemu_adopt(pid, identity->qmp_path, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "belongs to another process");
    error = NULL;
    b = qemu_reattach(identity, &error);
    must(b != NULL, error);
    end(a);
    end(b);
}

static void test_missing_image(void **unused)
{
    GError *error = NULL;

    assert_null(try_launch("a", TRUE, MACHINE " -drive file=/nonexistent.qcow2,if=virtio", &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "Could not open '/nonexistent.qcow2'");
    error = NULL;
    assert_null(try_launch("a", TRUE, " -M nonesuch -display none", &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "unsupported machine type");
}

static GBytes *state_of_a_paused(Vmm *a)
{
    GError *error = NULL;
    GBytes *state;

    must(vmm_pause(a, NULL, &error), error);
    state = vmm_save_device_state(a, &error);
    must(state != NULL, error);
    return state;
}

static void test_state_of_another_machine(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE);
    Vmm *b = launch("b", TRUE, " -nodefaults -display none -M q35 -m 32");
    Vmm *c = launch("c", TRUE, " -nodefaults -display none -M pc -m 32 -device virtio-rng-pci");
    g_autoptr(GBytes) state = state_of_a_paused(a);
    GError *error = NULL;

    assert_false(vmm_load_device_state(b, state, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "the guest is of machine type pc-i440fx");
    error = NULL;
    /* QEMU says why, and ends. */
    assert_false(vmm_load_device_state(c, state, &error));
    expect_text(error, VMFERRY_ERROR_DISCONNECTED, "load of migration failed");
    assert_int_equal(run_state(c), VMM_RUN_STATE_GONE);
    end(a);
    end(b);
    end(c);
}

static void test_cut_and_broken_states(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE), *b = launch("b", TRUE, MACHINE);
    g_autoptr(GBytes) state = state_of_a_paused(a);
    g_autoptr(GBytes) cut = g_bytes_new_from_bytes(state, 0, g_bytes_get_size(state) / 2);
    g_autoptr(GByteArray) broken = g_byte_array_new();
    g_autoptr(GBytes) broken_bytes = NULL;
    GError *error = NULL;

    assert_false(vmm_load_device_state(b, cut, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "its end is missing");
    error = NULL;
    g_byte_array_append(broken, g_bytes_get_data(state, NULL), (guint)g_bytes_get_size(state));
    memset(broken->data + broken->len / 2, 0xff, 4096);
    broken_bytes = g_byte_array_free_to_bytes(g_steal_pointer(&broken));
    assert_false(vmm_load_device_state(b, broken_bytes, &error));
    g_clear_error(&error);
    end(a);
    end(b);
}

static void test_killed(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE);
    GError *error = NULL;

    kill(vmm_get_pid(a), SIGKILL);
    assert_false(vmm_pause(a, NULL, &error));
    expect_text(error, VMFERRY_ERROR_DISCONNECTED, "QEMU has ended");
    assert_int_equal(run_state(a), VMM_RUN_STATE_GONE);
    end(a);
}

/* QEMU outlives its Vmm, and a stopped one is ended all the same. */
static void test_quit_of_a_hanging_qemu(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE);
    g_autoptr(QemuIdentity) identity = qemu_get_identity(a);

    kill(identity->pid, SIGSTOP);
    end(a);
    assert_false(process_is_same(identity->pid, identity->start_time));
    assert_int_not_equal(access(identity->qmp_path, F_OK), 0);
}

static void test_blockers(void **unused)
{
    g_autofree char *options =
        g_strdup_printf(MACHINE " -drive file=fat:rw:%s,if=none,id=d,format=raw", folder);
    Vmm *a = launch("a", FALSE, options);
    GError *error = NULL;

    assert_false(vmm_check_movable(a, &error));
    expect_text(error, VMFERRY_ERROR_UNSUPPORTED, "QEMU says that this guest cannot move: ");
    end(a);
}

static int forget_started(void **unused)
{
    started = g_ptr_array_new_with_free_func((GDestroyNotify)qemu_identity_free);
    return 0;
}

/* A test that failed leaves machines behind. */
static int end_started(void **unused)
{
    for (guint i = 0; i < started->len; i++) {
        const QemuIdentity *identity = started->pdata[i];

        (void)process_kill(identity->pid, identity->start_time, SIGKILL, NULL);
        (void)process_wait_gone(identity->pid, identity->start_time, 10000);
    }
    g_ptr_array_unref(started);
    return 0;
}

static void test_name_in_use(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE);
    GError *error = NULL;

    assert_null(try_launch("a", TRUE, MACHINE, &error));
    expect_text(error, VMFERRY_ERROR_EXISTS, "a QEMU of this name runs already");
    end(a);
}

static char *find_qemu(void)
{
    const char *wanted = g_getenv("VMFERRY_TEST_QEMU");

    return wanted ? g_strdup(wanted) : g_find_program_in_path("qemu-system-x86_64");
}

static void make_disk(void)
{
    g_autofree char *data = g_malloc0(1 << 20);

    disk = g_strdup_printf("%s/disk.raw", folder);
    assert_true(file_replace(disk, data, 1 << 20, FALSE, NULL));
}

static int set_up(void **unused)
{
    folder = g_dir_make_tmp("vmferry-test-XXXXXX", NULL);
    make_disk();
    return 0;
}

static int tear_down(void **unused)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", folder);

    return system(command);
}

#define QEMU_TEST(name) cmocka_unit_test_setup_teardown(name, forget_started, end_started)

int main(void)
{
    const struct CMUnitTest tests[] = {
        QEMU_TEST(test_description),
        QEMU_TEST(test_addresses_are_right),
        QEMU_TEST(test_move_with_a_shared_image),
        QEMU_TEST(test_source_resumes_after_a_save),
        QEMU_TEST(test_released_images_are_noticed),
        QEMU_TEST(test_adoption),
        QEMU_TEST(test_socket_of_another_machine),
        QEMU_TEST(test_missing_image),
        QEMU_TEST(test_state_of_another_machine),
        QEMU_TEST(test_cut_and_broken_states),
        QEMU_TEST(test_killed),
        QEMU_TEST(test_quit_of_a_hanging_qemu),
        QEMU_TEST(test_blockers),
        QEMU_TEST(test_name_in_use),
    };

    qemu = find_qemu();
    if (!qemu) {
        printf("skipped: no qemu-system-x86_64 here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

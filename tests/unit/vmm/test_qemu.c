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
static GPtrArray *started; /* of VmmIdentity, by this test */

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
    VmmLaunch launch = {
        .name = name, .command_line = argv, .directory = folder, .incoming = incoming};

    return qemu_launch(&launch, error);
}

static Vmm *launch(const char *name, gboolean incoming, const char *options)
{
    GError *error = NULL;
    Vmm *vmm = try_launch(name, incoming, options, &error);

    if (error)
        fail_msg("launch: %s", error->message);
    g_ptr_array_add(started, vmm_get_identity(vmm));
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

/* Opens *to* for what *from* is. */
static gboolean open_for(Vmm *from, Vmm *to, GError **error)
{
    g_autoptr(VmmDescription) source = vmm_describe(from, NULL);

    assert_non_null(source);
    return vmm_open_incoming(to, source->machine, source->ram_regions, error);
}

static void access_ram(Vmm *vmm, const RamRegion *region, void *buffer, size_t length, gboolean put)
{
    struct iovec local = {buffer, length};
    struct iovec remote = {(void *)(uintptr_t)region->host_address, length};
    pid_t pid = vmm_get_pid(vmm);

    assert_int_equal(put ? process_vm_writev(pid, &local, 1, &remote, 1, 0)
                         : process_vm_readv(pid, &local, 1, &remote, 1, 0),
                     length);
}

static const RamRegion *find_region(const VmmDescription *description, const char *name)
{
    for (guint i = 0; i < description->ram_regions->len; i++) {
        const RamRegion *region = description->ram_regions->pdata[i];

        if (g_str_has_suffix(region->name, name))
            return region;
    }
    fail_msg("no region %s", name);
    return NULL;
}

/* Opens *to* and copies every region. */
static void copy_ram(Vmm *from, Vmm *to)
{
    g_autoptr(VmmDescription) source = vmm_describe(from, NULL);
    g_autoptr(VmmDescription) destination = NULL;
    GError *error = NULL;

    must(open_for(from, to, &error), error);
    destination = vmm_describe(to, &error);
    must(destination != NULL, error);
    assert_int_equal(source->ram_regions->len, destination->ram_regions->len);
    for (guint i = 0; i < source->ram_regions->len; i++) {
        const RamRegion *a = source->ram_regions->pdata[i];
        const RamRegion *b = find_region(destination, a->name);
        g_autofree char *buffer = g_malloc(a->bytes);

        assert_string_equal(a->name, b->name);
        assert_int_equal(a->bytes, b->bytes);
        access_ram(from, a, buffer, a->bytes, FALSE);
        access_ram(to, b, buffer, b->bytes, TRUE);
    }
}

/* Both are paused afterwards. */
static void copy_machine(Vmm *from, Vmm *to)
{
    g_autoptr(GBytes) state = NULL;
    GError *error = NULL;

    must(vmm_pause(from, NULL, &error), error);
    copy_ram(from, to);
    state = vmm_save_device_state(from, VMM_SAVE_SWITCHOVER, &error);
    must(state != NULL, error);
    must(vmm_load_device_state(to, state, &error), error);
    assert_int_equal(run_state(to), VMM_RUN_STATE_PAUSED);
}

static void move(Vmm *from, Vmm *to)
{
    GError *error = NULL;

    copy_machine(from, to);
    must(vmm_resume(to, &error), error);
    assert_int_equal(run_state(to), VMM_RUN_STATE_RUNNING);
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
    g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);
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
    qmp = qmp_connect(identity->control_path, 5000, NULL);
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
    GError *error = NULL;

    assert_int_equal(run_state(b), VMM_RUN_STATE_INCOMING);
    assert_false(vmm_resume(b, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "still waits for its state");
    error = NULL;
    must(vmm_check_movable(a, &error), error);
    move(a, b);
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

        assert_null(vmm_save_device_state(a, VMM_SAVE_SWITCHOVER, &error));
        expect_text(error, VMFERRY_ERROR_FAILED, "from a paused guest");
        error = NULL;
        must(vmm_pause(a, NULL, &error), error);
        state = vmm_save_device_state(a, VMM_SAVE_SWITCHOVER, &error);
        must(state != NULL, error);
        assert_null(vmm_save_device_state(a, VMM_SAVE_SWITCHOVER, &error));
        expect_text(error, VMFERRY_ERROR_FAILED, "released its disk images");
        error = NULL;
        must(vmm_resume(a, &error), error);
        assert_int_equal(run_state(a), VMM_RUN_STATE_RUNNING);
    }
    end(a);
}

/* Bytes of the image that are locked by whoever has it open. */
static guint count_locks(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fdinfo", (int)pid);
    g_autoptr(GDir) entries = g_dir_open(path, 0, NULL);
    const char *name;
    guint count = 0;

    while ((name = g_dir_read_name(entries))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_autofree char *text = file_read(file, 65536, NULL, NULL);

        for (const char *at = text; at && (at = strstr(at, "OFDLCK")); at++)
            count++;
    }
    return count;
}

/* For a checkpoint the guest keeps its images, however often it is saved in a pause,
 * and simply continues; the state is a whole one all the same. */
static void test_checkpoint_keeps_the_images(void **unused)
{
    g_autofree char *options = with_disk("");
    Vmm *a = launch("a", FALSE, options), *b;
    g_autoptr(VmmIdentity) identity = vmm_get_identity(a);
    guint locks = count_locks(identity->pid);
    GError *error = NULL;

    assert_true(locks > 0);
    for (int i = 0; i < 3; i++) {
        must(vmm_pause(a, NULL, &error), error);
        for (int j = 0; j < 2; j++) {
            g_autoptr(GBytes) state = vmm_save_device_state(a, VMM_SAVE_CHECKPOINT, &error);

            must(state != NULL, error);
            assert_int_equal(count_locks(identity->pid), locks);
            assert_int_equal(run_state(a), VMM_RUN_STATE_PAUSED);
        }
        if (i == 1) { /* nor does a restarted agent find them released */
            vmm_free(a);
            a = qemu_reattach(identity, &error);
            must(a != NULL, error);
            must(vmm_check_movable(a, &error), error);
        }
        must(vmm_resume(a, &error), error);
        assert_int_equal(run_state(a), VMM_RUN_STATE_RUNNING);
        assert_int_equal(count_locks(identity->pid), locks);
    }
    /* A checkpoint stands in no later switchover's way, not even in the same pause. */
    b = launch("b", TRUE, options);
    must(vmm_pause(a, NULL, &error), error);
    g_bytes_unref(vmm_save_device_state(a, VMM_SAVE_CHECKPOINT, &error));
    must(error == NULL, error);
    move(a, b);
    assert_int_equal(count_locks(identity->pid), 0);
    assert_null(vmm_save_device_state(a, VMM_SAVE_CHECKPOINT, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "released its disk images");
    end(a);
    end(b);
}

/* Another QEMU goes on from a checkpoint, once the first one is gone. */
static void test_state_of_a_checkpoint_is_whole(void **unused)
{
    g_autofree char *options = with_disk("");
    Vmm *a = launch("a", FALSE, options), *b = launch("b", TRUE, options);
    g_autoptr(GBytes) state = NULL;
    GError *error = NULL;

    must(vmm_pause(a, NULL, &error), error);
    copy_ram(a, b);
    state = vmm_save_device_state(a, VMM_SAVE_CHECKPOINT, &error);
    must(state != NULL, error);
    must(vmm_resume(a, &error), error);
    end(a);
    must(vmm_load_device_state(b, state, &error), error);
    must(vmm_resume(b, &error), error);
    assert_int_equal(run_state(b), VMM_RUN_STATE_RUNNING);
    end(b);
}

/* A restarted agent does not know of the save; the image's locks tell. */
static void test_released_images_are_noticed(void **unused)
{
    g_autofree char *options = with_disk("");
    Vmm *a = launch("a", FALSE, options);
    g_autoptr(VmmIdentity) identity = vmm_get_identity(a);
    g_autoptr(GBytes) state = NULL;
    GError *error = NULL;

    must(vmm_pause(a, NULL, &error), error);
    vmm_free(a);
    a = qemu_reattach(identity, &error);
    must(a != NULL, error);
    must(vmm_check_movable(a, &error), error);
    state = vmm_save_device_state(a, VMM_SAVE_SWITCHOVER, &error);
    must(state != NULL, error);
    vmm_free(a);
    a = qemu_reattach(identity, &error);
    must(a != NULL, error);
    assert_false(vmm_check_movable(a, &error));
    expect_text(error, VMFERRY_ERROR_REFUSED, "does not hold its disk images");
    error = NULL;
    assert_null(vmm_save_device_state(a, VMM_SAVE_SWITCHOVER, &error));
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
    g_autoptr(VmmIdentity) identity = NULL;
    g_autofree char *got = NULL;
    GError *error = NULL;

    /* Ours is busy, but there is another one. */
    adopted = qemu_adopt(pid, NULL, &error);
    must(adopted != NULL, error);
    identity = vmm_get_identity(adopted);
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
    g_autoptr(VmmIdentity) identity = vmm_get_identity(b);
    pid_t pid = vmm_get_pid(a);
    GError *error = NULL;

    vmm_free(b);
    assert_null(qemu_adopt(pid, identity->control_path, &error));
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
    state = vmm_save_device_state(a, VMM_SAVE_SWITCHOVER, &error);
    must(state != NULL, error);
    return state;
}

static void test_state_of_another_machine(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE);
    Vmm *b = launch("b", TRUE, " -nodefaults -display none -M q35 -m 32");
    Vmm *c = launch("c", TRUE, MACHINE " -device virtio-rng-pci");
    g_autoptr(GBytes) state = state_of_a_paused(a);
    GError *error = NULL;

    assert_false(vmm_load_device_state(b, state, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "no incoming stream of this QEMU is open");
    error = NULL;
    assert_false(open_for(a, b, &error));
    expect_text(error, VMFERRY_ERROR_REFUSED, "the guest is of machine type pc-i440fx");
    error = NULL;
    must(open_for(a, c, &error), error);
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
    g_autoptr(GBytes) cut = g_bytes_new_from_bytes(state, 0, g_bytes_get_size(state) - 1);
    g_autoptr(GByteArray) broken = g_byte_array_new();
    g_autoptr(GBytes) broken_bytes = NULL;
    GError *error = NULL;

    must(open_for(a, b, &error), error);
    assert_false(vmm_load_device_state(b, cut, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "its end mark is missing");
    error = NULL;
    g_byte_array_append(broken, g_bytes_get_data(state, NULL), (guint)g_bytes_get_size(state));
    memset(broken->data + broken->len / 2, 0xff, 4096);
    broken_bytes = g_byte_array_free_to_bytes(g_steal_pointer(&broken));
    assert_false(vmm_load_device_state(b, broken_bytes, &error));
    g_clear_error(&error);
    end(a);
    end(b);
}

/* What an incoming machine is opened for must be what it is. */
static void test_other_ram(void **unused)
{
    static const struct {
        const char *options, *text;
    } others[] = {
        {MACHINE " -device secondary-vga", "exists only here"},
        {" -nodefaults -display none -M pc -m 32", "vga.vram does not exist here"},
        {MACHINE " -m 64", "RAM block pc.ram has 33554432 bytes there and 67108864 here"},
    };
    Vmm *a = launch("a", FALSE, MACHINE);

    for (guint i = 0; i < G_N_ELEMENTS(others); i++) {
        Vmm *b = launch("b", TRUE, others[i].options);
        GError *error = NULL;

        assert_false(open_for(a, b, &error));
        expect_text(error, VMFERRY_ERROR_REFUSED, others[i].text);
        assert_int_equal(run_state(b), VMM_RUN_STATE_INCOMING);
        end(b);
    }
    end(a);
}

/* Three tables of this length, by a file. */
static char *with_tables(const char *name, gsize length)
{
    g_autofree char *path = g_strdup_printf("%s/%s", folder, name);
    g_autofree char *data = g_strnfill(length, 'x');

    assert_true(file_replace(path, data, length, FALSE, NULL));
    return g_strdup_printf(MACHINE " -acpitable data=%s -acpitable data=%s -acpitable data=%s",
                           path, path, path);
}

/* The destination's block of tables becomes as long as the source's (until firmware reads the
 * tables anew). */
static void copy_tables(const char *options, const char *options_there, uint64_t bytes)
{
    Vmm *a = launch("a", FALSE, options), *b = launch("b", TRUE, options_there);
    g_autoptr(VmmDescription) here = vmm_describe(a, NULL), there = NULL;

    assert_int_equal(find_region(here, "/rom@etc/acpi/tables")->bytes, bytes);
    copy_machine(a, b);
    there = vmm_describe(b, NULL);
    assert_int_equal(find_region(there, "/rom@etc/acpi/tables")->bytes, bytes);
    end(a);
    end(b);
}

static void test_resizable_block(void **unused)
{
    g_autofree char *small = with_tables("small", 100);
    g_autofree char *large = with_tables("large", 60000);

    copy_tables(small, large, 128 << 10);
    copy_tables(large, small, 256 << 10);
}

/* QEMU reads neither configuration nor section footers of these. */
static void test_old_machine_type(void **unused)
{
    static const char options[] = " -nodefaults -display none -M pc-i440fx-2.3 -m 32";
    g_autoptr(GError) error = NULL;
    Vmm *a = try_launch("a", FALSE, options, &error);
    Vmm *b;

    if (!a && strstr(error->message, "unsupported machine type"))
        skip();
    assert_non_null(a);
    g_ptr_array_add(started, vmm_get_identity(a));
    b = launch("b", TRUE, options);
    move(a, b);
    end(a);
    end(b);
}

static void expect_gone(const VmmIdentity *identity)
{
    assert_true(process_wait_gone(identity->pid, identity->start_time, 10000));
}

/* The same order as where a move is given up: QEMU first. */
static void test_quit_while_open(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE), *b = launch("b", TRUE, MACHINE);
    g_autoptr(VmmIdentity) identity = vmm_get_identity(b);
    g_autofree char *words = NULL;
    GError *error = NULL;

    must(open_for(a, b, &error), error);
    assert_int_equal(run_state(b), VMM_RUN_STATE_INCOMING);
    assert_true(vmm_quit(b, NULL));
    words = vmm_get_stderr_tail(b);
    assert_true(!words || !strstr(words, "migration"));
    vmm_free(b);
    expect_gone(identity);
    end(a);
}

/* An agent that is killed closes the stream, too. */
static void test_freed_while_open(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE), *b = launch("b", TRUE, MACHINE);
    g_autoptr(VmmIdentity) identity = vmm_get_identity(b);
    GError *error = NULL;

    must(open_for(a, b, &error), error);
    vmm_free(b);
    expect_gone(identity);
    assert_null(qemu_reattach(identity, &error));
    expect_text(error, VMFERRY_ERROR_NOT_FOUND, "has ended");
    end(a);
}

static void test_killed_while_open(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE), *b = launch("b", TRUE, MACHINE);
    Vmm *c = launch("c", TRUE, MACHINE);
    g_autoptr(GBytes) state = NULL;
    GError *error = NULL;

    must(open_for(a, b, &error), error);
    state = state_of_a_paused(a);
    kill(vmm_get_pid(b), SIGKILL);
    assert_false(vmm_load_device_state(b, state, &error));
    expect_text(error, VMFERRY_ERROR_DISCONNECTED, "QEMU has ended");
    error = NULL;
    kill(vmm_get_pid(c), SIGKILL);
    assert_false(open_for(a, c, &error));
    expect_text(error, VMFERRY_ERROR_DISCONNECTED, "QEMU has ended");
    end(a);
    end(b);
    end(c);
}

/* ---- which block is where, proven by QEMU's own migration ---- */

static void put_pages(Vmm *vmm, const VmmDescription *description, char *pages)
{
    for (guint i = 0; i < description->ram_regions->len; i++) {
        char *page = pages + i * 4096;

        for (guint k = 0; k < 4096; k++)
            page[k] = (char)g_random_int();
        access_ram(vmm, description->ram_regions->pdata[i], page, 4096, TRUE);
    }
}

/* What QEMU itself would migrate; ends the machine. */
static char *migrate_to_file(Vmm *vmm, size_t *ret_length)
{
    g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);
    g_autofree char *path = g_strdup_printf("%s/stream", folder);
    g_autofree char *uri = g_strdup_printf("exec:cat > %s", path);
    gint64 deadline = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;
    gboolean completed = FALSE;
    g_autoptr(Qmp) qmp = NULL;

    vmm_free(vmm);
    qmp = qmp_connect(identity->control_path, 5000, NULL);
    assert_non_null(qmp);
    assert_true(qmp_run(qmp, "migrate", json_pack("{s:s}", "uri", uri), 5000, NULL));
    while (!completed && g_get_monotonic_time() < deadline) {
        g_autofree char *text = qmp_execute_human(qmp, "info migrate", 5000, NULL);

        completed = text && strstr(text, "completed");
    }
    assert_true(completed);
    /* The file is whole once QEMU, which waits for `cat`, has ended. */
    qmp_run(qmp, "quit", NULL, 5000, NULL);
    expect_gone(identity);
    return file_read(path, 256 << 20, ret_length, NULL);
}

/* Before the first page of each block stand its name and length. */
static void expect_page(const char *stream, size_t length, const RamRegion *region,
                        const char *page)
{
    size_t name = strlen(region->name);
    const char *at = memmem(stream, length, page, 4096);

    if (!at)
        fail_msg("what is at the address of %s is not what QEMU migrates", region->name);
    at -= name;
    if (memcmp(at, region->name, name) != 0 || (size_t)(uint8_t)at[-1] != name)
        fail_msg("what was taken for %s is %.*s", region->name, 40, at);
}

static void expect_right_addresses(const char *options)
{
    Vmm *vmm = launch("a", FALSE, options);
    GError *error = NULL;
    g_autoptr(VmmDescription) description = NULL;
    g_autofree char *pages = NULL, *stream = NULL;
    size_t length;

    must(vmm_pause(vmm, NULL, &error), error);
    description = vmm_describe(vmm, &error);
    must(description != NULL, error);
    pages = g_malloc_n(description->ram_regions->len, 4096);
    put_pages(vmm, description, pages);
    stream = migrate_to_file(vmm, &length);
    for (guint i = 0; i < description->ram_regions->len; i++)
        expect_page(stream, length, description->ram_regions->pdata[i], pages + i * 4096);
}

#define CARDS                                                                                      \
    " -device secondary-vga -device secondary-vga -device virtio-net-pci -device virtio-net-pci"   \
    " -device e1000 -device pci-bridge,id=far,chassis_nr=1 -device secondary-vga,bus=far,addr=1"

/* With -S no firmware has run: not one BAR is mapped. */
static void test_blocks_are_told_apart(void **unused)
{
    expect_right_addresses(MACHINE CARDS " -S");
    expect_right_addresses(MACHINE CARDS);
    expect_right_addresses(" -nodefaults -display none -M q35 -m 32 -device VGA"
                           " -device secondary-vga -device e1000e -device e1000e -S");
}

/* What is found at the destination by markers are the same blocks as at the source. */
static void test_move_of_many_cards(void **unused)
{
    Vmm *a = launch("a", FALSE, MACHINE CARDS), *b = launch("b", TRUE, MACHINE CARDS);
    g_autoptr(VmmDescription) before = vmm_describe(a, NULL), after = NULL;
    GError *error = NULL;

    copy_machine(a, b);
    /* Located anew, as every source is. */
    after = vmm_describe(b, &error);
    must(after != NULL, error);
    for (guint i = 0; i < before->ram_regions->len; i++) {
        const RamRegion *one = before->ram_regions->pdata[i];
        const RamRegion *other = find_region(after, one->name);
        g_autofree char *left = g_malloc(one->bytes), *right = g_malloc(one->bytes);

        access_ram(a, one, left, one->bytes, FALSE);
        access_ram(b, other, right, one->bytes, FALSE);
        assert_memory_equal(left, right, one->bytes);
    }
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
    g_autoptr(VmmIdentity) identity = vmm_get_identity(a);

    kill(identity->pid, SIGSTOP);
    end(a);
    assert_false(process_is_same(identity->pid, identity->start_time));
    assert_int_not_equal(access(identity->control_path, F_OK), 0);
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
    started = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_identity_free);
    return 0;
}

/* A test that failed leaves machines behind. */
static int end_started(void **unused)
{
    for (guint i = 0; i < started->len; i++) {
        const VmmIdentity *identity = started->pdata[i];

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
        QEMU_TEST(test_checkpoint_keeps_the_images),
        QEMU_TEST(test_state_of_a_checkpoint_is_whole),
        QEMU_TEST(test_released_images_are_noticed),
        QEMU_TEST(test_adoption),
        QEMU_TEST(test_socket_of_another_machine),
        QEMU_TEST(test_missing_image),
        QEMU_TEST(test_state_of_another_machine),
        QEMU_TEST(test_cut_and_broken_states),
        QEMU_TEST(test_other_ram),
        QEMU_TEST(test_resizable_block),
        QEMU_TEST(test_old_machine_type),
        QEMU_TEST(test_quit_while_open),
        QEMU_TEST(test_freed_while_open),
        QEMU_TEST(test_killed_while_open),
        QEMU_TEST(test_blocks_are_told_apart),
        QEMU_TEST(test_move_of_many_cards),
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

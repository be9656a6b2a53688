/*
 * Disks and copies of them, against a real QEMU
 *
 * The NBD server is qemu-nbd.  Without QEMU (disk_guest.h) or qemu-nbd the tests are skipped.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk_guest.h"

#define COPY "vmferry-copy-1-test"
#define SECOND_COPY "vmferry-copy-1-second"

static GArray *servers; /* of pid_t */
static guint sockets;

/* ---- NBD servers ---- */

typedef struct {
    pid_t pid;
    char *address;
} Server;

/* An abstract socket that listens, as descriptor 3 of a process with these variables: so systemd
 * passes sockets on, and qemu-nbd takes them. */
static void exec_server(int fd, const char *format, const char *path)
{
    g_autofree char *pid = g_strdup_printf("%d", (int)getpid());

    if (dup2(fd, 3) < 0)
        _exit(1);
    g_setenv("LISTEN_PID", pid, TRUE);
    g_setenv("LISTEN_FDS", "1", TRUE);
    execlp("qemu-nbd", "qemu-nbd", "-t", "-f", format, "-x", "disk", path, NULL);
    _exit(1);
}

static Server serve(const char *name, const char *format)
{
    g_autofree char *path = path_of(name);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    Server server = {.address = g_strdup_printf("vmferry-test-%d-%u", (int)getpid(), sockets++)};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    g_strlcpy(address.sun_path + 1, server.address, sizeof address.sun_path - 1);
    assert_int_equal(
        bind(fd, (struct sockaddr *)&address,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(server.address))),
        0);
    assert_int_equal(listen(fd, 5), 0);
    server.pid = fork();
    if (server.pid == 0)
        exec_server(fd, format, path);
    close(fd);
    g_array_append_val(servers, server.pid);
    return server;
}

static void end_server(Server *server, int signal)
{
    kill(server->pid, signal);
    kill(server->pid, SIGCONT);
    assert_int_equal(waitpid(server->pid, NULL, 0), server->pid);
    for (guint i = servers->len; i-- > 0;)
        if (g_array_index(servers, pid_t, i) == server->pid)
            g_array_remove_index(servers, i);
    g_clear_pointer(&server->address, g_free);
}

/* ---- copies ---- */

static gboolean try_copy(Guest *guest, const char *id, const char *name, const char *address,
                         gboolean top, GError **error)
{
    g_autoptr(GPtrArray) disks = vmm_list_disks(guest->vmm, NULL);
    VmmDisk *disk = find_disk(disks, id);
    VmmDiskFile *file = disk->files->pdata[0];

    return vmm_start_copy(guest->vmm,
                          &(VmmCopy){.name = name,
                                     .node = disk->node,
                                     .bytes = file->bytes,
                                     .address = address,
                                     .export_name = "disk",
                                     .top = top},
                          error);
}

static void start_copy(Guest *guest, const char *id, const char *name, const Server *server,
                       gboolean top)
{
    GError *error = NULL;

    must(try_copy(guest, id, name, server->address, top, &error), &error);
}

static VmmCopyState get_state(Guest *guest, const char *name, GError **failure)
{
    VmmCopyState state = VMM_COPY_RUNNING;
    GError *error = NULL;

    must(vmm_get_copy(guest->vmm, name, &state, &error), &error);
    if ((state == VMM_COPY_FAILED) != (error != NULL))
        fail_msg("state %d with error %s", state, error ? error->message : "none");
    if (failure)
        *failure = error;
    else
        g_clear_error(&error);
    return state;
}

static void await_state(Guest *guest, const char *name, VmmCopyState wanted)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_MS * 1000;

    for (;;) {
        GError *failure = NULL;
        VmmCopyState state = get_state(guest, name, &failure);

        if (state == wanted || (state == VMM_COPY_IN_SYNC && wanted == VMM_COPY_READY)) {
            g_clear_error(&failure);
            return;
        }
        if (state == VMM_COPY_FAILED || g_get_monotonic_time() > deadline)
            fail_msg("state is %d: %s", state, failure ? failure->message : "");
        g_usleep(2000);
    }
}

static void finish_copy(Guest *guest, const char *name)
{
    GError *error = NULL;

    must(vmm_finish_copy(guest->vmm, name, &error), &error);
}

typedef struct {
    const char *options; /* of QEMU */
    const char *id;      /* of the disk */
    const char *drive;   /* what qemu-io writes to; NULL: nothing */
    const char *format;  /* of the image "disk" */
    const char *target;  /* format of the copy */
} Shape;

static const Shape shapes[] = {
    {" -drive file=@disk,format=raw,if=virtio", "virtio0", "virtio0", "raw", "raw"},
    {" -drive file=@disk,format=qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0", "d0", "d0",
     "qcow2", "qcow2"},
    {" -blockdev driver=file,node-name=f,filename=@disk -blockdev "
     "driver=qcow2,node-name=q,file=f,discard=unmap -device virtio-blk-pci,drive=q,id=card",
     "card", "-d /machine/peripheral/card/virtio-backend", "qcow2", "raw"},
    {" -object iothread,id=io -drive file=@disk,format=raw,if=none,id=d0 -device "
     "virtio-blk-pci,drive=d0,iothread=io",
     "d0", "d0", "raw", "qcow2"},
    {" -blockdev driver=file,node-name=f,filename=@disk -device virtio-scsi-pci -device "
     "scsi-hd,drive=f",
     "f", NULL, "raw", "raw"},
    {" -drive file=@disk,format=qcow2,if=ide,bps=200000000", "ide0-hd0", "ide0-hd0", "qcow2",
     "qcow2"},
    {" -drive file=@disk,format=raw,if=none,id=cd,media=cdrom,readonly=on -device ide-cd,drive=cd",
     "cd", NULL, "raw", "raw"},
};

typedef struct {
    Guest *guest;
    const char *drive; /* NULL: nothing is written */
    gint done;         /* atomic */
} Writer;

static gpointer writer_main(gpointer data)
{
    Writer *writer = data;

    for (guint i = 0; writer->drive && !g_atomic_int_get(&writer->done); i++) {
        g_autofree char *where = g_strdup_printf("%u %uk", i * 7919 % 4000 * 4096, 4 + i % 5 * 16);

        guest_writes(writer->guest, writer->drive, 1 + i % 250, where);
    }
    return NULL;
}

/* The guest writes all the time. */
static void copy_whole(const Shape *shape)
{
    g_auto(GStrv) line = NULL;
    g_autoptr(json_t) before = NULL, machine = NULL;
    Writer writer = {.drive = shape->drive};
    GError *error = NULL;
    GThread *thread;
    Server server;
    Guest guest;

    make_image("disk", shape->format, "");
    fill_image("disk", shape->format);
    make_image("copy", shape->target, "");
    guest = start(shape->options);
    server = serve("copy", shape->target);
    before = query_graph(&guest);
    machine = read_machine(&guest, &line);

    writer.guest = &guest;
    thread = g_thread_new("writer", writer_main, &writer);
    start_copy(&guest, shape->id, COPY, &server, FALSE);
    expect_unchanged(&guest, machine, line);
    await_state(&guest, COPY, VMM_COPY_READY);
    must(vmm_sync_copy(guest.vmm, COPY, &error), &error);
    await_state(&guest, COPY, VMM_COPY_IN_SYNC);
    expect_unchanged(&guest, machine, line);
    must(vmm_pause(guest.vmm, NULL, &error), &error);
    g_atomic_int_set(&writer.done, TRUE);
    g_thread_join(thread);

    must(vmm_check_unchanged(guest.vmm, machine, &error), &error);
    finish_copy(&guest, COPY);
    expect_graph(&guest, before);
    must(vmm_resume(guest.vmm, &error), &error);
    end(&guest);
    end_server(&server, SIGTERM);
    expect_equal("disk", shape->format, "copy", shape->target);
}

static void test_copies_of_all_shapes(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++)
        copy_whole(&shapes[i]);
}

/* What was written after the copy became READY is in it although it never came IN_SYNC. */
static void test_copy_that_was_not_in_sync(void **unused)
{
    GError *error = NULL;
    Server server;
    Guest guest;

    make_image("disk", "raw", "");
    make_image("copy", "raw", "");
    guest = start(" -drive file=@disk,format=raw,if=virtio");
    server = serve("copy", "raw");
    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    await_state(&guest, COPY, VMM_COPY_READY);
    must(vmm_pause(guest.vmm, NULL, &error), &error);
    guest_writes(&guest, "virtio0", 0x55, "1M 7M");
    finish_copy(&guest, COPY);
    end(&guest);
    end_server(&server, SIGTERM);
    expect_equal("disk", "raw", "copy", "raw");
}

static void test_overlay_alone(void **unused)
{
    Writer writer = {.drive = "virtio0"};
    GError *error = NULL;
    GThread *thread;
    Server server;
    Guest guest;

    make_image("base", "raw", "");
    fill_image("base", "raw");
    make_image("disk", "qcow2", "-b base -F raw");
    make_image("copy", "qcow2", "-b base -F raw");
    guest = start(" -drive file=@disk,format=qcow2,if=virtio");
    guest_writes(&guest, "virtio0", 0x31, "1M 200k");
    server = serve("copy", "qcow2");
    writer.guest = &guest;
    if (!try_copy(&guest, "virtio0", COPY, server.address, TRUE, &error)) {
        expect_text(error, VMFERRY_ERROR_UNSUPPORTED, "pause the guest for the start of the copy");
        error = NULL;
        must(vmm_pause(guest.vmm, NULL, &error), &error);
        start_copy(&guest, "virtio0", COPY, &server, TRUE);
        must(vmm_resume(guest.vmm, &error), &error);
    }
    thread = g_thread_new("writer", writer_main, &writer);
    await_state(&guest, COPY, VMM_COPY_READY);
    must(vmm_sync_copy(guest.vmm, COPY, &error), &error);
    await_state(&guest, COPY, VMM_COPY_IN_SYNC);
    must(vmm_pause(guest.vmm, NULL, &error), &error);
    g_atomic_int_set(&writer.done, TRUE);
    g_thread_join(thread);
    finish_copy(&guest, COPY);
    end(&guest);
    end_server(&server, SIGTERM);
    expect_equal("disk", "qcow2", "copy", "qcow2");
    /* Nothing of the base was copied. */
    assert_int_equal(run("qemu-img map --output=json @copy | grep -q '\"depth\": 1'"), 0);
}

static void test_two_disks(void **unused)
{
    g_autoptr(json_t) before = NULL, machine = NULL;
    g_auto(GStrv) line = NULL;
    GError *error = NULL;
    Server first, second;
    Guest guest;

    make_image("disk", "raw", "");
    fill_image("disk", "raw");
    make_image("other", "qcow2", "");
    fill_image("other", "qcow2");
    make_image("copy", "raw", "");
    make_image("other-copy", "qcow2", "");
    guest = start(" -drive file=@disk,format=raw,if=virtio -blockdev "
                  "driver=file,node-name=f,filename=@other -blockdev "
                  "driver=qcow2,node-name=q,file=f -device virtio-scsi-pci -device "
                  "scsi-hd,drive=q,id=s");
    before = query_graph(&guest);
    machine = read_machine(&guest, &line);
    first = serve("copy", "raw");
    second = serve("other-copy", "qcow2");
    start_copy(&guest, "virtio0", COPY, &first, FALSE);
    assert_false(try_copy(&guest, "virtio0", SECOND_COPY, second.address, FALSE, &error));
    expect_text(error, VMFERRY_ERROR_EXISTS, "is being copied already");
    error = NULL;
    start_copy(&guest, "s", SECOND_COPY, &second, FALSE);
    guest_writes(&guest, "virtio0", 0x61, "2M 1M");
    guest_writes(&guest, "-d s", 0x62, "3M 1M");
    await_state(&guest, COPY, VMM_COPY_READY);
    await_state(&guest, SECOND_COPY, VMM_COPY_READY);
    expect_unchanged(&guest, machine, line);
    must(vmm_pause(guest.vmm, NULL, &error), &error);
    assert_null(vmm_save_device_state(guest.vmm, VMM_SAVE_SWITCHOVER, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "still being copied");
    finish_copy(&guest, SECOND_COPY);
    finish_copy(&guest, COPY);
    expect_graph(&guest, before);
    end(&guest);
    end_server(&first, SIGTERM);
    end_server(&second, SIGTERM);
    expect_equal("disk", "raw", "copy", "raw");
    expect_equal("other", "qcow2", "other-copy", "qcow2");
}

/* ---- what goes wrong ---- */

#define PLAIN " -drive file=@disk,format=raw,if=virtio"

static Guest start_plain(json_t **ret_before)
{
    Guest guest;

    make_image("disk", "raw", "");
    fill_image("disk", "raw");
    make_image("copy", "raw", "");
    guest = start(PLAIN);
    *ret_before = query_graph(&guest);
    return guest;
}

/* The guest can use its disk, and a second try works. */
static void expect_usable(Guest *guest, json_t *before)
{
    Server server = serve("copy", "raw");
    GError *error = NULL;

    expect_graph(guest, before);
    guest_writes(guest, "virtio0", 0x7f, "0 64k");
    start_copy(guest, "virtio0", COPY, &server, FALSE);
    await_state(guest, COPY, VMM_COPY_READY);
    must(vmm_pause(guest->vmm, NULL, &error), &error);
    finish_copy(guest, COPY);
    expect_graph(guest, before);
    end(guest);
    end_server(&server, SIGTERM);
    expect_equal("disk", "raw", "copy", "raw");
}

static void test_target_dies(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Guest guest = start_plain(&before);
    gint64 deadline = g_get_monotonic_time() + WAIT_MS * 1000;
    Server server = serve("copy", "raw");
    GError *failure = NULL, *error = NULL;

    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    await_state(&guest, COPY, VMM_COPY_READY);
    kill(server.pid, SIGSTOP);
    end_server(&server, SIGKILL);
    guest_writes(&guest, "virtio0", 0x33, "3M 64k");
    while (get_state(&guest, COPY, NULL) != VMM_COPY_FAILED && g_get_monotonic_time() < deadline)
        g_usleep(2000);
    assert_int_equal(get_state(&guest, COPY, &failure), VMM_COPY_FAILED);
    expect_text(failure, VMFERRY_ERROR_FAILED, "QEMU could not copy the disk: ");
    assert_false(vmm_sync_copy(guest.vmm, COPY, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "QEMU could not copy the disk: ");
    error = NULL;
    must(vmm_pause(guest.vmm, NULL, &error), &error);
    assert_false(vmm_finish_copy(guest.vmm, COPY, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "QEMU could not copy the disk: ");
    error = NULL;
    must(vmm_resume(guest.vmm, &error), &error);
    must(vmm_abort_copy(guest.vmm, COPY, &error), &error);
    expect_usable(&guest, before);
}

static gpointer abort_main(gpointer data)
{
    Guest *guest = data;
    GError *error = NULL;

    must(vmm_abort_copy(guest->vmm, COPY, &error), &error);
    return NULL;
}

/* In its bulk phase, with QEMU's send buffer full: only the end of the connection helps. */
static void test_target_stalls_and_is_closed(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Guest guest = start_plain(&before);
    Server server = serve("copy", "raw");
    GThread *thread;

    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    kill(server.pid, SIGSTOP);
    thread = g_thread_new("abort", abort_main, &guest);
    g_usleep(300000);
    end_server(&server, SIGKILL);
    g_thread_join(thread);
    expect_usable(&guest, before);
}

static gpointer write_main(gpointer data)
{
    guest_writes(data, "virtio0", 0x44, "4M 4k");
    return NULL;
}

/* A write that waits for the copy holds up all of QEMU until the abort cuts the connection. */
static void test_abort_overtakes(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Guest guest = start_plain(&before);
    Server server = serve("copy", "raw");
    GError *error = NULL;
    GThread *writer;

    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    await_state(&guest, COPY, VMM_COPY_READY);
    must(vmm_sync_copy(guest.vmm, COPY, &error), &error);
    await_state(&guest, COPY, VMM_COPY_IN_SYNC);
    kill(server.pid, SIGSTOP);
    writer = g_thread_new("write", write_main, &guest);
    g_usleep(200000);
    must(vmm_abort_copy(guest.vmm, COPY, &error), &error);
    g_thread_join(writer);
    end_server(&server, SIGKILL);
    expect_usable(&guest, before);
}

static void test_abort_of_any_state(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Guest guest = start_plain(&before);
    Server server = serve("copy", "raw");
    GError *error = NULL;
    VmmCopyState state;

    must(vmm_abort_copy(guest.vmm, COPY, &error), &error);
    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    must(vmm_abort_copy(guest.vmm, COPY, &error), &error);
    must(vmm_abort_copy(guest.vmm, COPY, &error), &error);
    expect_graph(&guest, before);
    assert_false(vmm_get_copy(guest.vmm, COPY, &state, &error));
    expect_text(error, VMFERRY_ERROR_NOT_FOUND, "no copy \"" COPY "\"");
    error = NULL;
    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    await_state(&guest, COPY, VMM_COPY_READY);
    must(vmm_pause(guest.vmm, NULL, &error), &error);
    must(vmm_abort_copy(guest.vmm, COPY, &error), &error);
    expect_graph(&guest, before);
    must(vmm_resume(guest.vmm, &error), &error);
    end_server(&server, SIGTERM);
    expect_usable(&guest, before);
}

/* Another program ends our job. */
static void test_copy_ended_by_others(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Guest guest = start_plain(&before);
    Server server = serve("copy", "raw");
    GError *error = NULL, *failure = NULL;

    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    await_state(&guest, COPY, VMM_COPY_READY);
    must(
        qmp_run(guest.qmp, "block-job-cancel", json_pack("{s:s}", "device", COPY), WAIT_MS, &error),
        &error);
    g_usleep(200000);
    assert_int_equal(get_state(&guest, COPY, &failure), VMM_COPY_FAILED);
    expect_text(failure, VMFERRY_ERROR_FAILED, "another program has ended the copy");
    must(qmp_run(guest.qmp, "job-dismiss", json_pack("{s:s}", "id", COPY), WAIT_MS, &error),
         &error);
    assert_int_equal(get_state(&guest, COPY, &failure), VMM_COPY_FAILED);
    expect_text(failure, VMFERRY_ERROR_FAILED, "another program has ended the copy");
    must(vmm_pause(guest.vmm, NULL, &error), &error);
    assert_false(vmm_finish_copy(guest.vmm, COPY, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "another program has ended the copy");
    error = NULL;
    must(vmm_resume(guest.vmm, &error), &error);
    must(vmm_abort_copy(guest.vmm, COPY, &error), &error);
    end_server(&server, SIGTERM);
    expect_usable(&guest, before);
}

static void test_copies_that_cannot_begin(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Guest guest = start_plain(&before);
    Server server;
    GError *error = NULL;

    assert_false(try_copy(&guest, "virtio0", "mine", "vmferry-test-nobody", FALSE, &error));
    expect_text(error, VMFERRY_ERROR_INVALID, "must begin with \"vmferry-copy-\"");
    error = NULL;
    assert_false(try_copy(&guest, "virtio0", COPY, "vmferry-test-nobody", FALSE, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "copy a disk: blockdev-add: QEMU says: ");
    error = NULL;
    expect_graph(&guest, before);
    assert_int_equal(run("qemu-img create -q -f raw @small 8M"), 0);
    server = serve("small", "raw");
    assert_false(try_copy(&guest, "virtio0", COPY, server.address, FALSE, &error));
    expect_text(error, VMFERRY_ERROR_REFUSED, "offers 8388608 bytes for a disk of 16777216 bytes");
    error = NULL;
    end_server(&server, SIGTERM);
    expect_usable(&guest, before);
}

static void test_finish_is_refused(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Guest guest = start_plain(&before);
    Server server = serve("copy", "raw");
    GError *error = NULL;

    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    await_state(&guest, COPY, VMM_COPY_READY);
    assert_false(vmm_finish_copy(guest.vmm, COPY, &error));
    expect_text(error, VMFERRY_ERROR_FAILED, "only be finished while the guest is paused");
    error = NULL;
    must(vmm_abort_copy(guest.vmm, COPY, &error), &error);

    kill(server.pid, SIGKILL);
    end_server(&server, SIGKILL);
    expect_usable(&guest, before);
}

/* An agent that was killed leaves its copies; the next one removes them. */
static void test_copies_of_a_killed_agent(void **unused)
{
    g_autoptr(json_t) before = NULL;
    Guest guest = start_plain(&before);
    Server server = serve("copy", "raw");
    GError *error = NULL;

    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    await_state(&guest, COPY, VMM_COPY_READY);
    vmm_free(guest.vmm);
    guest.vmm = qemu_reattach(guest.identity, &error);
    must(guest.vmm != NULL, &error);
    expect_graph(&guest, before);

    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    await_state(&guest, COPY, VMM_COPY_READY);
    vmm_free(guest.vmm);
    end_server(&server, SIGKILL);
    guest_writes(&guest, "virtio0", 0x34, "3M 64k");
    guest.vmm = qemu_reattach(guest.identity, &error);
    must(guest.vmm != NULL, &error);
    expect_usable(&guest, before);
}

/* A job of another program is told by its name, beside one of ours, too. */
static void test_foreign_job(void **unused)
{
    g_autoptr(json_t) before = NULL, machine = NULL;
    g_auto(GStrv) line = NULL, none = NULL;
    GError *error = NULL;
    Server server;
    Guest guest;

    make_image("disk", "raw", "");
    make_image("copy", "raw", "");
    make_image("other", "raw", "");
    guest = start(PLAIN " -drive file=@other,format=raw,if=virtio");
    machine = read_machine(&guest, &line);
    server = serve("copy", "raw");
    start_copy(&guest, "virtio0", COPY, &server, FALSE);
    await_state(&guest, COPY, VMM_COPY_READY);
    must(qmp_run(guest.qmp, "blockdev-add",
                 json_pack("{s:s, s:s, s:i}", "driver", "null-co", "node-name", "hole", "size",
                           (int)DISK_BYTES),
                 WAIT_MS, &error),
         &error);
    must(qmp_run(guest.qmp, "blockdev-mirror",
                 json_pack("{s:s, s:s, s:s, s:s}", "job-id", "theirs", "device", "virtio1",
                           "target", "hole", "sync", "full"),
                 WAIT_MS, &error),
         &error);
    assert_false(vmm_check_unchanged(guest.vmm, machine, &error));
    expect_text(error, VMFERRY_ERROR_BUSY, "block job \"theirs\"");
    error = NULL;
    assert_null(vmm_read_machine(guest.vmm, guest.identity->command_line, &none, &error));
    expect_text(error, VMFERRY_ERROR_BUSY, "block job \"theirs\"");
    error = NULL;
    must(vmm_abort_copy(guest.vmm, COPY, &error), &error);
    end(&guest);
    end_server(&server, SIGTERM);
}

/* ---- the list ---- */

static void expect_disk(GPtrArray *disks, const char *id, const char *device, gboolean read_only,
                        const char *obstacle)
{
    VmmDisk *disk = find_disk(disks, id);

    if (!strstr(disk->device, device))
        fail_msg("device \"%s\" does not hold \"%s\"", disk->device, device);
    assert_int_equal(disk->read_only, read_only);
    if (!obstacle && disk->obstacle)
        fail_msg("%s: %s", id, disk->obstacle);
    if (obstacle && (!disk->obstacle || !strstr(disk->obstacle, obstacle)))
        fail_msg("%s: obstacle \"%s\" does not hold \"%s\"", id,
                 disk->obstacle ? disk->obstacle : "", obstacle);
}

static void expect_file(GPtrArray *disks, const char *id, guint at, const char *name,
                        const char *format)
{
    VmmDisk *disk = find_disk(disks, id);
    g_autofree char *path = path_of(name);
    VmmDiskFile *file;
    struct stat here, there;

    assert_true(at < disk->files->len);
    file = disk->files->pdata[at];
    assert_string_equal(file->file, path);
    assert_string_equal(file->format, format);
    assert_int_equal(stat(path, &here), 0);
    assert_int_equal(stat(file->path, &there), 0);
    assert_true(here.st_ino == there.st_ino);
    assert_true(file->file_bytes == (uint64_t)here.st_size);
    assert_true(file->allocated_bytes == (uint64_t)here.st_blocks * 512);
    assert_true(file->bytes == DISK_BYTES);
    assert_int_equal(file->options != NULL, strcmp(format, "qcow2") == 0);
}

static void test_list(void **unused)
{
    g_autoptr(GPtrArray) disks = NULL;
    GError *error = NULL;
    Guest guest;

    make_image("disk", "raw", "");
    fill_image("disk", "raw");
    make_image("base", "raw", "");
    make_image("middle", "qcow2", "-b base -F raw");
    make_image("top", "qcow2", "-b middle -F qcow2");
    make_image("flash", "raw", "");
    make_image("cd", "raw", "");
    guest = start(" -drive file=@disk,format=raw,if=virtio -blockdev "
                  "driver=file,node-name=f,filename=@top -blockdev "
                  "driver=qcow2,node-name=q,file=f -device virtio-blk-pci,drive=q,id=card"
                  " -drive file=@cd,format=raw,media=cdrom,if=none,id=cd0,readonly=on -device "
                  "ide-cd,drive=cd0 -device ide-cd,id=empty"
                  " -blockdev driver=file,node-name=flat,filename=@flash -device "
                  "virtio-scsi-pci -device scsi-hd,drive=flat");
    disks = vmm_list_disks(guest.vmm, &error);
    must(disks != NULL, &error);
    assert_int_equal(disks->len, 4);
    expect_disk(disks, "virtio0", "virtio-blk-pci at pci.0", FALSE, NULL);
    expect_file(disks, "virtio0", 0, "disk", "raw");
    expect_disk(disks, "card", "card (virtio-blk-pci)", FALSE, NULL);
    expect_file(disks, "card", 0, "top", "qcow2");
    expect_file(disks, "card", 1, "middle", "qcow2");
    expect_file(disks, "card", 2, "base", "raw");
    assert_int_equal(find_disk(disks, "card")->files->len, 3);
    expect_disk(disks, "cd0", "ide-cd", TRUE, NULL);
    expect_disk(disks, "flat", "scsi-hd", FALSE, NULL);
    expect_file(disks, "flat", 0, "flash", "raw");
    assert_false(find_disk(disks, "flat")->flash);
    end(&guest);
}

static void test_flash(void **unused)
{
    g_autoptr(GPtrArray) disks = NULL;
    g_autoptr(json_t) before = NULL;
    GError *error = NULL;
    Server server;
    Guest guest;

    assert_int_equal(run("qemu-img create -q -f raw @disk 128k"), 0);
    assert_int_equal(run("qemu-img create -q -f raw @code 64k"), 0);
    assert_int_equal(run("qemu-img create -q -f raw @copy 128k"), 0);
    assert_int_equal(run("qemu-io -f raw -c 'write -P 0x19 64k 4k' @disk"), 0);
    guest = start(" -S -drive file=@code,format=raw,if=pflash,readonly=on -drive "
                  "file=@disk,format=raw,if=pflash");
    disks = vmm_list_disks(guest.vmm, &error);
    must(disks != NULL, &error);
    assert_int_equal(disks->len, 2);
    expect_disk(disks, "pflash0", "cfi.pflash01", TRUE, NULL);
    expect_disk(disks, "pflash1", "cfi.pflash01", FALSE, NULL);
    assert_true(find_disk(disks, "pflash1")->flash);
    before = query_graph(&guest);
    server = serve("copy", "raw");
    start_copy(&guest, "pflash1", COPY, &server, FALSE);
    await_state(&guest, COPY, VMM_COPY_READY);
    finish_copy(&guest, COPY);
    expect_graph(&guest, before);
    end(&guest);
    end_server(&server, SIGTERM);
    expect_equal("disk", "raw", "copy", "raw");
}

static void test_obstacles(void **unused)
{
    g_autoptr(GPtrArray) disks = NULL;
    GError *error = NULL;
    Server server;
    Guest guest;

    make_image("snapshots", "qcow2", "");
    assert_int_equal(run("qemu-img snapshot -c s @snapshots"), 0);
    make_image("bitmaps", "qcow2", "");
    assert_int_equal(run("qemu-img bitmap --add @bitmaps b"), 0);
    make_image("throttled", "raw", "");
    make_image("part", "raw", "");
    make_image("gone", "raw", "");
    make_image("vmdk", "vmdk", "");
    make_image("below", "qcow2", "-b snapshots -F qcow2");
    make_image("copy", "raw", "");
    server = serve("copy", "raw");
    g_autofree char *options = g_strdup_printf(
        " -drive file=@below,format=qcow2,if=none,id=snapshots -device "
        "virtio-blk-pci,drive=snapshots -drive file=@bitmaps,format=qcow2,if=none,id=bitmaps "
        "-device virtio-blk-pci,drive=bitmaps -object throttle-group,id=tg -blockdev "
        "driver=file,node-name=tf,filename=@throttled -blockdev "
        "driver=throttle,node-name=th,throttle-group=tg,file=tf -device virtio-blk-pci,drive=th "
        "-blockdev driver=file,node-name=pf,filename=@part -blockdev "
        "driver=raw,node-name=part,file=pf,size=1048576 -device virtio-blk-pci,drive=part -drive "
        "file=@gone,format=raw,if=none,id=gone -device virtio-blk-pci,drive=gone -drive "
        "file=@vmdk,format=vmdk,if=none,id=vmdk -device virtio-blk-pci,drive=vmdk -blockdev "
        "driver=nbd,node-name=far,server.type=unix,server.path=%s,server.abstract=on,export=disk "
        "-device virtio-blk-pci,drive=far",
        server.address);
    guest = start(options);
    assert_int_equal(run("rm @gone"), 0);
    disks = vmm_list_disks(guest.vmm, &error);
    must(disks != NULL, &error);
    assert_int_equal(disks->len, 7);
    expect_disk(disks, "snapshots", "virtio-blk-pci", FALSE,
                "snapshots: qcow2 with internal snapshots");
    assert_int_equal(find_disk(disks, "snapshots")->files->len, 2);
    expect_disk(disks, "bitmaps", "virtio-blk-pci", FALSE, "dirty bitmap \"b\" is stored");
    expect_disk(disks, "th", "virtio-blk-pci", FALSE, "node th is a \"throttle\"");
    expect_disk(disks, "part", "virtio-blk-pci", FALSE, "raw node part shows only a part of");
    expect_disk(disks, "gone", "virtio-blk-pci", FALSE, "is not the file that QEMU has open");
    expect_disk(disks, "vmdk", "virtio-blk-pci", FALSE, "is a \"vmdk\"");
    expect_disk(disks, "far", "virtio-blk-pci", FALSE, "not a local file or device, but \"nbd\"");
    assert_int_equal(find_disk(disks, "far")->files->len, 0);
    end(&guest);
    end_server(&server, SIGTERM);
}

/* ---- the frame ---- */

static int begin(void **unused)
{
    servers = g_array_new(FALSE, FALSE, sizeof(pid_t));
    qemu_guest_begin();
    return 0;
}

/* A test that fails leaves processes. */
static int clean_up(void **unused)
{
    for (guint i = 0; i < servers->len; i++) {
        kill(g_array_index(servers, pid_t, i), SIGKILL);
        waitpid(g_array_index(servers, pid_t, i), NULL, 0);
    }
    g_array_unref(servers);
    return qemu_guest_clean_up();
}

#define QEMU_TEST(name) cmocka_unit_test_setup_teardown(name, begin, clean_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        QEMU_TEST(test_list),
        QEMU_TEST(test_flash),
        QEMU_TEST(test_obstacles),
        QEMU_TEST(test_copies_of_all_shapes),
        QEMU_TEST(test_copy_that_was_not_in_sync),
        QEMU_TEST(test_overlay_alone),
        QEMU_TEST(test_two_disks),
        QEMU_TEST(test_target_dies),
        QEMU_TEST(test_target_stalls_and_is_closed),
        QEMU_TEST(test_abort_overtakes),
        QEMU_TEST(test_abort_of_any_state),
        QEMU_TEST(test_copy_ended_by_others),
        QEMU_TEST(test_copies_that_cannot_begin),
        QEMU_TEST(test_finish_is_refused),
        QEMU_TEST(test_copies_of_a_killed_agent),
        QEMU_TEST(test_foreign_job),
    };

    if (!qemu_guest_is_there())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

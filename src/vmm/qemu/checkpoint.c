/* Checkpoints: xen-save-devices-state of the running machine into a pipe. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/thread.h"
#include "state/qemu_stream.h"
#include "vmm/qemu/driver.h"
#include "vmm/vmm_checkpoint.h"

/* By which one that an agent left in QEMU is found again. */
#define OPAQUE "vmferry-checkpoint"
/* QEMU waits as soon as it has written so much (the kernel's least). */
#define HELD_BYTES 4096
/* As much as most states have, so that QEMU waits for us no more when it may go on. */
#define RELEASED_BYTES (1 << 20)
#define READ_BYTES (256u << 10)

typedef struct {
    VmmCheckpoint base;
    QemuVmm *qemu;
    int pipe; /* our end, for reading, not blocking */
    uint64_t fdset;
    char *name;       /* of QEMU's end */
    uint64_t told_ns; /* when the last save was asked for, and … */
    uint64_t came_ns; /* … its first bytes came */
    /* Of the save under way. */
    GThread *thread;
    int done; /* eventfd: the command was answered */
    gboolean saved;
    GError *error;
} QemuCheckpoint;

static void remove_fdset(QemuVmm *qemu, uint64_t set)
{
    (void)qmp_run(qemu->qmp, "remove-fd", json_pack("{s:I}", "fdset-id", (json_int_t)set),
                  QMP_COMMAND_MS, NULL);
}

/* What an agent that died has left.  QEMU lists its own descriptors only. */
static void remove_left(QemuVmm *qemu)
{
    g_autoptr(json_t) sets = qmp_execute(qemu->qmp, "query-fdsets", NULL, QMP_COMMAND_MS, NULL);
    json_t *set, *fd;
    size_t i, j;

    json_array_foreach(sets, i, set)
    {
        json_array_foreach(json_object_get(set, "fds"), j, fd)
        {
            uint64_t id;

            if (g_strcmp0(json_text_or(fd, "opaque", NULL), OPAQUE) == 0 &&
                json_get_count(set, "fdset-id", G_MAXINT32, &id, NULL))
                remove_fdset(qemu, id);
        }
    }
}

static gboolean give_pipe(QemuCheckpoint *checkpoint, int theirs, GError **error)
{
    g_autoptr(json_t) reply =
        qmp_execute_fd(checkpoint->qemu->qmp, "add-fd", json_pack("{s:s}", "opaque", OPAQUE),
                       theirs, QMP_COMMAND_MS, error);
    uint64_t fd;

    if (!reply || !json_get_count(reply, "fdset-id", G_MAXINT32, &checkpoint->fdset, error))
        return FALSE;
    if (!json_get_count(reply, "fd", G_MAXINT32, &fd, error)) {
        remove_fdset(checkpoint->qemu, checkpoint->fdset);
        return FALSE;
    }
    /* Not /dev/fdset/N, which QEMU cannot open with O_TRUNC where it is a pipe. */
    checkpoint->name = g_strdup_printf("/proc/self/fd/%" G_GUINT64_FORMAT, fd);
    return TRUE;
}

static gboolean make_pipe(QemuCheckpoint *checkpoint, GError **error)
{
    autofd int theirs = -1;
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0) {
        error_set_errno(error, errno, "pipe");
        return FALSE;
    }
    checkpoint->pipe = ends[0];
    theirs = ends[1];
    if (fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0 || fcntl(ends[0], F_SETPIPE_SZ, HELD_BYTES) < 0) {
        error_set_errno(error, errno, "a pipe of %d bytes", HELD_BYTES);
        return FALSE;
    }
    return give_pipe(checkpoint, theirs, error);
}

/* ---- the save ---- */

static gpointer save_thread(gpointer data)
{
    QemuCheckpoint *checkpoint = data;
    uint64_t one = 1;

    checkpoint->saved = qemu_save_to_file(checkpoint->qemu->qmp, checkpoint->name,
                                          VMM_SAVE_CHECKPOINT, &checkpoint->error);
    if (write(checkpoint->done, &one, sizeof one) < 0)
        g_assert_not_reached(); /* a counter that is 0 takes a 1 */
    return NULL;
}

/* Waits for bytes, or for the command's end: TRUE where there are bytes. */
static gboolean await_bytes(QemuCheckpoint *checkpoint)
{
    struct pollfd fds[] = {{checkpoint->pipe, POLLIN, 0}, {checkpoint->done, POLLIN, 0}};

    while (poll(fds, G_N_ELEMENTS(fds), -1) < 0)
        ;
    return (fds[0].revents & POLLIN) != 0;
}

/* The command was not answered: the machine stands. */
static gboolean is_saving(const QemuCheckpoint *checkpoint)
{
    struct pollfd fd = {checkpoint->done, POLLIN, 0};

    return poll(&fd, 1, 0) == 0;
}

/* Up to the command's answer, after which nothing more comes. */
static void read_state(QemuCheckpoint *checkpoint, GByteArray *state)
{
    g_autofree uint8_t *piece = g_malloc(READ_BYTES);
    ssize_t got;

    while (await_bytes(checkpoint) && state->len <= QEMU_STREAM_MAX_BYTES) {
        got = read(checkpoint->pipe, piece, READ_BYTES);
        if (got == 0)
            break;
        if (got > 0)
            g_byte_array_append(state, piece, (guint)got);
    }
}

static gboolean end_save(QemuCheckpoint *checkpoint, GError **error)
{
    uint64_t ignored;

    g_thread_join(g_steal_pointer(&checkpoint->thread));
    if (read(checkpoint->done, &ignored, sizeof ignored) < 0)
        g_assert_not_reached();
    if (checkpoint->saved)
        return TRUE;
    /* What comes late must not be taken for the next one; and QEMU is not to wait for us. */
    fd_close(&checkpoint->pipe);
    g_propagate_error(error, g_steal_pointer(&checkpoint->error));
    qemu_vmm_add_exit_reason(checkpoint->qemu, error);
    return FALSE;
}

/* One that has failed took its pipe with it. */
static gboolean need_pipe(QemuCheckpoint *checkpoint, GError **error)
{
    if (checkpoint->pipe >= 0)
        return TRUE;
    if (checkpoint->name)
        remove_fdset(checkpoint->qemu, checkpoint->fdset);
    g_clear_pointer(&checkpoint->name, g_free);
    if (make_pipe(checkpoint, error))
        return TRUE;
    fd_close(&checkpoint->pipe);
    return FALSE;
}

static gboolean stop(VmmCheckpoint *base, GError **error)
{
    QemuCheckpoint *checkpoint = (QemuCheckpoint *)base;

    if (!need_pipe(checkpoint, error))
        return FALSE;
    checkpoint->told_ns = clock_now_ns();
    checkpoint->thread = thread_start("checkpoint", save_thread, checkpoint, error);
    if (!checkpoint->thread)
        return FALSE;
    if (await_bytes(checkpoint)) {
        checkpoint->came_ns = clock_now_ns();
        return TRUE;
    }
    if (end_save(checkpoint, error))
        error_set(error, VMFERRY_ERROR_FAILED, "QEMU saved no device state");
    return FALSE;
}

static GBytes *resume(VmmCheckpoint *base, GError **error)
{
    QemuCheckpoint *checkpoint = (QemuCheckpoint *)base;
    g_autoptr(GByteArray) state = g_byte_array_new();
    gboolean waited = is_saving(checkpoint);

    /* Where that is not allowed it takes longer. */
    (void)fcntl(checkpoint->pipe, F_SETPIPE_SZ, RELEASED_BYTES);
    read_state(checkpoint, state);
    /* It is not to wait for the rest of what is longer than any. */
    if (state->len > QEMU_STREAM_MAX_BYTES)
        fd_close(&checkpoint->pipe);
    if (!end_save(checkpoint, error))
        return NULL;
    /* QEMU would not wait at a pipe that takes all. */
    if (checkpoint->pipe >= 0 && fcntl(checkpoint->pipe, F_SETPIPE_SZ, HELD_BYTES) < 0)
        fd_close(&checkpoint->pipe);
    if (!waited) {
        error_set(error, VMFERRY_ERROR_FAILED, "QEMU did not wait with its device state");
        return NULL;
    }
    if (!qemu_stream_check_saved(state->data, state->len, error))
        return NULL;
    return g_byte_array_free_to_bytes(g_steal_pointer(&state));
}

static void checkpoint_free(VmmCheckpoint *base)
{
    QemuCheckpoint *checkpoint = (QemuCheckpoint *)base;

    if (checkpoint->name)
        remove_fdset(checkpoint->qemu, checkpoint->fdset);
    fd_close(&checkpoint->pipe);
    fd_close(&checkpoint->done);
    g_free(checkpoint->name);
    g_free(checkpoint);
}

/* QEMU says STOP when the vCPUs have stopped, and drains then.  Where that was not heard (yet), it is the
 * latest that it can have been. */
static uint64_t get_stopped_ns(VmmCheckpoint *base)
{
    QemuCheckpoint *checkpoint = (QemuCheckpoint *)base;
    uint64_t stopped_ns = __atomic_load_n(&checkpoint->qemu->stopped_ns, __ATOMIC_ACQUIRE);

    return stopped_ns >= checkpoint->told_ns ? stopped_ns : checkpoint->came_ns;
}

static const VmmCheckpointOps ops = {
    .get_stopped_ns = get_stopped_ns,
    .free = checkpoint_free,
    .stop = stop,
    .resume = resume,
};

VmmCheckpoint *qemu_open_checkpoint(QemuVmm *qemu, GError **error)
{
    QemuCheckpoint *checkpoint;

    if (qemu->relayed) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "no checkpoints are taken of a QEMU whose QMP goes through a relay");
        return NULL;
    }
    remove_left(qemu);
    checkpoint = g_new0(QemuCheckpoint, 1);
    checkpoint->base.ops = &ops;
    checkpoint->qemu = qemu;
    checkpoint->pipe = -1;
    checkpoint->done = eventfd(0, EFD_CLOEXEC);
    if (checkpoint->done < 0)
        error_set_errno(error, errno, "eventfd");
    else if (make_pipe(checkpoint, error))
        return &checkpoint->base;
    checkpoint_free(&checkpoint->base);
    return NULL;
}

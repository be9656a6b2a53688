/* Taking the state of all devices and vCPUs. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "state/qemu_stream.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/relay.h"

#define RELEASE_PASSES 4

static int open_write_only(int fd, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    int writer = open(path, O_WRONLY | O_CLOEXEC);

    if (writer < 0)
        error_set_errno(error, errno, "open %s", path);
    return writer;
}

/* QEMU opens /dev/fdset/N only with a descriptor of just the right mode, so
 * the read-write one of the memfd will not do. */
static gboolean add_to_fdset(Qmp *qmp, int fd, uint64_t *ret_set, GError **error)
{
    autofd int writer = open_write_only(fd, error);
    g_autoptr(json_t) reply = NULL;

    if (writer < 0)
        return FALSE;
    reply = qmp_execute_fd(qmp, "add-fd", NULL, writer, QMP_COMMAND_MS, error);
    return reply && json_get_count(reply, "fdset-id", G_MAXINT32, ret_set, error);
}

/* `live` on a stopped guest also inactivates the block devices, i.e. releases the
 * image locks; without it, `cont` finds everything as `stop` left it. */
gboolean qemu_save_to_file(Qmp *qmp, const char *name, VmmSavePurpose purpose, GError **error)
{
    return qmp_run(qmp, "xen-save-devices-state",
                   json_pack("{s:s,s:b}", "filename", name, "live", purpose == VMM_SAVE_SWITCHOVER),
                   QEMU_STATE_MS, error);
}

static GBytes *read_whole(int fd, GError **error)
{
    g_autofree guint8 *data = NULL;
    struct stat info;

    if (fstat(fd, &info) < 0) {
        error_set_errno(error, errno, "stat of the device state");
        return NULL;
    }
    if (info.st_size <= 0 || info.st_size > (off_t)QEMU_STREAM_MAX_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "device state of %lld bytes",
                  (long long)info.st_size);
        return NULL;
    }
    data = g_malloc((gsize)info.st_size);
    if (lseek(fd, 0, SEEK_SET) < 0 || !fd_read_all(fd, data, (size_t)info.st_size, error))
        return NULL;
    return g_bytes_new_take(g_steal_pointer(&data), (gsize)info.st_size);
}

static gboolean save_by_fdset(Qmp *qmp, int memory, VmmSavePurpose purpose, GError **error)
{
    g_autofree char *name = NULL;
    uint64_t set;
    gboolean saved;

    if (!add_to_fdset(qmp, memory, &set, error))
        return FALSE;
    name = g_strdup_printf("/dev/fdset/%" G_GUINT64_FORMAT, set);
    saved = qemu_save_to_file(qmp, name, purpose, error);
    (void)qmp_run(qmp, "remove-fd", json_pack("{s:I}", "fdset-id", (json_int_t)set), QMP_COMMAND_MS,
                  NULL);
    return saved;
}

GBytes *qemu_take_stream(QemuVmm *qemu, VmmSavePurpose purpose, GError **error)
{
    autofd int memory = memfd_create("vmferry-device-state", MFD_CLOEXEC);
    gboolean saved;

    if (memory < 0) {
        error_set_errno(error, errno, "memfd_create");
        return NULL;
    }
    saved = qemu->relayed ? qemu_save_relayed(qemu, memory, purpose, error)
                          : save_by_fdset(qemu->qmp, memory, purpose, error);
    return saved ? read_whole(memory, error) : NULL;
}

/* Only a paused guest can be saved.  QEMU 7 aborts where block devices are released
 * twice, so a guest that has released them is refused: after a save for a
 * switchover, a load, or QEMU's own migration.  For a checkpoint, too: its disks
 * may be another host's by now. */
static gboolean check_savable(QemuVmm *qemu, GError **error)
{
    g_autofree char *status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);

    if (!status)
        return FALSE;
    if (qemu_run_state_from_status(status) != VMM_RUN_STATE_PAUSED) {
        error_set(error, VMFERRY_ERROR_FAILED,
                  "device state can only be taken from a paused guest, this one is \"%s\"", status);
        return FALSE;
    }
    if (g_atomic_int_get(&qemu->images_released) || strcmp(status, "postmigrate") == 0) {
        error_set(error, VMFERRY_ERROR_FAILED,
                  "the guest has released its disk images (device state was saved or loaded while "
                  "it was paused); resume it before its state is taken");
        return FALSE;
    }
    return TRUE;
}

/* Tries each node that is still active; those below another active one are refused and come in a
 * later pass.  TRUE where something was released. */
static gboolean release_active_nodes(Qmp *qmp, json_t *nodes)
{
    gboolean released = FALSE;
    json_t *node;
    size_t i;

    json_array_foreach(nodes, i, node)
    {
        const char *name = json_text_or(node, "node-name", NULL);

        if (name && json_is_true(json_object_get(node, "active")))
            released |= qmp_run(qmp, "blockdev-set-active",
                                json_pack("{s:s, s:b}", "node-name", name, "active", 0),
                                QMP_COMMAND_MS, NULL);
    }
    return released;
}

/* QEMU 10.0 goes over its nodes once, and may pass over one that nothing uses: then what is below
 * that stays locked, though a drive has it (an overlay above it that was committed, and a disk
 * plugged later).  Older versions do not tell which nodes are active.  What stays locked all the
 * same is found by the destination, which then refuses. */
static void release_the_rest(QemuVmm *qemu)
{
    gboolean again = qemu->keeps_nodes;

    for (guint pass = 0; again && pass < RELEASE_PASSES; pass++) {
        g_autoptr(json_t) nodes = qmp_execute(qemu->qmp, "query-named-block-nodes",
                                              json_pack("{s:b}", "flat", 1), QMP_COMMAND_MS, NULL);

        again = release_active_nodes(qemu->qmp, nodes);
    }
}

GBytes *qemu_save_device_state(QemuVmm *qemu, VmmSavePurpose purpose, GError **error)
{
    g_autoptr(GBytes) stream = NULL;
    gconstpointer data;
    gsize length;

    if (!check_savable(qemu, error) || !qemu_check_ram(qemu, error))
        return NULL;
    if (purpose == VMM_SAVE_SWITCHOVER && qemu->copies->len > 0) {
        error_set(error, VMFERRY_ERROR_FAILED,
                  "the guest's disks are still being copied or tapped");
        return NULL;
    }
    if (purpose == VMM_SAVE_SWITCHOVER)
        g_atomic_int_set(&qemu->images_released, TRUE);
    stream = qemu_take_stream(qemu, purpose, error);
    if (!stream)
        return NULL;
    if (purpose == VMM_SAVE_SWITCHOVER)
        release_the_rest(qemu);
    data = g_bytes_get_data(stream, &length);
    return qemu_stream_check_saved(data, length, error) ? g_steal_pointer(&stream) : NULL;
}

/* Taking and loading the state of all devices and vCPUs. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "state/qemu_stream.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/unix_socket.h"

#define INCOMING_NAME "vmferry-state"

/* How often a wait looks whether QEMU still lives. */
#define LOOK_MS 50

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

/* live: also inactivate the block devices, i.e. release the image locks. */
static gboolean save_to_fdset(Qmp *qmp, uint64_t set, GError **error)
{
    g_autofree char *name = g_strdup_printf("/dev/fdset/%" G_GUINT64_FORMAT, set);

    return qmp_run(qmp, "xen-save-devices-state",
                   json_pack("{s:s,s:b}", "filename", name, "live", 1), QEMU_STATE_MS, error);
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

static GBytes *take_stream(Qmp *qmp, GError **error)
{
    autofd int memory = memfd_create("vmferry-device-state", MFD_CLOEXEC);
    uint64_t set;
    gboolean saved;

    if (memory < 0) {
        error_set_errno(error, errno, "memfd_create");
        return NULL;
    }
    if (!add_to_fdset(qmp, memory, &set, error))
        return NULL;
    saved = save_to_fdset(qmp, set, error);
    (void)qmp_run(qmp, "remove-fd", json_pack("{s:I}", "fdset-id", (json_int_t)set), QMP_COMMAND_MS,
                  NULL);
    return saved ? read_whole(memory, error) : NULL;
}

/* Only a guest that stands can be saved.  QEMU 7 aborts where block devices
 * are released twice, so that is refused: after a save, a load, or QEMU's own
 * migration. */
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
                  "the guest has released its disk images (device state was taken or loaded while "
                  "it was paused); resume it before its state is taken");
        return FALSE;
    }
    return TRUE;
}

GBytes *qemu_save_device_state(QemuVmm *qemu, GError **error)
{
    g_autofree char *machine = NULL;
    g_autoptr(GBytes) stream = NULL;
    gconstpointer data;
    gsize length;

    if (!check_savable(qemu, error) || !qemu_check_ram(qemu, error))
        return NULL;
    machine = qemu_get_machine(qemu, error);
    if (!machine)
        return NULL;
    g_atomic_int_set(&qemu->images_released, TRUE);
    stream = take_stream(qemu->qmp, error);
    if (!stream)
        return NULL;
    data = g_bytes_get_data(stream, &length);
    return qemu_stream_build_incoming(data, length, machine, error);
}

/* The end of an incoming migration, told by QEMU's MIGRATION event. */
typedef struct QemuArrival {
    GMutex lock;
    GCond changed;
    gboolean completed, failed;
} Arrival;

void qemu_arrival_note(Arrival *arrival, const char *event, json_t *data)
{
    const char *status = json_text_or(data, "status", "");

    if (strcmp(event, "MIGRATION") != 0)
        return;
    g_mutex_lock(&arrival->lock);
    arrival->completed = arrival->completed || strcmp(status, "completed") == 0;
    arrival->failed = arrival->failed || strcmp(status, "failed") == 0;
    g_cond_signal(&arrival->changed);
    g_mutex_unlock(&arrival->lock);
}

/* Why loading failed: QEMU's record, or its end with last words (see
 * qemu_vmm_explain(), which turns DISCONNECTED into them). */
static void set_load_error(QemuVmm *qemu, GError **error)
{
    g_autoptr(json_t) reply = NULL;

    /* QEMU 7 exits right after it has said "failed"; give it the time. */
    if (!process_wait_gone(qemu->pid, qemu->start_time, 1000))
        reply = qmp_execute(qemu->qmp, "query-migrate", NULL, QMP_COMMAND_MS, NULL);
    if (!reply)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "QEMU has ended");
    else
        error_set(error, VMFERRY_ERROR_FAILED, "QEMU says: %s",
                  json_text_or(reply, "error-desc", "loading failed without a reason"));
}

/* Waits for the event, looking now and then whether QEMU lives. */
static gboolean await_arrival(QemuVmm *qemu, Arrival *arrival, gint64 deadline, GError **error)
{
    gboolean completed, failed, late = FALSE;

    g_mutex_lock(&arrival->lock);
    while (!arrival->completed && !arrival->failed && qmp_is_connected(qemu->qmp) && !late) {
        gint64 now = g_get_monotonic_time();

        g_cond_wait_until(&arrival->changed, &arrival->lock, now + LOOK_MS * 1000);
        late = now > deadline;
    }
    completed = arrival->completed;
    failed = arrival->failed;
    g_mutex_unlock(&arrival->lock);
    if (completed)
        return TRUE;
    if (late && !failed)
        error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU does not finish loading");
    else
        set_load_error(qemu, error);
    return FALSE;
}

/* Opens the way in; returns our end of it, -1 with *error*. */
static int start_incoming(Qmp *qmp, GError **error)
{
    autofd int ours = -1;
    autofd int theirs = -1;
    g_autoptr(json_t) reply = NULL;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        error_set_errno(error, errno, "socketpair");
        return -1;
    }
    ours = pair[0];
    theirs = pair[1];
    reply = qmp_execute_fd(qmp, "getfd", json_pack("{s:s}", "fdname", INCOMING_NAME), theirs,
                           QMP_COMMAND_MS, error);
    if (!reply || !qmp_run(qmp, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" INCOMING_NAME),
                           QMP_COMMAND_MS, error))
        return -1;
    return fd_steal(&ours);
}

static gboolean check_state_fits(QemuVmm *qemu, GBytes *state, GError **error)
{
    g_autofree char *ours = qemu_get_machine(qemu, error);
    g_autofree char *theirs = NULL;
    gsize length;
    gconstpointer data = g_bytes_get_data(state, &length);

    if (!ours)
        return FALSE;
    theirs = qemu_stream_check_incoming(data, length, error);
    if (!theirs)
        return FALSE;
    if (strcmp(ours, theirs) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "the guest is of machine type %s, QEMU here was started as %s", theirs, ours);
    return FALSE;
}

static gboolean load(QemuVmm *qemu, GBytes *state, Arrival *arrival, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)QEMU_STATE_MS * 1000;
    autofd int fd = start_incoming(qemu->qmp, error);
    g_autofree char *status = NULL;
    gsize length, sent;
    const char *data = g_bytes_get_data(state, &length);

    if (fd < 0 || !unix_socket_send(fd, data, length, -1, deadline, &sent, error))
        return FALSE;
    shutdown(fd, SHUT_WR);
    if (!await_arrival(qemu, arrival, deadline, error))
        return FALSE;
    status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);
    if (!status || qemu_run_state_from_status(status) == VMM_RUN_STATE_PAUSED)
        return status != NULL;
    error_set(error, VMFERRY_ERROR_FAILED, "QEMU is in state \"%s\" after loading", status);
    return FALSE;
}

gboolean qemu_load_device_state(QemuVmm *qemu, GBytes *state, GError **error)
{
    Arrival arrival = {0};
    gboolean ok;

    if (!check_state_fits(qemu, state, error) || !qemu_check_ram(qemu, error))
        return FALSE;
    g_mutex_init(&arrival.lock);
    g_cond_init(&arrival.changed);
    qemu_vmm_set_arrival(qemu, &arrival);
    /* With late-block-activate nothing is opened before `cont`. */
    g_atomic_int_set(&qemu->images_released, TRUE);
    ok = load(qemu, state, &arrival, error);
    qemu_vmm_set_arrival(qemu, NULL);
    g_mutex_clear(&arrival.lock);
    g_cond_clear(&arrival.changed);
    if (!ok)
        g_prefix_error(error, "load device state: ");
    return ok;
}

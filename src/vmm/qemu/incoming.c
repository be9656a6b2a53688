/*
 * A destination's incoming stream: opened right after the launch, ended by the
 * device state.
 *
 * What opens it (state/qemu_stream.h) makes QEMU resize its RAM blocks to the
 * source's and puts a marker into each, by which they are found
 * (ram_incoming.c).  Then QEMU waits for more, and answers QMP meanwhile.
 * Whatever closes the stream before its end makes QEMU exit.
 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "memory/guest_memory.h"
#include "state/qemu_stream.h"
#include "vmm/qemu/driver.h"
#include "base/unix_socket.h"

#define INCOMING_NAME "vmferry-state"

/* How often a wait looks whether QEMU still lives, and for markers. */
#define LOOK_MS 50
#define LOOK_MARKERS_MS 1
#define ENDING_MS 1000

static gboolean fill_random(uint8_t *out, size_t length, GError **error)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = getrandom(out + done, length - done, 0);

        if (got < 0 && errno != EINTR) {
            error_set_errno(error, errno, "getrandom");
            return FALSE;
        }
        done += (size_t)MAX(got, 0);
    }
    return TRUE;
}

/* Opens the way in; returns our end of it, -1 with *error*. */
static int start_incoming(QemuVmm *qemu, GError **error)
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
    g_mutex_lock(&qemu->event_lock);
    qemu->arrival = QEMU_ARRIVAL_OPEN;
    g_mutex_unlock(&qemu->event_lock);
    reply = qmp_execute_fd(qemu->qmp, "getfd", json_pack("{s:s}", "fdname", INCOMING_NAME), theirs,
                           QMP_COMMAND_MS, error);
    if (!reply || !qmp_run(qemu->qmp, "migrate-incoming",
                           json_pack("{s:s}", "uri", "fd:" INCOMING_NAME), QMP_COMMAND_MS, error))
        return -1;
    return fd_steal(&ours);
}

/* Why QEMU does not take the stream: its record, or its end with the stderr
 * tail (see qemu_vmm_add_exit_reason(), which adds that to DISCONNECTED). */
static void set_stream_error(QemuVmm *qemu, GError **error)
{
    g_autoptr(json_t) reply = NULL;

    /* QEMU exits right after it has reported "failed"; give it the time. */
    if (!process_wait_gone(qemu->pid, qemu->start_time, ENDING_MS))
        reply = qmp_execute(qemu->qmp, "query-migrate", NULL, QMP_COMMAND_MS, NULL);
    if (!reply)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "QEMU has ended");
    else
        error_set(error, VMFERRY_ERROR_FAILED, "QEMU says: %s",
                  json_text_or(reply, "error-desc", "loading failed without a reason"));
}

/* Waits for the stream's end for *timeout_ms* at most; what came of it so far. */
static QemuArrival wait_arrival(QemuVmm *qemu, gint64 timeout_ms)
{
    gint64 end = g_get_monotonic_time() + timeout_ms * 1000;
    QemuArrival arrival;

    g_mutex_lock(&qemu->event_lock);
    if (qemu->arrival == QEMU_ARRIVAL_OPEN)
        g_cond_wait_until(&qemu->event_came, &qemu->event_lock, end);
    arrival = qemu->arrival;
    g_mutex_unlock(&qemu->event_lock);
    if (arrival == QEMU_ARRIVAL_OPEN && !qmp_is_connected(qemu->qmp))
        return QEMU_ARRIVAL_FAILED;
    return arrival;
}

/* FALSE where the stream was ended or refused, or *deadline* is over. */
static gboolean check_open(QemuVmm *qemu, gint64 deadline, GError **error)
{
    if (wait_arrival(qemu, LOOK_MARKERS_MS) != QEMU_ARRIVAL_OPEN) {
        set_stream_error(qemu, error);
        return FALSE;
    }
    if (g_get_monotonic_time() <= deadline)
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU does not read its incoming stream");
    return FALSE;
}

/* A QEMU that ends meanwhile cannot be read; what it said is the reason then. */
static gboolean look_for_markers(QemuVmm *qemu, const GPtrArray *blocks, const GArray *ram,
                                 const uint8_t *markers, gboolean *ret_all, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (qemu_find_markers(blocks, ram, markers, qemu_read_memory, GINT_TO_POINTER(qemu->pid),
                          ret_all, &failure))
        return TRUE;
    if (!error_is(failure, VMFERRY_ERROR_INVALID) &&
        process_wait_gone(qemu->pid, qemu->start_time, ENDING_MS))
        set_stream_error(qemu, error);
    else
        g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

static gboolean await_markers(QemuVmm *qemu, const GPtrArray *blocks, const uint8_t *markers,
                              gint64 deadline, GError **error)
{
    g_autoptr(QemuMappings) mappings = qemu_read_mappings(qemu->pid, error);
    gboolean all = FALSE;

    if (!mappings)
        return FALSE;
    /* What `info ramblock` told is compared at the end. */
    for (guint i = 0; i < blocks->len; i++)
        ((QemuRamBlock *)blocks->pdata[i])->host_address = 0;
    while (!all)
        if (!check_open(qemu, deadline, error) ||
            !look_for_markers(qemu, blocks, mappings->ram, markers, &all, error))
            return FALSE;
    return TRUE;
}

static gboolean send_stream(QemuVmm *qemu, GBytes *stream, gint64 deadline, GError **error)
{
    gsize length, sent;
    const char *data = g_bytes_get_data(stream, &length);

    if (unix_socket_send(qemu->incoming_fd, data, length, -1, deadline, &sent, error))
        return TRUE;
    g_prefix_error(error, "QEMU's incoming socket: ");
    return FALSE;
}

static gboolean send_beginning(QemuVmm *qemu, const GPtrArray *regions, const uint8_t *markers,
                               gint64 deadline, GError **error)
{
    g_autofree QemuStreamBlock *blocks = g_new0(QemuStreamBlock, regions->len + 1);
    g_autoptr(GBytes) stream = NULL;

    for (guint i = 0; i < regions->len; i++) {
        const RamRegion *region = regions->pdata[i];

        blocks[i] =
            (QemuStreamBlock){region->name, region->bytes, markers + i * (gsize)QEMU_MARKER_BYTES};
    }
    stream = qemu_stream_build_begin(qemu->machine, blocks, regions->len, error);
    return stream && send_stream(qemu, stream, deadline, error);
}

/* What QEMU says of the blocks by now: as long as the source's, and where they
 * were found (where it tells). */
static gboolean check_blocks(QemuVmm *qemu, const GPtrArray *found, const GPtrArray *regions,
                             GError **error)
{
    g_autoptr(GPtrArray) told = qemu_query_ram_blocks(qemu->qmp, error);
    g_autoptr(GPtrArray) matched = told ? qemu_match_regions(told, regions, error) : NULL;

    for (guint i = 0; matched && i < matched->len; i++) {
        const QemuRamBlock *now = matched->pdata[i];
        QemuRamBlock *block = found->pdata[i];
        const RamRegion *region = regions->pdata[i];

        if (now->used != region->bytes ||
            (now->host_address != 0 && now->host_address != block->host_address)) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "RAM block %s of QEMU is not what was made of it", block->name);
            return FALSE;
        }
        block->used = now->used;
    }
    return matched != NULL;
}

static gboolean open_stream(QemuVmm *qemu, const GPtrArray *blocks, const GPtrArray *regions,
                            GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)QEMU_STATE_MS * 1000;
    g_autofree uint8_t *markers = g_malloc_n(blocks->len + 1, QEMU_MARKER_BYTES);

    if (!fill_random(markers, blocks->len * (gsize)QEMU_MARKER_BYTES, error))
        return FALSE;
    qemu->incoming_fd = start_incoming(qemu, error);
    /* All bytes of a marker are random, so one that is there as a whole is not
     * being written any more: the page may be cleared now. */
    return qemu->incoming_fd >= 0 && send_beginning(qemu, regions, markers, deadline, error) &&
           await_markers(qemu, blocks, markers, deadline, error) &&
           check_blocks(qemu, blocks, regions, error);
}

gboolean qemu_open_stream(QemuVmm *qemu, const GPtrArray *regions, GError **error)
{
    g_autofree char *machine = qemu_get_machine(qemu, error);
    g_autoptr(GPtrArray) blocks = machine ? qemu_query_ram_blocks(qemu->qmp, error) : NULL;
    g_autoptr(GPtrArray) matched = blocks ? qemu_match_regions(blocks, regions, error) : NULL;

    if (!matched)
        return FALSE;
    if (!open_stream(qemu, matched, regions, error)) {
        fd_close(&qemu->incoming_fd);
        g_prefix_error(error, "open the incoming stream: ");
        return FALSE;
    }
    g_clear_pointer(&qemu->ram_blocks, g_ptr_array_unref);
    qemu->ram_blocks = g_steal_pointer(&blocks);
    return TRUE;
}

gboolean qemu_open_incoming(QemuVmm *qemu, const char *machine, const GPtrArray *regions,
                            GError **error)
{
    return qemu_check_machine_type(qemu, machine, error) && qemu_open_stream(qemu, regions, error);
}

/* Waits for the event, looking now and then whether QEMU lives. */
static gboolean await_loaded(QemuVmm *qemu, gint64 deadline, GError **error)
{
    QemuArrival arrival = QEMU_ARRIVAL_OPEN;

    while (arrival == QEMU_ARRIVAL_OPEN && g_get_monotonic_time() <= deadline)
        arrival = wait_arrival(qemu, LOOK_MS);
    if (arrival == QEMU_ARRIVAL_OPEN)
        error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU does not finish loading");
    else if (arrival == QEMU_ARRIVAL_FAILED)
        set_stream_error(qemu, error);
    return arrival == QEMU_ARRIVAL_COMPLETED;
}

static gboolean load(QemuVmm *qemu, GBytes *stream, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)QEMU_STATE_MS * 1000;
    g_autofree char *status = NULL;

    if (!send_stream(qemu, stream, deadline, error))
        return FALSE;
    shutdown(qemu->incoming_fd, SHUT_WR);
    if (!await_loaded(qemu, deadline, error))
        return FALSE;
    status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);
    if (!status || qemu_run_state_from_status(status) == VMM_RUN_STATE_PAUSED)
        return status != NULL;
    error_set(error, VMFERRY_ERROR_FAILED, "QEMU is in state \"%s\" after loading", status);
    return FALSE;
}

gboolean qemu_load_device_state(QemuVmm *qemu, GBytes *state, GError **error)
{
    g_autoptr(GBytes) stream = NULL;
    gsize length;
    gconstpointer data = g_bytes_get_data(state, &length);
    gboolean loaded;

    if (qemu->incoming_fd < 0) {
        error_set(error, VMFERRY_ERROR_FAILED, "no incoming stream of this QEMU is open");
        return FALSE;
    }
    stream = qemu_stream_build_end(data, length, error);
    if (!stream)
        return FALSE;
    /* With late-block-activate nothing is opened before `cont`. */
    g_atomic_int_set(&qemu->images_released, TRUE);
    loaded = load(qemu, stream, error);
    fd_close(&qemu->incoming_fd);
    qemu->loaded = loaded;
    if (!loaded)
        g_prefix_error(error, "load device state: ");
    return loaded;
}

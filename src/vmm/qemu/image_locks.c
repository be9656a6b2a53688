/* The locks on the disk images of a stopped guest: does it hold them, and how
 * it gets them back without running. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "inject/inject.h"
#include "vmm/qemu/driver.h"

#define MAX_FDINFO_BYTES 65536
#define ACTIVATE_NAME "vmferry-activate"

/* QEMU locks its image files by open file description; the kernel shows that. */
static gboolean holds_locks(pid_t pid)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fdinfo", (int)pid);
    g_autoptr(GDir) entries = g_dir_open(folder, 0, NULL);
    const char *name;

    while (entries && (name = g_dir_read_name(entries))) {
        g_autofree char *path = g_strdup_printf("%s/%s", folder, name);
        g_autofree char *text = file_read(path, MAX_FDINFO_BYTES, NULL, NULL);

        if (text && strstr(text, "OFDLCK"))
            return TRUE;
    }
    return FALSE;
}

static gboolean has_images(Qmp *qmp)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-block", NULL, QMP_COMMAND_MS, NULL);
    json_t *device;
    size_t index;

    json_array_foreach(reply, index, device) if (json_object_get(device, "inserted")) return TRUE;
    return FALSE;
}

gboolean qemu_images_may_be_released(QemuVmm *qemu)
{
    g_autofree char *status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, NULL);

    return status && qemu_run_state_from_status(status) != VMM_RUN_STATE_RUNNING &&
           has_images(qemu->qmp) && !holds_locks(qemu->pid);
}

/* An NBD export makes its node ready for writing, whatever the guest does; no
 * client ever connects. */
static gboolean activate_by_export(Qmp *qmp, const char *node, GError **error)
{
    json_t *export =
        json_pack("{s:s, s:s, s:s}", "type", "nbd", "id", ACTIVATE_NAME, "node-name", node);

    if (!qmp_run(qmp, "block-export-add", export, QEMU_CONT_MS, error))
        return FALSE;
    return qmp_run(qmp, "block-export-del",
                   json_pack("{s:s, s:s}", "id", ACTIVATE_NAME, "mode", "hard"), QMP_COMMAND_MS,
                   error);
}

static gboolean has_parent_node(json_t *edges, json_t *nodes, json_int_t id)
{
    json_t *edge, *node;
    size_t i, k;

    json_array_foreach(edges, i, edge)
    {
        if (json_integer_value(json_object_get(edge, "child")) != id)
            continue;
        json_array_foreach(nodes, k, node)
        {
            if (json_integer_value(json_object_get(node, "id")) ==
                    json_integer_value(json_object_get(edge, "parent")) &&
                g_str_equal(json_text_or(node, "type", ""), "block-driver"))
                return TRUE;
        }
    }
    return FALSE;
}

/* All that are not below another one, which makes those below them ready, too; also what no drive
 * uses: QEMU 7.2 aborts when it is to release a node that is not ready. */
static gboolean activate_roots(Qmp *qmp, json_t *graph, GError **error)
{
    json_t *nodes = json_object_get(graph, "nodes");
    json_t *edges = json_object_get(graph, "edges");
    json_t *node;
    size_t i;

    json_array_foreach(nodes, i, node)
    {
        if (g_str_equal(json_text_or(node, "type", ""), "block-driver") &&
            !has_parent_node(edges, nodes, json_integer_value(json_object_get(node, "id"))) &&
            !activate_by_export(qmp, json_text_or(node, "name", ""), error))
            return FALSE;
    }
    return TRUE;
}

/* A listening socket without a name, so that it needs no folder that QEMU may
 * write to; -1 with *error*. */
static int listen_nowhere(GError **error)
{
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address.sun_family) < 0 ||
        listen(fd, 1) < 0) {
        error_set_errno(error, errno, "make a socket");
        return -1;
    }
    return fd_steal(&fd);
}

static gboolean start_nbd_server(Qmp *qmp, GError **error)
{
    autofd int fd = listen_nowhere(error);
    g_autoptr(json_t) named = NULL;

    if (fd < 0)
        return FALSE;
    named = qmp_execute_fd(qmp, "getfd", json_pack("{s:s}", "fdname", ACTIVATE_NAME), fd,
                           QMP_COMMAND_MS, error);
    return named && qmp_run(qmp, "nbd-server-start",
                            json_pack("{s:{s:s, s:{s:s}}}", "addr", "type", "fd", "data", "str",
                                      ACTIVATE_NAME),
                            QMP_COMMAND_MS, error);
}

/* Before QEMU 10, whose blockdev-set-active does this. */
static gboolean activate_by_exports(QemuVmm *qemu, GError **error)
{
    g_autoptr(json_t) graph =
        qmp_execute(qemu->qmp, "x-debug-query-block-graph", NULL, QMP_COMMAND_MS, error);
    gboolean done;

    if (!graph || !start_nbd_server(qemu->qmp, error))
        return FALSE;
    done = activate_roots(qemu->qmp, graph, error);
    return qmp_run(qemu->qmp, "nbd-server-stop", NULL, QMP_COMMAND_MS, done ? error : NULL) && done;
}

gboolean qemu_take_images(QemuVmm *qemu, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (!g_atomic_int_get(&qemu->images_released))
        return TRUE;
    if (!qmp_run(qemu->qmp, "blockdev-set-active", json_pack("{s:b}", "active", 1), QEMU_CONT_MS,
                 &failure)) {
        if (!error_is(failure, VMFERRY_ERROR_UNSUPPORTED)) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return FALSE;
        }
        if (!activate_by_exports(qemu, error))
            return FALSE;
    }
    g_atomic_int_set(&qemu->images_released, FALSE);
    return TRUE;
}

typedef struct {
    pid_t pid;
    const char *file;
    int64_t result; /* -errno; 0 also where it could not be asked */
} AccessQuestion;

/* In a thread of its own: see inject.h. */
static gpointer ask_thread(gpointer data)
{
    AccessQuestion *question = data;
    size_t length = strlen(question->file) + 1;
    g_autoptr(Inject) inject = NULL;
    int64_t answer;

    if (length > INJECT_SCRATCH_BYTES)
        return NULL;
    inject = inject_attach(question->pid, NULL);
    if (inject && inject_write_scratch(inject, question->file, length, NULL) &&
        inject_call(inject, SYS_faccessat2,
                    (uint64_t[6]){(uint64_t)AT_FDCWD, inject_get_scratch(inject), W_OK, AT_EACCESS},
                    &answer, NULL))
        question->result = answer;
    return NULL;
}

gboolean qemu_check_writable(QemuVmm *qemu, const VmmImage *image, GError **error)
{
    AccessQuestion question = {.pid = qemu->pid, .file = image->file};

    /* Only of this host's files, and nothing is known of one with a long name. */
    if (!image->path)
        return TRUE;
    g_thread_join(g_thread_new("access", ask_thread, &question));
    /* Others say nothing of writing (ENOSYS: a kernel before 5.8). */
    if (question.result != -EROFS && question.result != -EACCES && question.result != -EPERM)
        return TRUE;
    error_set_errno(error, (int)-question.result, "%s: QEMU cannot write to %s", image->device,
                    image->file);
    return FALSE;
}

/* Adopting a QEMU that runs already. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "vmm/libvirt/address.h"
#include "vmm/libvirt/domain.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/qmp_libvirt.h"
#include "vmm/qemu/qmp_places.h"
#include "vmm/qemu/relay.h"
#include "base/unix_socket.h"

/* A user waits: that a socket is busy is reported soon. */
#define ADOPT_GREETING_MS 1500

static char *read_link(pid_t pid, const char *entry)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, entry);

    return g_file_read_link(path, NULL);
}

/* The pid that listens on the socket; 0 where it cannot be told. */
static pid_t listener_of(const char *path)
{
    autofd int fd = unix_socket_connect(path, NULL);
    struct ucred credentials;
    socklen_t length = sizeof credentials;

    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
        return 0;
    return credentials.pid;
}

/* TRUE where the first vCPU's thread is one of this process. */
static gboolean vcpu_is_of(Qmp *qmp, pid_t pid)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-cpus-fast", NULL, QMP_COMMAND_MS, NULL);
    g_autofree char *path = NULL;

    path = g_strdup_printf("/proc/%d/task/%" G_GUINT64_FORMAT, (int)pid,
                           json_count_or(json_array_get(reply, 0), "thread-id", 0));
    return access(path, F_OK) == 0;
}

gboolean qemu_check_owner(Qmp *qmp, const char *where, pid_t pid, GError **error)
{
    pid_t listener;

    if (vcpu_is_of(qmp, pid))
        return TRUE;
    listener = listener_of(where);
    if (listener == pid)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "QMP socket %s belongs to another process (pid %d)",
              where, (int)listener);
    return FALSE;
}

static Qmp *connect_one(pid_t pid, const char *where, int greeting_ms, GError **error)
{
    g_autoptr(Qmp) qmp = libvirt_address_is(where) ? qmp_open_libvirt(where, error)
                                                   : qmp_connect(where, greeting_ms, error);

    if (!qmp || !qmp_run(qmp, "query-version", NULL, QMP_COMMAND_MS, error) ||
        !qemu_check_owner(qmp, where, pid, error))
        return NULL;
    return g_steal_pointer(&qmp);
}

static Qmp *connect_any(pid_t pid, char **argv, char **ret_where, GError **error)
{
    g_autoptr(GPtrArray) places = qmp_places_find(pid, argv, error);
    g_autoptr(GError) best = NULL;

    for (guint i = 0; places && i < places->len; i++) {
        g_autoptr(GError) problem = NULL;
        Qmp *qmp = connect_one(pid, places->pdata[i], ADOPT_GREETING_MS, &problem);

        if (qmp) {
            *ret_where = g_strdup(places->pdata[i]);
            return qmp;
        }
        /* That nothing is at a place says less than what another one said. */
        if (!best || error_is(best, VMFERRY_ERROR_NOT_FOUND)) {
            g_clear_error(&best);
            best = g_steal_pointer(&problem);
        }
    }
    if (places)
        g_propagate_error(error, g_steal_pointer(&best));
    return NULL;
}

/* libvirt holds the monitor of its guests. */
static Qmp *connect_by_libvirt(pid_t pid, const char *uuid, const char *name, char **ret_where,
                               GError **error)
{
    g_autofree char *address = NULL;
    pid_t found = 0;

    if (!libvirt_domain_find(NULL, uuid, &address, &found, error)) {
        g_prefix_error(error,
                       "pid %d is the domain %s of libvirt, which alone can reach its monitor "
                       "(`vmferry adopt NAME --libvirt %s --connect URI` names another daemon): ",
                       (int)pid, name, name);
        return NULL;
    }
    if (found != pid) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "pid %d says that it is the domain %s of libvirt, whose process is %d", (int)pid,
                  name, (int)found);
        return NULL;
    }
    *ret_where = g_strdup(address);
    return connect_one(pid, address, ADOPT_GREETING_MS, error);
}

static Qmp *connect_found(pid_t pid, char **argv, char **ret_where, GError **error)
{
    g_autofree char *name = NULL;
    const char *uuid;

    return libvirt_domain_is_of(argv, &uuid, &name)
               ? connect_by_libvirt(pid, uuid, name, ret_where, error)
               : connect_any(pid, argv, ret_where, error);
}

/* What a user named: "@NAME", or a path; or what is on record. */
static Qmp *connect_named(pid_t pid, const char *name, char **ret_where, GError **error)
{
    struct stat info;
    Qmp *qmp;

    if (libvirt_address_is(name)) {
        *ret_where = g_strdup(name);
        return connect_one(pid, name, ADOPT_GREETING_MS, error);
    }
    *ret_where = name[0] == '@' ? unix_socket_abstract(pid, name + 1, FALSE) : g_strdup(name);
    if (name[0] != '@' && stat(name, &info) == 0 && !S_ISSOCK(info.st_mode)) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s is not a socket, so not a QMP socket either",
                  name);
        return NULL;
    }
    qmp = connect_one(pid, *ret_where, ADOPT_GREETING_MS, error);
    return qmp;
}

/* A program named by a relative path could not be found elsewhere. */
static void resolve_program(pid_t pid, char **command_line)
{
    char *program;

    if (!command_line[0] || g_path_is_absolute(command_line[0]) || !strchr(command_line[0], '/'))
        return;
    program = read_link(pid, "exe");
    if (program) {
        g_free(command_line[0]);
        command_line[0] = program;
    }
}

/* QEMU before 10 does not tell whether a stopped guest's images are released. */
static Vmm *take(const VmmIdentity *identity, Qmp *qmp)
{
    Vmm *vmm = qemu_vmm_new(identity->pid, identity->start_time, identity->control_path,
                            identity->log_path, identity->command_line, qmp);
    QemuVmm *qemu = (QemuVmm *)vmm;

    qemu->working_directory = identity->working_directory
                                  ? g_strdup(identity->working_directory)
                                  : qemu_read_working_directory(identity->pid);
    qemu->relayed = qemu_is_relayed(qmp);
    if (qemu_images_may_be_released(qemu))
        g_atomic_int_set(&qemu->images_released, TRUE);
    qemu_remove_left_copies(qemu);
    qemu_remove_left_changes(qemu);
    return vmm;
}

Vmm *qemu_adopt(pid_t pid, const char *qmp_path, GError **error)
{
    g_auto(GStrv) argv = NULL, clean = NULL;
    g_autofree char *where = NULL, *folder = NULL;
    uint64_t start_time;
    Qmp *qmp;

    if (!process_get_start_time(pid, &start_time, error))
        return NULL;
    argv = process_get_command_line(pid, error);
    if (!argv)
        return NULL;
    qmp = qmp_path ? connect_named(pid, qmp_path, &where, error)
                   : connect_found(pid, argv, &where, error);
    if (!qmp)
        return NULL;
    clean = qemu_command_line_clean(argv);
    resolve_program(pid, clean);
    folder = qemu_read_working_directory(pid);
    return take(&(VmmIdentity){.pid = pid,
                               .start_time = start_time,
                               .control_path = where,
                               .command_line = clean,
                               .working_directory = folder},
                qmp);
}

Vmm *qemu_reattach(const VmmIdentity *identity, GError **error)
{
    Vmm *vmm;
    Qmp *qmp;

    if (!process_is_same(identity->pid, identity->start_time)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "QEMU (pid %d) has ended", (int)identity->pid);
        return NULL;
    }
    qmp = connect_one(identity->pid, identity->control_path, QMP_GREETING_MS, error);
    if (!qmp)
        return NULL;
    vmm = take(identity, qmp);
    /* A guard may have resumed it, which can say `cont` only. */
    qemu_repeat_interrupts((QemuVmm *)vmm);
    return vmm;
}

#include "vmm/qemu/iothreads.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "inject/inject.h"
#include "vmm/qemu/driver.h"

#define EVENTFD_LINK "anon_inode:[eventfd]"
#define FIRST_MAJOR 8 /* 7.2 does not lose any */

gboolean qemu_loses_interrupts(const char *version, const json_t *iothreads)
{
    return json_array_size(iothreads) > 0 && g_ascii_strtoull(version, NULL, 10) >= FIRST_MAJOR;
}

static gboolean may_lose(QemuVmm *qemu, gboolean *ret, char **ret_version, GError **error)
{
    g_autofree char *version = qemu_query_version(qemu->qmp, error);
    g_autoptr(json_t) iothreads =
        version ? qmp_execute(qemu->qmp, "query-iothreads", NULL, QMP_COMMAND_MS, error) : NULL;

    if (!iothreads)
        return FALSE;
    *ret = qemu_loses_interrupts(version, iothreads);
    *ret_version = g_steal_pointer(&version);
    return TRUE;
}

gboolean qemu_check_turns(QemuVmm *qemu, GError **error)
{
    g_autofree char *version = NULL;
    gboolean loses = FALSE;

    if (!may_lose(qemu, &loses, &version, error))
        return FALSE;
    if (!loses)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "the guest has disks in iothreads, and QEMU %s may lose an interrupt of such a disk "
              "each time it is paused",
              version);
    return FALSE;
}

static gboolean is_eventfd(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autofree char *target = g_file_read_link(path, NULL);

    return g_strcmp0(target, EVENTFD_LINK) == 0;
}

/* Looks again at what was taken: the number may be another file's by then, and
 * nothing must be written to a disk image. */
static gboolean signal_one(pid_t pid, const char *name)
{
    autofd int fd = inject_take_fd(pid, atoi(name), NULL);
    g_autofree char *number = g_strdup_printf("%d", fd);
    const uint64_t one = 1;

    return fd >= 0 && is_eventfd("/proc/self/fd", number) &&
           write(fd, &one, sizeof one) == sizeof one;
}

guint qemu_signal_eventfds(pid_t pid)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;
    guint count = 0;

    while (dir && (name = g_dir_read_name(dir)))
        if (is_eventfd(folder, name) && signal_one(pid, name))
            count++;
    return count;
}

void qemu_repeat_interrupts(QemuVmm *qemu)
{
    g_autoptr(GError) problem = NULL;
    g_autofree char *version = NULL;
    gboolean loses = FALSE;

    if (!may_lose(qemu, &loses, &version, &problem))
        log_debug("interrupts of disks are not repeated: %s", problem->message);
    else if (loses)
        log_debug("signalled %u eventfds of QEMU %s", qemu_signal_eventfds(qemu->pid), version);
}

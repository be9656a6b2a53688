/*
 * The tap device behind a network card
 *
 * Theory of operation: QEMU tells which interface it has opened by name ("ifname=tap0"), or by which
 * descriptor it was given one ("fd=34"); where a helper program opened it neither, and it is the only
 * one that QEMU has.  A copy of that descriptor is taken from the process: the kernel says of it what
 * interface it is, in whatever network namespace.
 */
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/error.h"
#include "base/fd.h"
#include "inject/inject.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/machine.h"

/* Of /dev/net/tun (include/linux/miscdevice.h). */
#define MISC_MAJOR 10u
#define TUN_MINOR 200u
#define MAX_FDS 65536u

/* -1 where it is no tap device, or its file is not read (a process that opens and closes). */
static int take_tap(pid_t pid, int number, char name[IFNAMSIZ])
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)pid, number);
    struct ifreq request = {0};
    struct stat file;
    autofd int fd = -1;

    if (stat(path, &file) < 0 || !S_ISCHR(file.st_mode) || major(file.st_rdev) != MISC_MAJOR ||
        minor(file.st_rdev) != TUN_MINOR)
        return -1;
    fd = inject_take_fd(pid, number, NULL);
    if (fd < 0 || ioctl(fd, TUNGETIFF, &request) < 0 || !(request.ifr_flags & IFF_TAP))
        return -1;
    g_strlcpy(name, request.ifr_name, IFNAMSIZ);
    return fd_steal(&fd);
}

typedef struct {
    int fd; /* -1: none */
    char name[IFNAMSIZ];
    gboolean several; /* interfaces */
} Found;

/* *wanted* NULL: any. */
static void look_at(pid_t pid, int number, const char *wanted, Found *found)
{
    char name[IFNAMSIZ];
    autofd int fd = take_tap(pid, number, name);

    if (fd < 0 || (wanted && strcmp(wanted, name) != 0))
        return;
    if (found->fd >= 0) {
        found->several = found->several || strcmp(found->name, name) != 0;
        return;
    }
    found->fd = fd_steal(&fd);
    g_strlcpy(found->name, name, sizeof found->name);
}

static int find_tap(pid_t pid, const char *wanted)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) entries = g_dir_open(folder, 0, NULL);
    Found found = {.fd = -1};
    const char *entry;

    for (guint i = 0; entries && i < MAX_FDS && (entry = g_dir_read_name(entries)); i++)
        look_at(pid, atoi(entry), wanted, &found);
    if (found.several)
        fd_close(&found.fd);
    return found.fd;
}

static int open_network(pid_t pid, const QemuNetwork *network)
{
    g_autofree char *number = qemu_network_setting(network, "fd");
    g_autofree char *name = qemu_network_setting(network, "ifname");
    char ignored[IFNAMSIZ];

    if (strcmp(network->type, "tap") != 0)
        return -1;
    return number ? take_tap(pid, atoi(number), ignored) : find_tap(pid, name);
}

int qemu_open_tap_interface(QemuVmm *qemu, const char *id, GError **error)
{
    g_autofree char *text = qmp_execute_human(qemu->qmp, "info network", QMP_COMMAND_MS, error);
    g_autoptr(GPtrArray) networks = text ? qemu_networks_parse(text) : NULL;
    int fd = -1;

    if (!networks)
        return -1;
    for (guint i = 0; i < networks->len && fd < 0; i++) {
        const QemuNetwork *network = networks->pdata[i];

        if (strcmp(network->id, id) == 0)
            fd = open_network(qemu->pid, network);
    }
    if (fd < 0)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "no tap interface is found behind it");
    return fd;
}

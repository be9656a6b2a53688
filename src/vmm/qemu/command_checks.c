/* What of a command line cannot be started or followed by us. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/options.h"
#include "vmm/qemu/start_options.h"
#include "base/unix_socket.h"

/* Options whose value is a parameter list; the text of others ("-append") may
 * look like one by chance. */
static const char *const list_options[] = {
    "add-fd", "audiodev", "blockdev", "chardev", "debugcon",   "device", "display",
    "drive",  "fsdev",    "gdb",      "mon",     "monitor",    "net",    "netdev",
    "nic",    "object",   "parallel", "qmp",     "qmp-pretty", "serial", "spice",
    "tpmdev", "virtfs",   "vnc",      NULL,
};

static gboolean holds_list(const QemuOption *option)
{
    return option->name && option->value && g_strv_contains(list_options, option->name);
}

static gboolean needs_descriptor(const QemuOption *option)
{
    static const char *const keys[] = {"fd", "fds", "vhostfd", "vhostfds"};
    g_autoptr(QemuParameters) parameters = NULL;

    if (!holds_list(option))
        return FALSE;
    if (strcmp(option->name, "add-fd") == 0 || strstr(option->value, "/dev/fdset/"))
        return TRUE;
    parameters = qemu_parameters_parse(option->value, "type");
    for (guint i = 0; i < G_N_ELEMENTS(keys); i++)
        if (qemu_parameters_has_leaf(parameters, keys[i]))
            return TRUE;
    return FALSE;
}

gboolean qemu_command_line_check_descriptors(char *const *argv, GError **error)
{
    QemuOption option = {0};

    while (qemu_option_next(argv, &option)) {
        if (!needs_descriptor(&option))
            continue;
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest's command line hands QEMU an open descriptor (-%s %.200s), which "
                  "does not exist on another host; add a map rule to agent.conf there that "
                  "replaces it (for a tap device: by ifname=…,script=no)",
                  option.name, option.value);
        return FALSE;
    }
    return TRUE;
}

/* A path of the command line, which starts at *folder* where it is relative. */
static char *path_in(const char *folder, const char *path)
{
    return g_path_is_absolute(path) ? g_strdup(path) : g_build_filename(folder, path, NULL);
}

/* The listening socket path of one option, NULL for none. */
static char *server_path(const QemuOption *option)
{
    g_autoptr(QemuParameters) parameters = NULL;
    const char *value = option->value;

    if (!holds_list(option))
        return NULL;
    if (strcmp(option->name, "vnc") == 0 && g_str_has_prefix(value, "unix:")) {
        parameters = qemu_parameters_parse(value + 5, "path");
        return g_strdup(qemu_parameters_get(parameters, "path"));
    }
    if (g_str_has_prefix(value, "mon:"))
        value += 4;
    if (g_str_has_prefix(value, "unix:"))
        parameters = qemu_parameters_parse(value + 5, "path");
    else if (strcmp(option->name, "chardev") == 0)
        parameters = qemu_parameters_parse(value, "backend");
    if (!parameters || !qemu_parameters_flag(parameters, "server") ||
        qemu_parameters_flag(parameters, "abstract"))
        return NULL;
    return g_strdup(qemu_parameters_get(parameters, "path"));
}

gboolean qemu_command_line_check_sockets(char *const *argv, const char *folder, GError **error)
{
    QemuOption option = {0};

    while (qemu_option_next(argv, &option)) {
        g_autofree char *written = server_path(&option);
        g_autofree char *path = written ? path_in(folder, written) : NULL;

        if (!path || !unix_socket_in_use(path))
            continue;
        error_set(error, VMFERRY_ERROR_BUSY,
                  "the guest's command line opens socket %s (-%s), which is in use on this host: "
                  "QEMU would take it away from its owner; give it another path (for a guest that "
                  "comes from elsewhere, by a map rule in agent.conf)",
                  path, option.name);
        return FALSE;
    }
    return TRUE;
}

/* The lock is a POSIX one that QEMU holds as long as it lives. */
static gboolean is_locked(const char *path, pid_t *ret_owner)
{
    autofd int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    if (fd < 0 || fcntl(fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
        return FALSE;
    *ret_owner = lock.l_pid;
    return TRUE;
}

gboolean qemu_command_line_check_pidfile(char *const *argv, const char *folder, GError **error)
{
    g_auto(QemuStartOptions) options = {0};
    g_autofree char *path = NULL;
    pid_t owner;

    qemu_start_options_read(argv, &options);
    path = options.pidfile ? path_in(folder, options.pidfile) : NULL;
    if (!path || !is_locked(path, &owner))
        return TRUE;
    error_set(
        error, VMFERRY_ERROR_BUSY,
        "the guest's command line writes its process id to %s (-pidfile), which process %d on "
        "this host has locked; give it another path (for a guest that comes from elsewhere, "
        "by a map rule in agent.conf)",
        path, (int)owner);
    return FALSE;
}

static gboolean asks_for_snapshot(const QemuOption *option)
{
    g_autoptr(QemuParameters) parameters = NULL;

    if (g_strcmp0(option->name, "snapshot") == 0)
        return TRUE;
    if (g_strcmp0(option->name, "drive") != 0 || !option->value)
        return FALSE;
    parameters = qemu_parameters_parse(option->value, NULL);
    return qemu_parameters_flag(parameters, "snapshot");
}

gboolean qemu_command_line_check_snapshots(char *const *argv, GError **error)
{
    QemuOption option = {0};

    while (qemu_option_next(argv, &option)) {
        if (!asks_for_snapshot(&option))
            continue;
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest writes its disks to temporary files (-%s), which stay behind in a "
                  "move; start it without that",
                  option.name);
        return FALSE;
    }
    return TRUE;
}

/* The file that an option makes guest memory of and writes to; NULL for none. */
static char *shared_memory_file(const QemuOption *option)
{
    g_autoptr(QemuParameters) parameters = NULL;

    if (g_strcmp0(option->name, "object") != 0 || !option->value)
        return NULL;
    parameters = qemu_parameters_parse(option->value, "qom-type");
    if (!qemu_parameters_flag(parameters, "share"))
        return NULL;
    return g_strdup(qemu_parameters_get(parameters, "mem-path"));
}

/* TRUE where another process has the file open or mapped: only then does the
 * kernel refuse a write lease with EAGAIN. */
static gboolean file_in_use(const char *path)
{
    autofd int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    struct stat info;

    if (fd < 0 || fstat(fd, &info) < 0 || !S_ISREG(info.st_mode))
        return FALSE;
    if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
        return errno == EAGAIN;
    (void)fcntl(fd, F_SETLEASE, F_UNLCK);
    return FALSE;
}

gboolean qemu_command_line_check_memory_files(char *const *argv, const char *folder, GError **error)
{
    QemuOption option = {0};

    while (qemu_option_next(argv, &option)) {
        g_autofree char *written = shared_memory_file(&option);
        g_autofree char *path = written ? path_in(folder, written) : NULL;

        if (!path || !file_in_use(path))
            continue;
        error_set(error, VMFERRY_ERROR_BUSY,
                  "the guest's memory would be the file %s, which is in use on this host: two "
                  "guests would write to it; give it another path (for a guest that comes from "
                  "elsewhere, by a map rule in agent.conf)",
                  path);
        return FALSE;
    }
    return TRUE;
}

gboolean qemu_is_dma_writer(const char *type)
{
    static const char *const prefixes[] = {"vfio-",           "vhost-user",  "vhost-vdpa",
                                           "ivshmem",         "x-vfio-user", "virtio-blk-vhost-",
                                           "virtio-blk-vfio-"};

    for (guint i = 0; i < G_N_ELEMENTS(prefixes); i++)
        if (g_str_has_prefix(type, prefixes[i]))
            return TRUE;
    /* QEMU's own NVMe driver lets the hardware write into guest memory. */
    return strcmp(type, "nvme://") == 0;
}

static gboolean uses_nvme_driver(const QemuOption *option)
{
    g_autoptr(QemuParameters) parameters = NULL;

    if (strcmp(option->name, "drive") != 0 && strcmp(option->name, "blockdev") != 0)
        return FALSE;
    parameters = qemu_parameters_parse(option->value, "driver");
    return strstr(option->value, "nvme://") ||
           g_strcmp0(qemu_parameters_get(parameters, "driver"), "nvme") == 0 ||
           g_strcmp0(qemu_parameters_get(parameters, "file.driver"), "nvme") == 0;
}

/* The type of device, back end or block driver that an option asks for. */
static char *option_type(const QemuOption *option)
{
    static const struct {
        const char *name, *implied;
    } kinds[] = {
        {"device", "driver"},
        {"netdev", "type"},
        {"net", "type"},
        {"object", "qom-type"},
    };

    if (!option->name || !option->value)
        return NULL;
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (strcmp(option->name, kinds[i].name) == 0) {
            g_autoptr(QemuParameters) parameters =
                qemu_parameters_parse(option->value, kinds[i].implied);

            return g_strdup(qemu_parameters_get(parameters, kinds[i].implied));
        }
    if (uses_nvme_driver(option))
        return g_strdup("nvme://");
    return NULL;
}

gboolean qemu_command_line_check_writers(char *const *argv, GError **error)
{
    QemuOption option = {0};

    while (qemu_option_next(argv, &option)) {
        g_autofree char *type = option_type(&option);

        if (!type || !qemu_is_dma_writer(type))
            continue;
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest has a %s (-%s): it writes into guest memory from outside of QEMU, "
                  "which cannot be followed; use a device that QEMU itself serves",
                  type, option.name);
        return FALSE;
    }
    return TRUE;
}

/* The word behind each *mark*, up to one of *ends*; the first that is an
 * external DMA writer. */
static char *find_behind(const char *text, const char *mark, const char *ends)
{
    for (const char *at = strstr(text, mark); at; at = strstr(at, mark)) {
        g_autofree char *type = NULL;

        at += strlen(mark);
        type = g_strndup(at, strcspn(at, ends));
        if (qemu_is_dma_writer(type))
            return g_steal_pointer(&type);
    }
    return NULL;
}

char *qemu_find_dma_writer(const char *device_tree, const char *networks)
{
    /* "dev: vfio-pci, id …" and "n0: index=0,type=vhost-user,…" */
    char *found = find_behind(device_tree, "dev: ", ",\r\n");

    return found ? found : find_behind(networks, ",type=", ",\r\n");
}

char *qemu_find_dma_block_writer(json_t *nodes)
{
    json_t *node;
    size_t i;

    json_array_foreach(nodes, i, node)
    {
        const char *driver = json_text_or(node, "drv", "");

        if (strcmp(driver, "nvme") == 0 || qemu_is_dma_writer(driver))
            return g_strdup_printf("block node %s of driver %s",
                                   json_text_or(node, "node-name", "?"), driver);
    }
    return NULL;
}

#include "vmm/qemu/boot_files.h"

#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/process.h"
#include "vmm/qemu/options.h"
#include "vmm/vmm.h"

/* QEMU reads its files a moment after its start; clocks of file servers differ
 * a little. */
#define START_MARGIN_S 2

void qemu_boot_file_free(QemuBootFile *file)
{
    g_free(file->option);
    g_free(file->path);
    g_free(file);
}

static void add_file(GPtrArray *files, const char *option, const char *path)
{
    QemuBootFile *file;

    if (!path || !*path)
        return;
    file = g_new0(QemuBootFile, 1);
    file->option = g_strconcat("-", option, NULL);
    file->path = g_strdup(path);
    g_ptr_array_add(files, file);
}

/* What is one path, whole: "-kernel /boot/vmlinuz". */
static gboolean is_plain(const char *option)
{
    static const char *const plain[] = {"kernel", "initrd", "dtb", "shim", NULL};

    return g_strv_contains(plain, option);
}

static void add_by_keys(GPtrArray *files, const char *option, const QemuParameters *parameters)
{
    static const char *const machine_keys[] = {"kernel", "initrd", "dtb", "shim"};

    if (strcmp(option, "machine") == 0 || strcmp(option, "M") == 0)
        for (guint i = 0; i < G_N_ELEMENTS(machine_keys); i++)
            add_file(files, option, qemu_parameters_get(parameters, machine_keys[i]));
    else if (strcmp(option, "fw_cfg") == 0 || strcmp(option, "smbios") == 0 ||
             (strcmp(option, "device") == 0 &&
              g_strcmp0(qemu_parameters_get(parameters, "driver"), "loader") == 0))
        add_file(files, option, qemu_parameters_get(parameters, "file"));
}

/* "file=a:b": tables that are put together from some files. */
static void add_acpi_tables(GPtrArray *files, const QemuParameters *parameters)
{
    static const char *const keys[] = {"file", "data"};

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        const char *value = qemu_parameters_get(parameters, keys[i]);
        g_auto(GStrv) paths = g_strsplit(value ? value : "", ":", -1);

        for (char **path = paths; *path; path++)
            add_file(files, "acpitable", *path);
    }
}

GPtrArray *qemu_command_line_find_boot_files(char *const *argv)
{
    GPtrArray *files = g_ptr_array_new_with_free_func((GDestroyNotify)qemu_boot_file_free);
    QemuOption option = {0};

    while (qemu_option_next(argv, &option)) {
        g_autoptr(QemuParameters) parameters = NULL;

        if (!option.name || !option.value)
            continue;
        if (is_plain(option.name)) {
            add_file(files, option.name, option.value);
            continue;
        }
        parameters = qemu_parameters_parse(option.value, "driver");
        if (strcmp(option.name, "acpitable") == 0)
            add_acpi_tables(files, parameters);
        else
            add_by_keys(files, option.name, parameters);
    }
    return files;
}

/* ---- live ---- */

/* A moment in real time; as far as the clock was not set since. */
static gboolean get_start(pid_t pid, time_t *ret_s, GError **error)
{
    struct timespec now, since_boot;
    uint64_t ticks;

    if (!process_get_start_time(pid, &ticks, error))
        return FALSE;
    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_BOOTTIME, &since_boot);
    *ret_s = now.tv_sec - since_boot.tv_sec + (time_t)(ticks / (uint64_t)sysconf(_SC_CLK_TCK));
    return TRUE;
}

/* As the process sees it; before it changed its root it saw what we see. */
static char *find_path(pid_t pid, const char *path)
{
    g_autofree char *inside =
        g_strdup_printf("/proc/%d/%s%s%s", (int)pid, g_path_is_absolute(path) ? "root" : "cwd",
                        g_path_is_absolute(path) ? "" : "/", path);

    if (!g_file_test(inside, G_FILE_TEST_EXISTS) && g_path_is_absolute(path))
        return g_strdup(path);
    return g_steal_pointer(&inside);
}

static gboolean check_times(const QemuBootFile *file, const char *path, time_t start,
                            GError **error)
{
    struct stat info;

    if (stat(path, &info) < 0) {
        error_set_errno(error, errno, "%s %s: cannot be compared with the destination's",
                        file->option, file->path);
        g_prefix_error(error, "--trust-images moves the guest without that: ");
        return FALSE;
    }
    if (info.st_mtim.tv_sec <= start + START_MARGIN_S &&
        info.st_ctim.tv_sec <= start + START_MARGIN_S)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "%s: %s was changed or replaced since QEMU loaded it (as its times tell): after the "
              "move the guest would start from another one at its next reboot; put the old one "
              "back under another name and start the guest with that, or use --trust-images if "
              "that does not matter",
              file->option, file->path);
    return FALSE;
}

static gboolean add_image(pid_t pid, const QemuBootFile *file, time_t start, GPtrArray *images,
                          GError **error)
{
    g_autofree char *path = find_path(pid, file->path);
    VmmImage *image;

    if (!check_times(file, path, start, error))
        return FALSE;
    image = g_new0(VmmImage, 1);
    image->device = g_strdup(file->option);
    image->file = g_strdup(file->path);
    image->path = g_steal_pointer(&path);
    image->read_only = image->loaded = TRUE;
    g_ptr_array_add(images, image);
    return TRUE;
}

gboolean qemu_list_boot_files(pid_t pid, GPtrArray *images, GError **error)
{
    g_auto(GStrv) argv = process_get_command_line(pid, error);
    g_autoptr(GPtrArray) files = argv ? qemu_command_line_find_boot_files(argv) : NULL;
    time_t start;

    if (!files || !get_start(pid, &start, error))
        return FALSE;
    for (guint i = 0; i < files->len; i++)
        if (!add_image(pid, files->pdata[i], start, images, error))
            return FALSE;
    return TRUE;
}

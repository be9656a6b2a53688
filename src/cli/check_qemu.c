#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/check.h"

#define QEMU_PREFIX "qemu-system-"

/* The first line of `PROGRAM --version`, or NULL. */
static char *ask_version(const char *program)
{
    const char *arguments[] = {program, "--version", NULL};
    g_autofree char *out = NULL;
    int status;

    if (!g_spawn_sync(NULL, (char **)arguments, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &out,
                      NULL, &status, NULL) ||
        status != 0 || !out)
        return NULL;
    out[strcspn(out, "\n")] = '\0';
    return g_steal_pointer(&out);
}

static void add_program(GHashTable *seen, Findings *findings, const char *path)
{
    char real[PATH_MAX]; /* /bin may be /usr/bin */
    g_autofree char *version = NULL;
    g_autofree char *text = NULL;

    if (!realpath(path, real) || access(real, X_OK) != 0 || !g_hash_table_add(seen, g_strdup(real)))
        return;
    version = ask_version(real);
    text = g_strdup_printf("%s: %s", real, version ? version : "does not answer --version");
    findings_add(findings, "QEMU", version ? FINDING_GOOD : FINDING_NOTE, text, NULL);
}

static void search_folder(GHashTable *seen, Findings *findings, const char *folder)
{
    GDir *list = g_dir_open(folder, 0, NULL);
    const char *name;

    while (list && (name = g_dir_read_name(list))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        if (strcmp(name, QEMU_PREFIX "x86_64") == 0)
            add_program(seen, findings, path);
    }
    if (list)
        g_dir_close(list);
}

static void check_kvm(Findings *findings)
{
    autofd int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd >= 0)
        findings_add(findings, "/dev/kvm", FINDING_GOOD, "can be used", NULL);
    else if (errno == EACCES || errno == EPERM)
        findings_add(findings, "/dev/kvm", FINDING_NOTE, g_strerror(errno),
                     "this user may not use it; root, who runs the agent, may");
    else
        findings_add(findings, "/dev/kvm", FINDING_NOTE, g_strerror(errno),
                     "guests run without hardware virtualization (slow); load kvm_intel or "
                     "kvm_amd, or enable it in the firmware");
}

void check_qemu(Findings *findings)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_auto(GStrv) folders = g_strsplit(g_getenv("PATH") ? g_getenv("PATH") : "", ":", -1);

    for (char **folder = folders; *folder; folder++)
        if (g_path_is_absolute(*folder))
            search_folder(seen, findings, *folder);
    search_folder(seen, findings, "/usr/bin");
    search_folder(seen, findings, "/usr/local/bin");
    if (g_hash_table_size(seen) == 0)
        findings_add(findings, "QEMU", FINDING_NOTE, "no " QEMU_PREFIX "x86_64 found",
                     "install qemu-system-x86, or name programs by their whole path");
    check_kvm(findings);
}

/* Does a stopped guest still hold its disk images? */
#include <string.h>

#include "base/fd.h"
#include "base/json.h"
#include "vmm/qemu/driver.h"

#define MAX_FDINFO_BYTES 65536

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

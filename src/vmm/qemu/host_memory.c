/* Is there room for a guest on this host? */
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/qemu/qemu.h"

#define MEBIBYTE ((uint64_t)1 << 20)

gboolean qemu_memory_fits(uint64_t guest_bytes, const char *meminfo, GError **error)
{
    static const char key[] = "MemAvailable:";
    const char *line = strstr(meminfo, key);
    uint64_t available;

    /* A kernel that does not tell is no reason to refuse. */
    if (!line)
        return TRUE;
    available = g_ascii_strtoull(line + strlen(key), NULL, 10);
    available = available > G_MAXUINT64 / 1024 ? G_MAXUINT64 : available * 1024;
    if (guest_bytes <= available)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE,
              "not enough memory here: guest needs %" G_GUINT64_FORMAT " MiB, %" G_GUINT64_FORMAT
              " MiB available",
              guest_bytes / MEBIBYTE, available / MEBIBYTE);
    return FALSE;
}

gboolean qemu_check_memory(uint64_t guest_bytes, GError **error)
{
    g_autofree char *meminfo = file_read("/proc/meminfo", 1u << 20, NULL, error);

    return meminfo && qemu_memory_fits(guest_bytes, meminfo, error);
}

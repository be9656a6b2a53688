#include "inject/gadget.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/fd.h"

#define MAPS_LIMIT (64u << 20)
#define CODE_CHUNK (1u << 20)

static const uint8_t call_code[] = {0x0f, 0x05, 0xc3};
static const uint8_t return_code[] = {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};

static void find_code(const uint8_t *code, size_t length, uint64_t address, const uint8_t *needle,
                      size_t needle_length, uint64_t *ret)
{
    const uint8_t *hit = *ret ? NULL : memmem(code, length, needle, needle_length);

    if (hit)
        *ret = address + (uint64_t)(hit - code);
}

void gadget_scan(const uint8_t *code, size_t length, uint64_t address, Gadgets *gadgets)
{
    find_code(code, length, address, call_code, sizeof call_code, &gadgets->call);
    find_code(code, length, address, return_code, sizeof return_code, &gadgets->signal_return);
}

static gboolean complete(const Gadgets *gadgets)
{
    return gadgets->call && gadgets->signal_return;
}

static void scan_mapping(pid_t pid, uint64_t start, uint64_t end, Gadgets *gadgets)
{
    g_autofree uint8_t *code = g_malloc(CODE_CHUNK);

    for (uint64_t at = start; at < end && !complete(gadgets); at += CODE_CHUNK - 16) {
        struct iovec local = {code, MIN(CODE_CHUNK, end - at)};
        struct iovec remote = {(void *)(uintptr_t)at, local.iov_len};
        ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);

        if (got <= 0)
            return;
        gadget_scan(code, (size_t)got, at, gadgets);
    }
}

/* One pass over the mappings; *c_library* chooses whether those of the C
 * library are meant (nearly always enough, and small) or all others. */
static void scan_maps(pid_t pid, const char *maps, gboolean c_library, Gadgets *gadgets)
{
    for (const char *line = maps; line && *line && !complete(gadgets);) {
        const char *next = strchr(line, '\n');
        g_autofree char *text = next ? g_strndup(line, (gsize)(next - line)) : g_strdup(line);
        uint64_t start, end, inode;
        char permissions[5];
        const char *name;

        line = next ? next + 1 : NULL;
        if (sscanf(text, "%" SCNx64 "-%" SCNx64 " %4s %*s %*s %" SCNu64, &start, &end, permissions,
                   &inode) != 4)
            continue;
        if (permissions[2] != 'x' || inode == 0)
            continue;
        name = strrchr(text, '/');
        if (c_library == (name && (strstr(name, "/libc") || strstr(name, "/ld-musl"))))
            scan_mapping(pid, start, end, gadgets);
    }
}

gboolean gadget_find(pid_t pid, Gadgets *ret, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)pid);
    g_autofree char *maps = file_read(path, MAPS_LIMIT, NULL, error);
    Gadgets gadgets = {0};

    if (!maps)
        return FALSE;
    scan_maps(pid, maps, TRUE, &gadgets);
    scan_maps(pid, maps, FALSE, &gadgets);
    if (!complete(&gadgets)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "process %d has no signal trampoline in its code (no C library?)", (int)pid);
        return FALSE;
    }
    *ret = gadgets;
    return TRUE;
}

#include "memory/maps.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"

#define SMAPS_LIMIT (256u << 20)

static void mapping_free(gpointer data)
{
    Mapping *mapping = data;

    g_free(mapping->path);
    g_free(mapping);
}

static gboolean is_header(const char *line)
{
    /* "7f00…-7f00… rw-p …", while fields start with a capital letter. */
    return g_ascii_isxdigit(line[0]) && !(line[0] >= 'A' && line[0] <= 'F');
}

static Mapping *parse_header(const char *line, GError **error)
{
    uint64_t start, end, offset, inode;
    char permissions[5];
    int path_at = 0;
    Mapping *mapping;

    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*x:%*x %" SCNu64 " %n", &start, &end,
               permissions, &offset, &inode, &path_at) < 5 ||
        end <= start || strlen(permissions) != 4) {
        error_set(error, VMFERRY_ERROR_INVALID, "smaps: unexpected line \"%.80s\"", line);
        return NULL;
    }
    mapping = g_new0(Mapping, 1);
    mapping->start = start;
    mapping->end = end;
    mapping->offset = offset;
    mapping->inode = inode;
    mapping->readable = permissions[0] == 'r';
    mapping->writable = permissions[1] == 'w';
    mapping->shared = permissions[3] == 's';
    mapping->page_bytes = PAGE_BYTES;
    mapping->path = g_strdup(path_at > 0 ? line + path_at : "");
    return mapping;
}

static void parse_field(const char *line, Mapping *mapping)
{
    if (g_str_has_prefix(line, "KernelPageSize:")) {
        uint64_t kib = strtoull(line + strlen("KernelPageSize:"), NULL, 10);

        if (kib >= 4 && kib <= (1u << 21))
            mapping->page_bytes = kib * 1024;
    } else if (g_str_has_prefix(line, "VmFlags:")) {
        g_auto(GStrv) flags = g_strsplit(line + strlen("VmFlags:"), " ", 64);

        mapping->userfault_wp = g_strv_contains((const char *const *)flags, "uw");
        mapping->userfault_missing = g_strv_contains((const char *const *)flags, "um");
        mapping->dont_fork = g_strv_contains((const char *const *)flags, "dc");
        mapping->dont_dump = g_strv_contains((const char *const *)flags, "dd");
    }
}

GPtrArray *maps_parse(const char *text, GError **error)
{
    g_autoptr(GPtrArray) maps = g_ptr_array_new_with_free_func(mapping_free);

    for (const char *at = text; *at;) {
        const char *end = strchrnul(at, '\n');
        g_autofree char *line = g_strndup(at, (gsize)(end - at));

        at = *end ? end + 1 : end;
        if (is_header(line)) {
            Mapping *mapping = parse_header(line, error);

            if (!mapping)
                return NULL;
            g_ptr_array_add(maps, mapping);
        } else if (maps->len > 0) {
            parse_field(line, g_ptr_array_index(maps, maps->len - 1));
        }
    }
    return g_steal_pointer(&maps);
}

GPtrArray *maps_read(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", (int)pid);
    g_autofree char *text = file_read(path, SMAPS_LIMIT, NULL, error);

    return text ? maps_parse(text, error) : NULL;
}

const Mapping *maps_find(const GPtrArray *maps, uint64_t address)
{
    guint low = 0, high = maps->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        const Mapping *mapping = g_ptr_array_index(maps, middle);

        if (address < mapping->start)
            high = middle;
        else if (address >= mapping->end)
            low = middle + 1;
        else
            return mapping;
    }
    return NULL;
}

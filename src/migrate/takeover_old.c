#include "migrate/takeover_old.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/page.h"
#include "memory/guest_memory.h"

#define MAX_BYTES (1u << 20)
#define MAX_REGIONS 1024u
#define MAX_REGION_BYTES (UINT64_C(1) << 46)

void takeover_old_free(TakeoverOld *old)
{
    if (!old)
        return;
    g_free(old->machine);
    g_clear_pointer(&old->regions, g_ptr_array_unref);
    g_free(old);
}

static json_t *encode(const TakeoverOld *old)
{
    json_t *regions = json_array();

    for (guint i = 0; i < old->regions->len; i++) {
        const RamRegion *region = old->regions->pdata[i];

        json_array_append_new(regions, json_pack("{s:s, s:I, s:I}", "name", region->name, "address",
                                                 (json_int_t)region->host_address, "bytes",
                                                 (json_int_t)region->bytes));
    }
    return json_pack("{s:i, s:I, s:s, s:b, s:o}", "pid", (int)old->pid, "start",
                     (json_int_t)old->start_time, "machine", old->machine, "left", old->left,
                     "regions", regions);
}

gboolean takeover_old_write(const TakeoverOld *old, const char *path, GError **error)
{
    g_autoptr(json_t) object = encode(old);
    char *text = json_dumps(object, JSON_LINE);
    gboolean done = file_replace(path, text, strlen(text), FALSE, error);

    free(text);
    return done;
}

static gboolean add_region(TakeoverOld *old, json_t *entry, GError **error)
{
    uint64_t address, bytes;
    const char *name;

    if (!json_get_text(entry, "name", &name, error) ||
        !json_get_count(entry, "address", INT64_MAX - MAX_REGION_BYTES, &address, error) ||
        !json_get_count(entry, "bytes", MAX_REGION_BYTES, &bytes, error))
        return FALSE;
    if (bytes == 0 || bytes % PAGE_BYTES != 0 || address % PAGE_BYTES != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "RAM block %s is not made of whole pages", name);
        return FALSE;
    }
    g_ptr_array_add(old->regions, ram_region_new(name, address, bytes));
    return TRUE;
}

static gboolean read_regions(TakeoverOld *old, json_t *object, GError **error)
{
    json_t *regions, *entry;
    size_t i;

    if (!json_get_array(object, "regions", MAX_REGIONS, &regions, error))
        return FALSE;
    json_array_foreach(regions, i, entry)
    {
        if (!add_region(old, entry, error))
            return FALSE;
    }
    return TRUE;
}

TakeoverOld *takeover_old_parse(const char *text, size_t length, GError **error)
{
    g_autoptr(TakeoverOld) old = g_new0(TakeoverOld, 1);
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    const char *machine;
    uint64_t pid;

    old->regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    if (!object || !json_get_count(object, "pid", G_MAXINT32, &pid, error) ||
        !json_get_count(object, "start", INT64_MAX, &old->start_time, error) ||
        !json_get_text(object, "machine", &machine, error) || !read_regions(old, object, error))
        return NULL;
    old->pid = (pid_t)pid;
    old->machine = g_strdup(machine);
    old->left = json_flag_or(object, "left", FALSE);
    return g_steal_pointer(&old);
}

TakeoverOld *takeover_old_read(const char *path, GError **error)
{
    size_t length;
    g_autofree char *text = file_read(path, MAX_BYTES, &length, error);
    TakeoverOld *old = text ? takeover_old_parse(text, length, error) : NULL;

    if (text && !old)
        g_prefix_error(error, "%s: ", path);
    return old;
}

#include "disk/image_device.h"

#include <string.h>
#include <sys/sysmacros.h>

#include "base/fd.h"

#define MAX_ID_BYTES 512u
#define MAX_LEVELS 4u
#define MAX_SLAVES 64u
#define MAX_NAME_BYTES 1000u /* IMAGES_SEEN carries no more */

/* ---- names ---- */

/* All zeros or all ones is what devices say that have none. */
static gboolean is_empty(const char *digits)
{
    return strspn(digits, "0-") == strlen(digits) || strspn(digits, "fF-") == strlen(digits);
}

/* QEMU numbers its NVMe namespaces alike in every machine. */
static gboolean is_of_qemu(const char *eui)
{
    return g_str_has_prefix(eui, "52540000000");
}

gboolean image_device_id_is_unique(const char *id)
{
    static const char *const kinds[] = {"naa.", "eui.", "uuid."};

    if (g_str_has_prefix(id, "mpath-")) {
        id += strlen("mpath-");
        /* As SCSI counts them: 3 is an NAA name, 2 an EUI-64. */
        if (*id == '3' || *id == '2')
            return strlen(id) >= 17 && strspn(id, "0123456789abcdefABCDEF") == strlen(id) &&
                   !is_empty(id + 1) && !(*id == '2' && is_of_qemu(id + 1));
    }
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        const char *digits = id + strlen(kinds[i]);

        if (!g_str_has_prefix(id, kinds[i]))
            continue;
        return strlen(digits) >= 16 &&
               strspn(digits, "0123456789abcdefABCDEF-") == strlen(digits) && !is_empty(digits) &&
               !(*id == 'e' && is_of_qemu(digits));
    }
    return FALSE;
}

/* ---- sysfs ---- */

static char *read_text(const char *folder, const char *file)
{
    g_autofree char *path = g_build_filename(folder, file, NULL);
    char *text = file_read(path, MAX_ID_BYTES, NULL, NULL);

    if (text && *g_strstrip(text))
        return text;
    g_free(text);
    return NULL;
}

static char *find_id(const char *folder, guint level);

static int compare_texts(gconstpointer one, gconstpointer other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

/* A volume is what its UUID says only on the very devices that it lies on. */
static char *find_id_below(const char *folder, const char *uuid, guint level)
{
    g_autofree char *path = g_build_filename(folder, "slaves", NULL);
    g_autoptr(GDir) slaves = g_dir_open(path, 0, NULL);
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *joined = NULL;
    const char *name;

    while (slaves && (name = g_dir_read_name(slaves))) {
        g_autofree char *slave = g_build_filename(path, name, NULL);
        char *id = find_id(slave, level + 1);

        if (!id || ids->len >= MAX_SLAVES) {
            g_free(id);
            return NULL;
        }
        g_ptr_array_add(ids, id);
    }
    if (ids->len == 0)
        return NULL;
    g_ptr_array_sort(ids, compare_texts);
    g_ptr_array_add(ids, NULL);
    joined = g_strjoinv("+", (char **)ids->pdata);
    return g_strdup_printf("%s on %s", uuid, joined);
}

static char *find_id_of_disk(const char *folder, guint level)
{
    static const char *const files[] = {"wwid", "device/wwid"};
    g_autofree char *uuid = read_text(folder, "dm/uuid");

    if (uuid)
        return image_device_id_is_unique(uuid) ? g_steal_pointer(&uuid)
                                               : find_id_below(folder, uuid, level);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *id = read_text(folder, files[i]);

        if (id && image_device_id_is_unique(id))
            return g_steal_pointer(&id);
    }
    return NULL;
}

/* NULL: there is no unique name. */
static char *find_id(const char *folder, guint level)
{
    g_autofree char *partition = read_text(folder, "partition");
    g_autofree char *start = partition ? read_text(folder, "start") : NULL;
    g_autofree char *disk = NULL, *id = NULL;

    if (level >= MAX_LEVELS)
        return NULL;
    if (!partition)
        return find_id_of_disk(folder, level);
    disk = g_build_filename(folder, "..", NULL);
    id = find_id_of_disk(disk, level);
    return id && start ? g_strdup_printf("%s partition %s at %s", id, partition, start) : NULL;
}

char *image_device_find_id_in(const char *folder)
{
    g_autofree char *id = find_id(folder, 0);

    return id && strlen(id) <= MAX_NAME_BYTES ? g_steal_pointer(&id) : g_strdup("");
}

char *image_device_find_id(dev_t number)
{
    g_autofree char *folder = g_strdup_printf("/sys/dev/block/%u:%u", major(number), minor(number));

    return image_device_find_id_in(folder);
}

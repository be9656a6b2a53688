#include "migrate/replaced_copies.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "image/saved_image.h"
#include "migrate/saved_disks.h"

/* ---- what images name ---- */

static gboolean is_image(const char *path)
{
    autofd int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    char magic[IMAGE_MAGIC_BYTES];
    struct stat info;

    return fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
           pread(fd, magic, sizeof magic, 0) == (ssize_t)sizeof magic &&
           memcmp(magic, IMAGE_MAGIC, sizeof magic) == 0;
}

/* NULL where it cannot be read. */
static json_t *read_note(const char *path)
{
    const SavedImageOptions alone = {.alone = TRUE};
    g_autoptr(SavedImage) image = is_image(path) ? saved_image_open(path, &alone, NULL) : NULL;
    const char *text = image ? saved_image_get_note(image) : NULL;

    return text ? json_loads(text, 0, NULL) : NULL;
}

static void add_names(const SavedDisk *disk, GPtrArray *names)
{
    json_t *name;
    size_t i;

    if (disk->saved)
        g_ptr_array_add(names, g_strdup(disk->saved));
    json_array_foreach(disk->backing, i, name)
    {
        g_ptr_array_add(names, g_strdup(json_string_value(name)));
    }
}

/* FALSE where it is an image and cannot be read: then it may name anything. */
static gboolean list_names(const char *path, GPtrArray *names)
{
    g_autoptr(json_t) note = read_note(path);
    g_autoptr(GArray) disks = note ? saved_disks_read(note, NULL) : NULL;

    for (guint i = 0; disks && i < disks->len; i++)
        add_names(&g_array_index(disks, SavedDisk, i), names);
    return disks != NULL || !is_image(path);
}

/* ---- finding ---- */

GPtrArray *replaced_copies_find(const char *path)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(g_free);
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    list_names(path, all);
    for (guint i = 0; i < all->len; i++)
        if (saved_disk_is_of(all->pdata[i], path))
            g_ptr_array_add(names, g_strdup(all->pdata[i]));
    return names;
}

/* ---- removing ---- */

/* NULL where that is not known. */
static GPtrArray *list_needed(const char *folder)
{
    g_autoptr(GPtrArray) needed = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) entries = g_dir_open(folder, 0, NULL);
    const char *name;

    if (!entries)
        return NULL;
    while ((name = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        if (!list_names(path, needed))
            return NULL;
    }
    return g_steal_pointer(&needed);
}

static void remove_file(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    struct stat info;

    if (lstat(path, &info) == 0 && S_ISREG(info.st_mode) && unlink(path) < 0)
        log_warning("%s could not be removed: %s", path, g_strerror(errno));
}

void replaced_copies_remove(const char *path, const GPtrArray *names)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autoptr(GPtrArray) needed = names->len > 0 ? list_needed(folder) : NULL;

    for (guint i = 0; needed && i < names->len; i++)
        if (!g_ptr_array_find_with_equal_func(needed, names->pdata[i], g_str_equal, NULL))
            remove_file(folder, names->pdata[i]);
}

#include "cli/image_disks.h"

#include <string.h>
#include <sys/stat.h>

#include "migrate/saved_disks.h"

static gboolean has_file(json_t *files, const char *path)
{
    json_t *file;
    size_t i;

    json_array_foreach(files, i, file)
    {
        if (strcmp(json_text_or(file, "file", ""), path) == 0)
            return TRUE;
    }
    return FALSE;
}

static void add_file(json_t *files, const char *folder, const char *name)
{
    g_autofree char *path =
        g_str_equal(folder, ".") ? g_strdup(name) : g_build_filename(folder, name, NULL);
    g_autofree char *valid = g_utf8_make_valid(path, -1);
    struct stat info;

    if (!has_file(files, valid))
        json_array_append_new(files, json_pack("{s:s, s:b}", "file", valid, "there",
                                               lstat(path, &info) == 0 && S_ISREG(info.st_mode)));
}

static void add_disk(json_t *files, const char *folder, const SavedDisk *disk)
{
    json_t *name;
    size_t i;

    if (!disk->saved)
        return;
    add_file(files, folder, disk->saved);
    json_array_foreach(disk->backing, i, name) add_file(files, folder, json_string_value(name));
}

/* An image of another program may have any note, or none. */
json_t *image_disks_describe(const SavedImage *image)
{
    g_autofree char *folder = g_path_get_dirname(saved_image_get_path(image));
    const char *text = saved_image_get_note(image);
    g_autoptr(json_t) note = text ? json_loads(text, 0, NULL) : NULL;
    g_autoptr(GArray) disks = note ? saved_disks_read(note, NULL) : NULL;
    json_t *files = json_array();

    for (guint i = 0; disks && i < disks->len; i++)
        add_disk(files, folder, &g_array_index(disks, SavedDisk, i));
    return files;
}

guint image_disks_count_missing(json_t *files)
{
    guint missing = 0;
    json_t *file;
    size_t i;

    json_array_foreach(files, i, file) missing += !json_flag_or(file, "there", FALSE);
    return missing;
}

#include "migrate/save_base.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/error.h"
#include "migrate/saved_disks.h"

/* ---- its place ---- */

static gboolean are_in_one_folder(const char *base, const char *image, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(base);
    g_autofree char *other = g_path_get_dirname(image);
    struct stat info, other_info;

    if (stat(folder, &info) < 0) {
        error_set_errno(error, errno, "base %s: %s", base, folder);
        return FALSE;
    }
    if (stat(other, &other_info) < 0) {
        error_set_errno(error, errno, "%s", other);
        return FALSE;
    }
    if (info.st_dev == other_info.st_dev && info.st_ino == other_info.st_ino)
        return TRUE;
    error_set(
        error, VMFERRY_ERROR_REFUSED,
        "base %s is not in the folder of the image, %s: who reads the image looks for it there",
        base, other);
    return FALSE;
}

/* Of the chain none may go when the new image gets its name. */
static gboolean check_stays(const SavedImage *base, const char *image, GError **error)
{
    struct stat info, other;

    if (stat(image, &info) < 0)
        return TRUE;
    for (guint i = 0; i < saved_image_get_depth(base); i++) {
        const char *path = saved_image_get_chain_path(base, i);

        if (stat(path, &other) < 0 || info.st_dev != other.st_dev || info.st_ino != other.st_ino)
            continue;
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s is what the image is to be above, and cannot be replaced by it", path);
        return FALSE;
    }
    return TRUE;
}

SavedImage *save_base_open(const char *base, const char *image, GError **error)
{
    g_autoptr(SavedImage) opened = NULL;

    if (!are_in_one_folder(base, image, error))
        return NULL;
    opened = saved_image_open(base, NULL, error);
    if (!opened) {
        g_prefix_error(error, "base: ");
        return NULL;
    }
    if (saved_image_get_depth(opened) >= SAVED_IMAGE_MAX_CHAIN) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "base %s is the %uth of a chain, and more are not read: make a full image, or "
                  "merge them "
                  "(vmferry image merge)",
                  base, saved_image_get_depth(opened));
        return NULL;
    }
    return check_stays(opened, image, error) ? g_steal_pointer(&opened) : NULL;
}

/* ---- whose it is ---- */

static json_t *parse_note(const SavedImage *base, GError **error)
{
    const char *text = saved_image_get_note(base);
    json_t *note = json_loads(text ? text : "", 0, NULL);

    if (json_is_object(note))
        return note;
    json_decref(note);
    error_set(error, VMFERRY_ERROR_REFUSED, "base %s does not say of which guest it is",
              saved_image_get_path(base));
    return NULL;
}

gboolean save_base_check_guest(const SavedImage *base, const char *guest_id, const char *name,
                               const PageRegions *regions, GError **error)
{
    g_autoptr(json_t) note = parse_note(base, error);
    g_autoptr(GError) differs = NULL;

    if (!note)
        return FALSE;
    if (g_strcmp0(json_text_or(note, "guest_id", NULL), guest_id) != 0 &&
        g_strcmp0(json_text_or(note, "guest", NULL), name) != 0) {
        error_set(error, VMFERRY_ERROR_REFUSED, "base %s is of another guest (%s on %s)",
                  saved_image_get_path(base), json_text_or(note, "guest", "?"),
                  json_text_or(note, "host", "?"));
        return FALSE;
    }
    if (page_regions_are_equal(saved_image_get_regions(base), regions, &differs))
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "base %s is of a machine with other memory: %s",
              saved_image_get_path(base), differs->message);
    return FALSE;
}

/* ---- its disks ---- */

static char **list_backing(const SavedDisk *disk)
{
    char **names = g_new0(char *, json_array_size(disk->backing) + 1);

    for (size_t i = 0; i < json_array_size(disk->backing); i++)
        names[i] = g_strdup(json_string_value(json_array_get(disk->backing, i)));
    return names;
}

gboolean save_base_describe(const SavedImage *base, SaveBaseMessage *ret, GError **error)
{
    g_autoptr(json_t) note = parse_note(base, error);
    g_autofree char *folder = g_path_get_dirname(saved_image_get_path(base));
    g_autoptr(GArray) disks = note ? saved_disks_read(note, error) : NULL;

    if (!disks) {
        g_prefix_error(error, "base %s: ", saved_image_get_path(base));
        return FALSE;
    }
    ret->id = image_id_format(saved_image_get_id(base));
    ret->disks = g_new0(SaveBaseDisk, disks->len + 1);
    for (guint i = 0; i < disks->len; i++) {
        const SavedDisk *disk = &g_array_index(disks, SavedDisk, i);

        if (!disk->saved || !saved_disk_check_files(disk, folder, NULL))
            continue;
        ret->disks[ret->disk_count++] = (SaveBaseDisk){.id = g_strdup(disk->id),
                                                       .saved = g_strdup(disk->saved),
                                                       .format = g_strdup(disk->saved_format),
                                                       .bytes = disk->bytes,
                                                       .bitmap = g_strdup(disk->bitmap),
                                                       .backing = list_backing(disk)};
    }
    return TRUE;
}

#include "migrate/saved_disks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"

#define NS_PER_S INT64_C(1000000000)

char *saved_disk_name(const char *image, const char *transaction, guint number)
{
    return g_strdup_printf("%s.%.8s.disk%u", image, transaction, number);
}

gboolean saved_disk_is_of(const char *name, const char *image)
{
    g_autofree char *base = g_path_get_basename(image);
    const char *rest = g_str_has_prefix(name, base) ? name + strlen(base) : "";
    guint number;
    int length = 0;

    return sscanf(rest, ".%*8[0-9a-f].disk%3u%n", &number, &length) == 1 && length > 0 &&
           rest[length] == '\0' && strspn(rest + 1, "0123456789abcdef") == 8;
}

/* ---- when it is saved ---- */

static gboolean check_reference(const VmmDisk *disk, gboolean ends, GError **error)
{
    if (disk->read_only)
        return TRUE;
    if (disk->obstacle || disk->files->len == 0)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "disk %s (%s) is not a file: whether it has changed could not be told later",
                  disk->id, disk->device);
    else if (!ends)
        error_set(
            error, VMFERRY_ERROR_REFUSED,
            "disk %s (%s) would be written to after it was saved, and the image be of no use: "
            "copy it (--disks copy), or end the guest with the save (--stop)",
            disk->id, disk->device);
    else
        return TRUE;
    return FALSE;
}

gboolean saved_disks_check(const GPtrArray *disks, DiskMode mode, gboolean ends, GError **error)
{
    if (disks->len > SAVED_DISKS_MOST) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "it has %u disks; an image has %u at most",
                  disks->len, SAVED_DISKS_MOST);
        return FALSE;
    }
    for (guint i = 0; mode == DISK_MODE_SHARED && i < disks->len; i++)
        if (!check_reference(disks->pdata[i], ends, error))
            return FALSE;
    return TRUE;
}

static int64_t get_mtime_ns(const struct stat *info)
{
    return info->st_mtim.tv_sec * NS_PER_S + info->st_mtim.tv_nsec;
}

/* A path need not be UTF-8; such a file is found again by none. */
static json_t *make_text(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    return json_string(valid);
}

static json_t *note_file(const VmmDiskFile *file, GError **error)
{
    struct stat info;

    if (stat(file->path, &info) < 0) {
        error_set_errno(error, errno, "%s", file->file);
        return NULL;
    }
    return json_pack("{s:o, s:s, s:I, s:I}", "file", make_text(file->file), "format", file->format,
                     "file_bytes", (json_int_t)info.st_size, "mtime_ns",
                     (json_int_t)get_mtime_ns(&info));
}

/* Of a copy only its name matters. */
static json_t *note_files(const VmmDisk *disk, gboolean copied, GError **error)
{
    json_t *files = json_array();

    for (guint i = 0; i < disk->files->len; i++) {
        const VmmDiskFile *file = disk->files->pdata[i];
        json_t *entry = copied ? json_pack("{s:o, s:s, s:I, s:I}", "file", make_text(file->file),
                                           "format", file->format, "file_bytes",
                                           (json_int_t)file->file_bytes, "mtime_ns", (json_int_t)0)
                               : note_file(file, error);

        if (!entry) {
            json_decref(files);
            return NULL;
        }
        json_array_append_new(files, entry);
    }
    return files;
}

/* The report's entry about its copy, or NULL. */
static json_t *find_copy(json_t *copies, const char *id)
{
    json_t *copy;
    size_t i;

    json_array_foreach(copies, i, copy)
    {
        if (g_strcmp0(json_string_value(json_object_get(copy, "id")), id) == 0)
            return copy;
    }
    return NULL;
}

static json_t *note_disk(const VmmDisk *disk, json_t *copies, GError **error)
{
    json_t *copy = find_copy(copies, disk->id);
    const char *path = json_text_or(copy, "destination", NULL);
    g_autofree char *name = path ? g_path_get_basename(path) : NULL;
    json_t *backing = json_object_get(copy, "backing");
    const VmmDiskFile *top = disk->files->len > 0 ? disk->files->pdata[0] : NULL;
    json_t *files = note_files(disk, path != NULL, error);

    if (!files)
        return NULL;
    return json_pack("{s:o, s:o, s:b, s:s, s:s?, s:s?, s:O?, s:s?, s:s, s:I, s:o}", "id",
                     make_text(disk->id), "device", make_text(disk->device), "read_only",
                     disk->read_only, "mode", path ? "copy" : "reference", "saved", name,
                     "saved_format", json_text_or(copy, "format", NULL), "backing", backing,
                     "bitmap", json_text_or(copy, "bitmap", NULL), "format",
                     top ? top->format : "raw", "bytes", (json_int_t)(top ? top->bytes : 0),
                     "files", files);
}

json_t *saved_disks_note(const GPtrArray *disks, json_t *copies, GError **error)
{
    json_t *list = json_array();

    for (guint i = 0; i < disks->len; i++) {
        json_t *entry = note_disk(disks->pdata[i], copies, error);

        if (!entry) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, entry);
    }
    return list;
}

/* ---- when it is restored ---- */

/* A name beside the image, and nothing that leads elsewhere. */
static gboolean check_name(const char *key, const char *name, GError **error)
{
    gboolean valid =
        name && *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;

    for (const char *at = name; valid && *at; at++)
        valid = !g_ascii_iscntrl(*at);
    if (valid)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a valid name of a file", key);
    return FALSE;
}

/* Images of before there were such have none. */
static gboolean is_missing(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return !value || json_is_null(value);
}

static gboolean read_saved_format(json_t *object, SavedDisk *disk, GError **error)
{
    disk->saved_format = disk->format;
    if (!is_missing(object, "saved_format") &&
        !json_get_text(object, "saved_format", &disk->saved_format, error))
        return FALSE;
    if (strcmp(disk->saved_format, "raw") == 0 || strcmp(disk->saved_format, "qcow2") == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "the format of a copy is neither raw nor qcow2");
    return FALSE;
}

static gboolean read_backing(json_t *object, SavedDisk *disk, GError **error)
{
    json_t *name;
    size_t i;

    if (is_missing(object, "backing"))
        return TRUE;
    if (!json_get_array(object, "backing", SAVED_DISK_MAX_BACKING, &disk->backing, error))
        return FALSE;
    json_array_foreach(disk->backing, i, name)
    {
        if (!check_name("backing", json_string_value(name), error))
            return FALSE;
    }
    return TRUE;
}

static gboolean check_file(json_t *file, GError **error)
{
    const char *text;
    uint64_t count;

    return json_get_text(file, "file", &text, error) &&
           json_get_text(file, "format", &text, error) &&
           json_get_count(file, "file_bytes", G_MAXINT64, &count, error) &&
           json_get_count(file, "mtime_ns", G_MAXINT64, &count, error);
}

static gboolean read_files(json_t *object, SavedDisk *disk, GError **error)
{
    json_t *file;
    size_t i;

    if (!json_get_array(object, "files", SAVED_DISKS_MOST, &disk->files, error))
        return FALSE;
    json_array_foreach(disk->files, i, file)
    {
        if (!json_is_object(file)) {
            error_set(error, VMFERRY_ERROR_INVALID, "a file is not an object");
            return FALSE;
        }
        if (!check_file(file, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean read_disk(json_t *object, SavedDisk *disk, GError **error)
{
    json_t *saved = json_object_get(object, "saved");

    if (!json_get_text(object, "id", &disk->id, error) ||
        !json_get_text(object, "device", &disk->device, error) ||
        !json_get_text(object, "format", &disk->format, error) ||
        !json_get_count(object, "bytes", G_MAXINT64, &disk->bytes, error) ||
        !read_files(object, disk, error))
        return FALSE;
    disk->read_only = json_is_true(json_object_get(object, "read_only"));
    if (!saved || json_is_null(saved))
        return TRUE;
    if (!json_get_text(object, "saved", &disk->saved, error) ||
        !check_name("saved", disk->saved, error) || !read_saved_format(object, disk, error) ||
        !read_backing(object, disk, error) ||
        (!is_missing(object, "bitmap") && !json_get_text(object, "bitmap", &disk->bitmap, error)))
        return FALSE;
    if (json_array_size(disk->files) > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"files\" of a copied disk is empty");
    return FALSE;
}

GArray *saved_disks_read(json_t *note, GError **error)
{
    g_autoptr(GArray) disks = g_array_new(FALSE, TRUE, sizeof(SavedDisk));
    json_t *list, *object;
    size_t i;

    if (!json_get_array(note, "disks", SAVED_DISKS_MOST, &list, error))
        return NULL;
    json_array_foreach(list, i, object)
    {
        SavedDisk disk = {0};

        if (!json_is_object(object)) {
            error_set(error, VMFERRY_ERROR_INVALID, "disk %zu is not an object", i);
            return NULL;
        }
        if (!read_disk(object, &disk, error)) {
            g_prefix_error(error, "disk %zu: ", i);
            return NULL;
        }
        g_array_append_val(disks, disk);
    }
    return g_steal_pointer(&disks);
}

static gboolean check_beside(const SavedDisk *disk, const char *folder, const char *name,
                             GError **error)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    struct stat info;

    if (lstat(path, &info) == 0 && S_ISREG(info.st_mode))
        return TRUE;
    error_set(
        error, VMFERRY_ERROR_NOT_FOUND,
        "disk %s (%s): %s, which is (part of) its copy and belongs to the image, is not there",
        disk->id, disk->device, path);
    return FALSE;
}

gboolean saved_disk_check_files(const SavedDisk *disk, const char *folder, GError **error)
{
    json_t *name;
    size_t i;

    if (!disk->saved)
        return TRUE;
    if (!check_beside(disk, folder, disk->saved, error))
        return FALSE;
    json_array_foreach(disk->backing, i, name)
    {
        if (!check_beside(disk, folder, json_string_value(name), error))
            return FALSE;
    }
    return TRUE;
}

const char *saved_disk_get_file(const SavedDisk *disk)
{
    return json_string_value(json_object_get(json_array_get(disk->files, 0), "file"));
}

static char *format_time(int64_t ns)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_local(ns / NS_PER_S);

    return time ? g_date_time_format(time, "%F %T") : g_strdup("?");
}

static gboolean check_unchanged(const SavedDisk *disk, json_t *file, const char *path,
                                GError **error)
{
    int64_t bytes = (int64_t)json_count_or(file, "file_bytes", 0);
    int64_t mtime_ns = (int64_t)json_count_or(file, "mtime_ns", 0);
    g_autofree char *then = NULL, *now = NULL;
    struct stat info;

    if (stat(path, &info) < 0) {
        error_set_errno(error, errno, "disk %s (%s): %s", disk->id, disk->device, path);
        return FALSE;
    }
    if (info.st_size == bytes && get_mtime_ns(&info) == mtime_ns)
        return TRUE;
    then = format_time(mtime_ns);
    now = format_time(get_mtime_ns(&info));
    error_set(
        error, VMFERRY_ERROR_REFUSED,
        "disk %s (%s): %s has changed since the guest was saved: it was last written at %s and "
        "had %" G_GINT64_FORMAT " bytes then, now %s and %" G_GINT64_FORMAT
        "; with that disk the guest's memory would be of another time",
        disk->id, disk->device, path, then, bytes, now, (int64_t)info.st_size);
    return FALSE;
}

gboolean saved_disk_check_unchanged(const SavedDisk *disk,
                                    char *(*map)(const char *text, gpointer user), gpointer user,
                                    GError **error)
{
    json_t *file;
    size_t i;

    if (disk->saved)
        return TRUE;
    json_array_foreach(disk->files, i, file)
    {
        g_autofree char *path = map(json_string_value(json_object_get(file, "file")), user);

        if (!check_unchanged(disk, file, path, error))
            return FALSE;
    }
    return TRUE;
}

#include "migrate/takeover_images.h"

#include <string.h>

#include "base/fd.h"

#define IMAGES_NAME "images"
#define IMAGES_MAX_BYTES ((size_t)8 << 20)

static char *name_file(const char *directory)
{
    return g_build_filename(directory, IMAGES_NAME, NULL);
}

gboolean takeover_images_exist(const char *directory)
{
    g_autofree char *path = name_file(directory);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

static char *encode(const TakeoverImage *images, guint count)
{
    g_autoptr(json_t) object = json_object();
    json_t *array = json_array();

    for (guint i = 0; i < count; i++)
        json_array_append_new(array,
                              json_pack("{s:s, s:s, s:I}", "path", images[i].path, "format",
                                        images[i].format, "bytes", (json_int_t)images[i].bytes));
    json_object_set_new(object, "images", array);
    return json_dumps(object, JSON_LINE);
}

gboolean takeover_images_write(const char *directory, const TakeoverImage *images, guint count,
                               GError **error)
{
    g_autofree char *path = name_file(directory);
    char *text = encode(images, count);
    gboolean written = file_replace(path, text, strlen(text), FALSE, error);

    free(text);
    return written;
}

static gboolean read_image(json_t *object, TakeoverImage *ret, GError **error)
{
    return json_get_text(object, "path", &ret->path, error) &&
           json_get_text(object, "format", &ret->format, error) &&
           json_get_count(object, "bytes", G_MAXINT64, &ret->bytes, error);
}

static json_t *load(const char *directory, GError **error)
{
    g_autofree char *path = name_file(directory);
    size_t length;
    g_autofree char *text = file_read(path, IMAGES_MAX_BYTES, &length, error);

    return text ? json_parse_object(text, length, IMAGES_MAX_BYTES, error) : NULL;
}

GArray *takeover_images_read(const char *directory, json_t **ret_object, GError **error)
{
    g_autoptr(json_t) object = load(directory, error);
    g_autoptr(GArray) images = g_array_new(FALSE, TRUE, sizeof(TakeoverImage));
    json_t *entries, *entry;
    size_t i;

    if (!object || !json_get_array(object, "images", WRITE_JOURNAL_MAX_DISKS, &entries, error))
        return NULL;
    json_array_foreach(entries, i, entry)
    {
        TakeoverImage image;

        if (!read_image(entry, &image, error))
            return NULL;
        g_array_append_val(images, image);
    }
    *ret_object = g_steal_pointer(&object);
    return g_steal_pointer(&images);
}

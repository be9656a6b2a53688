#include "disk/image_reader.h"

#include "base/log.h"
#include "disk/image_view.h"

typedef struct {
    char *path;
    uint64_t bytes;
    char *digest;
} ReadImage;

struct ImageReader {
    GPtrArray *images; /* of ReadImage */
    GThread *thread;   /* NULL: not started, or it could not be */
    gint cancelled, done;
    ImageReaderDone when_done;
    gpointer user;
};

static void read_image_free(ReadImage *image)
{
    g_free(image->path);
    g_free(image->digest);
    g_free(image);
}

ImageReader *image_reader_new(void)
{
    ImageReader *reader = g_new0(ImageReader, 1);

    reader->images = g_ptr_array_new_with_free_func((GDestroyNotify)read_image_free);
    return reader;
}

guint image_reader_add(ImageReader *reader, const char *path, uint64_t bytes)
{
    ReadImage *image = g_new0(ReadImage, 1);

    image->path = g_strdup(path);
    image->bytes = bytes;
    g_ptr_array_add(reader->images, image);
    return reader->images->len - 1;
}

static void read_one(ImageReader *reader, ReadImage *image)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(ImageView) view = image_view_open(image->path, &error);

    if (view)
        image->digest = image_view_digest_content(view, image->bytes, &reader->cancelled, &error);
    if (error)
        log_debug("image: %s", error->message);
}

static gpointer run(gpointer data)
{
    ImageReader *reader = data;

    for (guint i = 0; i < reader->images->len && !g_atomic_int_get(&reader->cancelled); i++)
        read_one(reader, reader->images->pdata[i]);
    if (reader->when_done)
        reader->when_done(reader, reader->user);
    g_atomic_int_set(&reader->done, 1);
    return NULL;
}

void image_reader_start(ImageReader *reader, ImageReaderDone done, gpointer user)
{
    g_autoptr(GError) error = NULL;

    reader->when_done = done;
    reader->user = user;
    reader->thread = g_thread_try_new("images", run, reader, &error);
    if (reader->thread)
        return;
    log_warning("images: %s", error->message);
    g_atomic_int_set(&reader->cancelled, 1);
    run(reader);
}

gboolean image_reader_is_done(const ImageReader *reader)
{
    return g_atomic_int_get(&reader->done) != 0;
}

const char *image_reader_get_digest(const ImageReader *reader, guint number)
{
    const ReadImage *image = reader->images->pdata[number];

    return image->digest;
}

void image_reader_free(ImageReader *reader)
{
    if (!reader)
        return;
    g_atomic_int_set(&reader->cancelled, 1);
    if (reader->thread)
        g_thread_join(reader->thread);
    g_ptr_array_unref(reader->images);
    g_free(reader);
}

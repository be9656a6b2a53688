#include "agent/shared_images.h"

#include "base/lock_guard.h"

struct SharedImage {
    SharedImages *images;
    char *id;
    SharedPages *pages;
    guint users; /* protected by the lock of *images* */
};

struct SharedImages {
    GMutex lock;
    GHashTable *by_id; /* of SharedImage, borrowed: its users have it */
};

SharedImages *shared_images_new(void)
{
    SharedImages *images = g_new0(SharedImages, 1);

    g_mutex_init(&images->lock);
    images->by_id = g_hash_table_new(g_str_hash, g_str_equal);
    return images;
}

void shared_images_free(SharedImages *images)
{
    if (!images)
        return;
    g_hash_table_unref(images->by_id);
    g_mutex_clear(&images->lock);
    g_free(images);
}

static SharedImage *make(SharedImages *images, const char *id, const PageRegions *regions,
                         GError **error)
{
    SharedPages *pages = shared_pages_new(regions->pages, regions->count, error);
    SharedImage *image;

    if (!pages)
        return NULL;
    image = g_new0(SharedImage, 1);
    image->images = images;
    image->id = g_strdup(id);
    image->pages = pages;
    g_hash_table_insert(images->by_id, image->id, image);
    return image;
}

SharedImage *shared_images_join(SharedImages *images, const ImageId *id, const PageRegions *regions,
                                GError **error)
{
    g_autofree char *text = image_id_format(id);
    lock_guard(&images->lock);
    SharedImage *image = g_hash_table_lookup(images->by_id, text);

    if (!image)
        image = make(images, text, regions, error);
    if (image)
        image->users++;
    return image;
}

/* Who joins meanwhile finds it, or makes another one. */
static gboolean leave(SharedImage *image)
{
    lock_guard(&image->images->lock);

    if (--image->users > 0)
        return FALSE;
    g_hash_table_remove(image->images->by_id, image->id);
    return TRUE;
}

void shared_image_release(gpointer data)
{
    SharedImage *image = data;

    if (!image || !leave(image))
        return;
    shared_pages_free(image->pages);
    g_free(image->id);
    g_free(image);
}

SharedPages *shared_image_get_pages(const SharedImage *image)
{
    return image->pages;
}

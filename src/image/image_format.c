#include "image/image_format.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"

/* ---- ids ---- */

gboolean image_id_is_none(const ImageId *id)
{
    static const ImageId none;

    return image_id_is_equal(id, &none);
}

gboolean image_id_is_equal(const ImageId *id, const ImageId *other)
{
    return memcmp(id->bytes, other->bytes, IMAGE_ID_BYTES) == 0;
}

gboolean image_id_make(ImageId *ret, GError **error)
{
    if (getrandom(ret->bytes, IMAGE_ID_BYTES, 0) == (ssize_t)IMAGE_ID_BYTES)
        return TRUE;
    error_set_errno(error, errno, "an id for a saved image");
    return FALSE;
}

char *image_id_format(const ImageId *id)
{
    g_autoptr(GString) text = g_string_sized_new(2 * IMAGE_ID_BYTES);

    for (guint i = 0; i < IMAGE_ID_BYTES; i++)
        g_string_append_printf(text, "%02x", id->bytes[i]);
    return g_strdup(text->str);
}

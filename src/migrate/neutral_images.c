#include "migrate/neutral_images.h"

#include <string.h>

#include "base/error.h"

/* A VMM may name it by a relative path; a description does not.  One that knows the neutral places names them: there
 * paths may be rewritten by rules of this host. */
static gboolean is_image(const VmmImage *image, const char *at, const char *path)
{
    g_autofree char *place = g_strconcat(" at ", at, NULL);

    return g_str_has_suffix(image->device, place) || strcmp(image->file, path) == 0 ||
           (!g_path_is_absolute(image->file) && g_str_has_suffix(path, image->file) &&
            path[strlen(path) - strlen(image->file) - 1] == '/');
}

/* Takes it out of *images*; NULL where it is not there. */
static VmmImage *take(GPtrArray *images, const char *at, const char *file)
{
    for (guint i = 0; i < images->len; i++)
        if (is_image(images->pdata[i], at, file))
            return g_ptr_array_steal_index(images, i);
    return NULL;
}

GPtrArray *neutral_images_order(GPtrArray *images, const MachineDescription *machine,
                                char *(*map)(const char *path, gpointer user), gpointer user,
                                GError **error)
{
    g_autoptr(GPtrArray) left = images;
    g_autoptr(GPtrArray) ordered = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_image_free);

    for (guint i = 0; images && i < machine->disks->len; i++) {
        const MachineDisk *disk = machine->disks->pdata[i];
        g_autofree char *file = !disk->path ? NULL
                                : map       ? map(disk->path, user)
                                            : g_strdup(disk->path);
        VmmImage *image = file ? take(images, disk->at, file) : NULL;

        if (file && !image) {
            error_set(error, VMFERRY_ERROR_REFUSED, "no disk of the machine here has the image %s",
                      file);
            return NULL;
        }
        if (image)
            g_ptr_array_add(ordered, image);
    }
    for (guint i = 0; images && i < images->len; i++) {
        const VmmImage *rest = images->pdata[i];

        if (rest->loaded)
            continue;
        error_set(error, VMFERRY_ERROR_REFUSED, "%s: %s is no disk of the machine that is moved",
                  rest->device, rest->file);
        return NULL;
    }
    return images ? g_steal_pointer(&ordered) : NULL;
}

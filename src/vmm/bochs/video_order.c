#include "vmm/bochs/video_order.h"

#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/search.h"
#include "vmm/bochs/video.h"

#define ORDER_FILE "order"
#define NEUTRAL 'n'
#define OWN 'b'
#define CHANGE_BYTES (1 + (size_t)BOCHS_PLANES_BYTES)

/* *planes* NULL: it is in that order. */
static gboolean write_order(const BochsProcess *process, char order, const uint8_t *planes,
                            GError **error)
{
    g_autofree char *path = bochs_folder_path(process->folder, ORDER_FILE);
    g_autofree char *text = g_malloc(CHANGE_BYTES);

    text[0] = order;
    if (planes)
        memcpy(text + 1, planes, BOCHS_PLANES_BYTES);
    return file_replace(path, text, planes ? CHANGE_BYTES : 1, FALSE, error);
}

static gboolean write_planes(const BochsProcess *process, const RamRegion *video, char order,
                             const uint8_t *planes, GError **error)
{
    return bochs_memory_write(process, video->host_address, planes, BOCHS_PLANES_BYTES, error) &&
           write_order(process, order, NULL, error);
}

/* Also ends a change that was begun. */
static gboolean find_order(const BochsProcess *process, const RamRegion *video, char *ret,
                           GError **error)
{
    g_autofree char *path = bochs_folder_path(process->folder, ORDER_FILE);
    g_autoptr(GError) failure = NULL;
    size_t length;
    g_autofree char *text = file_read(path, CHANGE_BYTES, &length, &failure);

    *ret = NEUTRAL;
    if (!text && error_is(failure, VMFERRY_ERROR_NOT_FOUND))
        return TRUE;
    if (!text) {
        g_propagate_error(error, g_steal_pointer(&failure));
        return FALSE;
    }
    *ret = text[0];
    if ((*ret != NEUTRAL && *ret != OWN) || (length != 1 && length != CHANGE_BYTES)) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s does not name an order", path);
        return FALSE;
    }
    return length == 1 || write_planes(process, video, *ret, (const uint8_t *)text + 1, error);
}

gboolean bochs_video_order_set(BochsProcess *process, const RamRegion *video, gboolean neutral,
                               GError **error)
{
    const char wanted = neutral ? NEUTRAL : OWN;
    g_autofree uint8_t *planes = NULL;
    char order;

    if (!find_order(process, video, &order, error))
        return FALSE;
    if (order == wanted)
        return TRUE;
    if (!bochs_video_reorder(process, video, neutral, &planes, error) ||
        !write_order(process, wanted, planes, error))
        return FALSE;
    return !planes || write_planes(process, video, wanted, planes, error);
}

#include "vmm/bochs/video.h"

#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "vmm/bochs/form.h"
#include "vmm/bochs/live.h"
#include "vmm/bochs/parameters.h"
#include "vmm/bochs/search.h"
#include "vmm/vmm.h"

#define VIDEO_BYTES (16u << 20)
#define MARK_BYTES 32u
#define MARK_FILE "mark"
#define POINTERS 2u /* the device's own, and its parameter's */

/* ---- an allocation of whole pages (glibc's malloc.c, "Chunk representations") ---- */

typedef struct {
    uint64_t before; /* bytes of the mapping before this header */
    uint64_t size;   /* of the rest, and flags */
} Header;

#define IS_MAPPED 2u

/* The header at the next page, for the same allocation. */
static gboolean move_header(const Header *header, uint64_t address, Header *ret)
{
    const uint64_t back = PAGE_BYTES - sizeof *header;

    if (address % PAGE_BYTES != sizeof *header || header->before != 0 ||
        header->size != ((VIDEO_BYTES + PAGE_BYTES) | IS_MAPPED))
        return FALSE;
    *ret = (Header){back, header->size - back};
    return TRUE;
}

/* ---- finding and moving it ---- */

static gboolean refuse(GError **error, const char *why)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "the VGA's memory in Bochs: %s", why);
    return FALSE;
}

/* The one place of some bytes. */
static gboolean find_mark(BochsProcess *process, const RamRegion *ram, const uint8_t *mark,
                          uint64_t *ret, GError **error)
{
    const BochsPattern pattern = {mark, MARK_BYTES};
    g_autoptr(GPtrArray) found = bochs_search(process, ram, &pattern, 1, error);
    const GArray *places = found ? found->pdata[0] : NULL;

    if (!found)
        return FALSE;
    if (places->len != 1)
        return refuse(error, "is not found");
    *ret = g_array_index(places, uint64_t, 0);
    return TRUE;
}

static gboolean set_mark(BochsProcess *process, const uint8_t *mark, GError **error)
{
    g_autofree char *file = g_build_filename(process->state_folder, MARK_FILE, NULL);
    g_autoptr(BochsNode) vga = bochs_tree_new("vga");

    bochs_tree_set_text(vga, "vgacore.memory", MARK_FILE);
    return file_replace(file, mark, MARK_BYTES, FALSE, error) &&
           bochs_restore(process->console, process->state_folder, vga, error);
}

static gboolean check_size(BochsProcess *process, GError **error)
{
    g_autoptr(BochsNode) memory = bochs_show(process->console, "vga.vgacore.memory", error);

    if (!memory)
        return FALSE;
    return (memory->kind == BOCHS_NODE_BINARY && memory->number == VIDEO_BYTES) ||
           refuse(error, "is not of 16 MiB");
}

static gboolean find(BochsProcess *process, const RamRegion *ram, uint64_t *ret, GError **error)
{
    uint8_t mark[MARK_BYTES];

    for (guint i = 0; i < MARK_BYTES; i++)
        mark[i] = (uint8_t)g_random_int();
    return check_size(process, error) && set_mark(process, mark, error) &&
           find_mark(process, ram, mark, ret, error);
}

/* Both pointers, and the header. */
static gboolean move(BochsProcess *process, const RamRegion *ram, uint64_t from, uint64_t to,
                     GError **error)
{
    const BochsPattern pattern = {&from, sizeof from};
    g_autoptr(GPtrArray) found = bochs_search(process, ram, &pattern, 1, error);
    const GArray *places = found ? found->pdata[0] : NULL;
    Header header, moved;

    if (!found || !bochs_memory_read(process, from - sizeof header, &header, sizeof header, error))
        return FALSE;
    if (places->len != POINTERS || !move_header(&header, from, &moved))
        return refuse(error, "is not allocated as was expected");
    if (!bochs_memory_write(process, to - sizeof moved, &moved, sizeof moved, error))
        return FALSE;
    for (guint i = 0; i < places->len; i++)
        if (!bochs_memory_write(process, g_array_index(places, uint64_t, i), &to, sizeof to, error))
            return FALSE;
    return TRUE;
}

/* What `restore` sets is there now; then all is 0. */
static gboolean check_moved(BochsProcess *process, uint64_t address, GError **error)
{
    static const uint8_t zeros[MARK_BYTES];
    uint8_t mark[MARK_BYTES], seen[MARK_BYTES];

    memset(mark, 0x5a, sizeof mark);
    if (!set_mark(process, mark, error) ||
        !bochs_memory_read(process, address, seen, sizeof seen, error))
        return FALSE;
    if (memcmp(mark, seen, sizeof mark) != 0)
        return refuse(error, "was not moved");
    return set_mark(process, zeros, error);
}

RamRegion *bochs_video_open(BochsProcess *process, const RamRegion *ram, GError **error)
{
    uint64_t at, address;

    if (!find(process, ram, &at, error))
        return NULL;
    address = (at + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (address != at && !move(process, ram, at, address, error))
        return NULL;
    if (!check_moved(process, address, error))
        return NULL;
    return ram_region_new(VMM_NEUTRAL_VIDEO, address, VIDEO_BYTES);
}

/* ---- orders ---- */

#define PLANES 4u
#define PLANE_BYTES (BOCHS_PLANES_BYTES / PLANES)

/* Where Bochs has the byte that is the *offset*-th of a plane in QEMU. */
static guint place_in_bochs(BochsPlanes planes, guint plane, guint offset)
{
    if (planes == BOCHS_PLANES_TEXT && plane < 2)
        return offset * 2 + plane;
    /* Each plane has every fourth byte only: the others come behind. */
    if (planes == BOCHS_PLANES_CHAINED)
        offset = offset * PLANES % PLANE_BYTES + offset * PLANES / PLANE_BYTES;
    return plane * PLANE_BYTES + offset;
}

void bochs_planes_reorder(BochsPlanes planes, gboolean to_neutral,
                          const uint8_t from[BOCHS_PLANES_BYTES], uint8_t to[BOCHS_PLANES_BYTES])
{
    for (guint i = 0; i < BOCHS_PLANES_BYTES; i++) {
        guint place = place_in_bochs(planes, i % PLANES, i / PLANES);

        if (to_neutral)
            to[i] = from[place];
        else
            to[place] = from[i];
    }
}

/* *ret_linear: there are no planes. */
static gboolean read_mode(BochsProcess *process, gboolean *ret_linear, BochsPlanes *ret,
                          GError **error)
{
    g_autoptr(BochsNode) enabled = bochs_show(process->console, "vga.vbe.enabled", error);
    g_autoptr(BochsNode) graphics =
        enabled ? bochs_show(process->console, "vga.vgacore.graphics_ctrl", error) : NULL;
    g_autoptr(BochsNode) sequencer =
        graphics ? bochs_show(process->console, "vga.vgacore.sequencer", error) : NULL;
    uint64_t is_graphics, mapping, chained;

    if (!sequencer || !bochs_tree_get(graphics, "graphics_alpha", &is_graphics, error) ||
        !bochs_tree_get(graphics, "memory_mapping", &mapping, error) ||
        !bochs_tree_get(sequencer, "chain_four", &chained, error))
        return FALSE;
    *ret_linear = enabled->number != 0;
    if (!is_graphics || mapping == 3)
        *ret = BOCHS_PLANES_TEXT;
    else
        *ret = chained ? BOCHS_PLANES_CHAINED : BOCHS_PLANES_SEPARATE;
    return TRUE;
}

gboolean bochs_video_reorder(BochsProcess *process, const RamRegion *video, gboolean to_neutral,
                             uint8_t **ret, GError **error)
{
    g_autofree uint8_t *from = NULL;
    BochsPlanes planes;
    gboolean linear;

    *ret = NULL;
    if (!read_mode(process, &linear, &planes, error))
        return FALSE;
    if (linear)
        return TRUE;
    from = g_malloc(BOCHS_PLANES_BYTES);
    if (!bochs_memory_read(process, video->host_address, from, BOCHS_PLANES_BYTES, error))
        return FALSE;
    *ret = g_malloc(BOCHS_PLANES_BYTES);
    bochs_planes_reorder(planes, to_neutral, from, *ret);
    return TRUE;
}

#include "migrate/image_restore.h"

#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/page.h"
#include "image/image_order.h"
#include "migrate/takeover.h"

/* The guest waits meanwhile. */
#define FIRST_PAGES_MS 60u

struct ImageRestore {
    SavedImage *image;
    GuestMessage *machine;
    json_t *note;
    GArray *disks;
    GArray *recorded; /* of ImageRun: what restores before this one waited for */
    SharedPages *shared;
    Takeover *takeover; /* NULL: not loaded */
};

static gboolean check_regions(const ImageRestore *restore, GError **error)
{
    const PageRegions *regions = saved_image_get_regions(restore->image);
    const GuestMessage *machine = restore->machine;
    gboolean same = regions->count == machine->region_count;

    for (guint i = 0; same && i < regions->count; i++)
        same = strcmp(regions->names[i], machine->regions[i].name) == 0 &&
               regions->pages[i] == machine->regions[i].bytes / PAGE_BYTES;
    if (!same)
        error_set(error, VMFERRY_ERROR_INVALID, "its memory is not that of its machine");
    return same;
}

static gboolean read_texts(ImageRestore *restore, GError **error)
{
    const char *machine = saved_image_get_machine(restore->image);
    const char *note = saved_image_get_note(restore->image);

    if (!note) {
        error_set(error, VMFERRY_ERROR_INVALID, "it has no note, so nothing is known of its disks");
        return FALSE;
    }
    restore->machine = guest_message_decode(machine, strlen(machine), error);
    restore->note = restore->machine && guest_message_check_own_form(restore->machine, error)
                        ? json_parse_object(note, strlen(note), SAVE_MESSAGE_MAX_NOTE_BYTES, error)
                        : NULL;
    restore->disks = restore->note ? saved_disks_read(restore->note, error) : NULL;
    return restore->disks && check_regions(restore, error);
}

/* It is a hint: without it all comes in another order. */
static void read_recorded(ImageRestore *restore, const char *path)
{
    g_autoptr(GError) problem = NULL;

    restore->recorded = image_order_read(path, saved_image_get_id(restore->image),
                                         saved_image_get_regions(restore->image), &problem);
    /* That of an image whose place this one has taken is of no use. */
    if (problem && !error_is(problem, VMFERRY_ERROR_NOT_FOUND) &&
        !error_is(problem, VMFERRY_ERROR_REFUSED))
        log_warning("%s", problem->message);
    if (!restore->recorded)
        restore->recorded = g_array_new(FALSE, FALSE, sizeof(ImageRun));
}

ImageRestore *image_restore_open(const char *path, GError **error)
{
    g_autoptr(ImageRestore) restore = g_new0(ImageRestore, 1);

    restore->image = saved_image_open(path, NULL, error);
    if (!restore->image)
        return NULL;
    if (!read_texts(restore, error)) {
        g_prefix_error(error, "%s: ", path);
        return NULL;
    }
    read_recorded(restore, path);
    return g_steal_pointer(&restore);
}

void image_restore_free(ImageRestore *restore)
{
    if (!restore)
        return;
    takeover_free(restore->takeover);
    guest_message_free(restore->machine);
    json_decref(restore->note);
    g_clear_pointer(&restore->disks, g_array_unref);
    g_clear_pointer(&restore->recorded, g_array_unref);
    saved_image_free(restore->image);
    g_free(restore);
}

const SavedImage *image_restore_get_image(const ImageRestore *restore)
{
    return restore->image;
}

const GuestMessage *image_restore_get_machine(const ImageRestore *restore)
{
    return restore->machine;
}

json_t *image_restore_get_note(const ImageRestore *restore)
{
    return restore->note;
}

const GArray *image_restore_get_disks(const ImageRestore *restore)
{
    return restore->disks;
}

static TakeoverPages all_pages(const ImageRestore *restore)
{
    return (TakeoverPages){saved_image_get_source(restore->image), NULL};
}

void image_restore_share(ImageRestore *restore, SharedPages *shared)
{
    restore->shared = shared;
}

static void append_runs(GArray *runs, const GArray *order)
{
    for (guint i = 0; i < order->len; i++) {
        const ImageRun *run = &g_array_index(order, ImageRun, i);
        const LocalFeederRun first = {run->region, run->span};

        g_array_append_val(runs, first);
    }
}

/* What was waited for once, then what the guest had written last. */
static void set_first(ImageRestore *restore)
{
    g_autoptr(GArray) runs = g_array_new(FALSE, FALSE, sizeof(LocalFeederRun));

    append_runs(runs, restore->recorded);
    append_runs(runs, saved_image_get_order(restore->image));
    takeover_set_first(restore->takeover, (const LocalFeederRun *)runs->data, runs->len,
                       restore->recorded->len, FIRST_PAGES_MS);
}

gboolean image_restore_load(ImageRestore *restore, Vmm *fresh, const char *directory,
                            GError **error)
{
    const GuestMessage *machine = restore->machine;
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    for (guint i = 0; i < machine->region_count; i++)
        g_ptr_array_add(regions,
                        ram_region_new(machine->regions[i].name, 0, machine->regions[i].bytes));
    if (!takeover_note_machine(machine->machine, regions, directory, error))
        return FALSE;
    restore->takeover = takeover_prepare(fresh, directory, error);
    if (!restore->takeover)
        return FALSE;
    takeover_share(restore->takeover, restore->shared);
    set_first(restore);
    return takeover_load(restore->takeover, all_pages(restore),
                         saved_image_get_state(restore->image), error);
}

gboolean image_restore_reopen(ImageRestore *restore, pid_t pid, const char *directory,
                              gboolean *ret_whole, GError **error)
{
    g_autoptr(GError) problem = NULL;

    restore->takeover = takeover_reopen(pid, directory, all_pages(restore), &problem);
    *ret_whole = !restore->takeover && !problem;
    if (!problem)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

gboolean image_restore_fill(ImageRestore *restore, GError **error)
{
    return takeover_fill(restore->takeover, error);
}

LocalFeederState image_restore_await(ImageRestore *restore, guint timeout_ms, GError **error)
{
    return takeover_await(restore->takeover, timeout_ms, error);
}

/* A PageSet for each region; free with g_ptr_array_unref(). */
static GPtrArray *list_recorded(const ImageRestore *restore)
{
    GPtrArray *sets = page_regions_new_sets(saved_image_get_regions(restore->image));

    for (guint i = 0; i < restore->recorded->len; i++) {
        const ImageRun *run = &g_array_index(restore->recorded, ImageRun, i);

        page_set_add(sets->pdata[run->region], run->span.first, run->span.count);
    }
    return sets;
}

/* What was recorded and waited for all the same (the time for it was over) is not added again. */
gboolean image_restore_record(ImageRestore *restore, GError **error)
{
    g_autoptr(GArray) accesses = takeover_list_accesses(restore->takeover);
    g_autoptr(GArray) runs = g_array_copy(restore->recorded);
    g_autoptr(GPtrArray) known = list_recorded(restore);

    for (guint i = 0; i < accesses->len && runs->len < LOCAL_FEEDER_MOST_ACCESSES; i++) {
        const LocalFeederRun *access = &g_array_index(accesses, LocalFeederRun, i);
        const ImageRun run = {access->region, access->span};

        if (!page_set_has(known->pdata[run.region], run.span.first))
            g_array_append_val(runs, run);
    }
    return runs->len == restore->recorded->len ||
           image_order_write(saved_image_get_path(restore->image),
                             saved_image_get_id(restore->image), runs, error);
}

uint64_t image_restore_count_outstanding(ImageRestore *restore)
{
    return takeover_count_outstanding(restore->takeover);
}

void image_restore_get_counts(ImageRestore *restore, FaultServiceCounts *ret)
{
    takeover_get_counts(restore->takeover, ret);
}

#include "protect/epoch_pages.h"

struct EpochPages {
    EpochPageFiles files;
    Tracker *tracker;
    PageSource *pages; /* the guest's memory */
    /* A PageSet a region, of this epoch: all of it; known to the tracker as written; sent ahead,
     * and not written since. */
    GPtrArray *in_epoch, *written, *ahead;
};

/* ---- sets ---- */

static void clear_sets(GPtrArray *sets)
{
    for (guint i = 0; i < sets->len; i++)
        page_set_clear(sets->pdata[i]);
}

static void add_sets(GPtrArray *sets, const GPtrArray *others)
{
    for (guint i = 0; i < sets->len; i++)
        page_set_add_all(sets->pdata[i], others->pdata[i]);
}

static void subtract_sets(GPtrArray *sets, const GPtrArray *others)
{
    for (guint i = 0; i < sets->len; i++)
        page_set_remove_all(sets->pdata[i], others->pdata[i]);
}

static gboolean note(OutstandingPages *pages, const GPtrArray *sets, GError **error)
{
    PageSpan run;

    for (guint i = 0; i < sets->len; i++)
        for (uint64_t from = 0;
             page_set_next_run(sets->pdata[i], from, UINT64_MAX, &run.first, &run.count);
             from = run.first + run.count)
            if (!outstanding_add(pages, i, run, error))
                return FALSE;
    return TRUE;
}

static void add_runs(const OutstandingPages *pages, GPtrArray *sets)
{
    PageSpan run;

    for (guint i = 0; i < sets->len; i++)
        for (uint64_t from = 0;
             outstanding_next_run(pages, i, from, UINT64_MAX, &run.first, &run.count);
             from = run.first + run.count)
            page_set_add(sets->pdata[i], run.first, run.count);
}

static void remove_runs(OutstandingPages *pages, const GPtrArray *sets)
{
    PageSpan run;

    for (guint i = 0; i < sets->len; i++)
        for (uint64_t from = 0;
             page_set_next_run(sets->pdata[i], from, UINT64_MAX, &run.first, &run.count);
             from = run.first + run.count)
            outstanding_remove(pages, i, run);
}

/* ---- begin and end ---- */

EpochPages *epoch_pages_new(GuestMemory *memory, PageSource *pages, Userfault *userfault,
                            const EpochPageFiles *files, GError **error)
{
    g_autoptr(EpochPages) epoch = g_new0(EpochPages, 1);

    epoch->files = *files;
    epoch->pages = pages;
    epoch->in_epoch = page_regions_new_sets(pages->regions);
    epoch->written = page_regions_new_sets(pages->regions);
    epoch->ahead = page_regions_new_sets(pages->regions);
    epoch->tracker = tracker_start_on(memory, userfault, error);
    return epoch->tracker ? g_steal_pointer(&epoch) : NULL;
}

void epoch_pages_free(EpochPages *epoch)
{
    if (!epoch)
        return;
    tracker_free(epoch->tracker);
    g_ptr_array_unref(epoch->in_epoch);
    g_ptr_array_unref(epoch->written);
    g_ptr_array_unref(epoch->ahead);
    g_free(epoch);
}

gboolean epoch_pages_skip(EpochPages *epoch, GError **error)
{
    gboolean skipped = tracker_collect(epoch->tracker, epoch->written, error);

    clear_sets(epoch->written);
    return skipped;
}

/* What is not populated was never written, or was noted when it was discarded. */
gboolean epoch_pages_add_all(EpochPages *epoch, GError **error)
{
    g_autoptr(GPtrArray) sets = page_regions_new_sets(epoch->pages->regions);

    for (guint i = 0; i < sets->len; i++)
        if (!page_source_add_populated(epoch->pages, i, sets->pdata[i], error))
            return FALSE;
    return note(epoch->files.lacking, sets, error);
}

/* ---- passes ---- */

/* A crash in between is seen by the mark. */
gboolean epoch_pages_collect(EpochPages *epoch, uint64_t *ret, GError **error)
{
    g_autoptr(GPtrArray) fresh = page_regions_new_sets(epoch->pages->regions);

    outstanding_set_uncertain(epoch->files.lacking, TRUE);
    if (!tracker_collect(epoch->tracker, fresh, error) || !note(epoch->files.lacking, fresh, error))
        return FALSE;
    outstanding_set_uncertain(epoch->files.lacking, FALSE);
    add_sets(epoch->written, fresh);
    if (!ret)
        return TRUE;
    add_runs(epoch->files.lacking, fresh);
    subtract_sets(epoch->ahead, fresh);
    add_runs(epoch->files.under_way, fresh);
    subtract_sets(fresh, epoch->ahead);
    *ret = 0;
    for (guint i = 0; i < fresh->len; i++)
        *ret += page_set_count(fresh->pdata[i]);
    return TRUE;
}

/* The guest stands. */
static gboolean take_discarded(EpochPages *epoch, GError **error)
{
    g_autoptr(GPtrArray) discarded = page_regions_new_sets(epoch->pages->regions);

    add_runs(epoch->files.discarded, discarded);
    if (!note(epoch->files.lacking, discarded, error))
        return FALSE;
    remove_runs(epoch->files.discarded, discarded);
    return TRUE;
}

/* What is lacking is under way from now on. */
static gboolean move_lacking(EpochPages *epoch, GError **error)
{
    g_autoptr(GPtrArray) lacking = page_regions_new_sets(epoch->pages->regions);

    add_runs(epoch->files.lacking, lacking);
    if (!note(epoch->files.under_way, lacking, error))
        return FALSE;
    remove_runs(epoch->files.lacking, lacking);
    subtract_sets(epoch->ahead, lacking);
    clear_sets(epoch->in_epoch);
    add_runs(epoch->files.under_way, epoch->in_epoch);
    return TRUE;
}

/* Pages that are lacking and were never seen written: discarded, or noted by an agent that died.  (One that
 * was written and then discarded reads as zero.) */
static gboolean leave_out_absent(EpochPages *epoch, GPtrArray *sets, GError **error)
{
    for (guint i = 0; i < sets->len; i++) {
        g_autoptr(PageSet) absent = NULL;
        g_autoptr(PageSet) populated = NULL;
        PageSet *set = sets->pdata[i];

        absent = page_set_new(set->pages);
        page_set_add_all(absent, set);
        page_set_remove_all(absent, epoch->written->pdata[i]);
        if (page_set_count(absent) == 0)
            continue;
        populated = page_set_new(set->pages);
        if (!page_source_add_populated(epoch->pages, i, populated, error))
            return FALSE;
        page_set_remove_all(absent, populated);
        page_set_remove_all(set, absent);
    }
    return TRUE;
}

gboolean epoch_pages_begin_pass(EpochPages *epoch, gboolean cut, GPtrArray **ret_send,
                                GPtrArray **ret_present, GError **error)
{
    g_autoptr(GPtrArray) send = page_regions_new_sets(epoch->pages->regions);
    g_autoptr(GPtrArray) present = page_regions_new_sets(epoch->pages->regions);

    if (!epoch_pages_collect(epoch, NULL, error) || (cut && !take_discarded(epoch, error)) ||
        !move_lacking(epoch, error))
        return FALSE;
    add_sets(send, epoch->in_epoch);
    subtract_sets(send, epoch->ahead);
    add_sets(present, send);
    if (!leave_out_absent(epoch, present, error))
        return FALSE;
    *ret_send = g_steal_pointer(&send);
    *ret_present = g_steal_pointer(&present);
    return TRUE;
}

void epoch_pages_note_ahead(EpochPages *epoch, const GPtrArray *sent)
{
    add_sets(epoch->ahead, sent);
}

void epoch_pages_forget_ahead(EpochPages *epoch)
{
    clear_sets(epoch->ahead);
}

void epoch_pages_confirm(EpochPages *epoch)
{
    remove_runs(epoch->files.under_way, epoch->in_epoch);
    clear_sets(epoch->written);
    clear_sets(epoch->ahead);
}

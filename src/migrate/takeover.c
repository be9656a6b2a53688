#include "migrate/takeover.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/page.h"
#include "base/process.h"
#include "memory/discard.h"
#include "migrate/takeover_old.h"
#include "transfer/guest_pages.h"
#include "transfer/layered_source.h"

#define OLD_NAME "old"
#define OUTSTANDING_NAME "outstanding"
/* The file belongs to no transaction of a peer. */
#define TRANSACTION "takeover"

struct Takeover {
    char *path; /* of the file of outstanding pages */
    TakeoverOld *old;
    GuestMemory *old_memory;
    PageSource *bottom;   /* the old memory */
    GPtrArray *populated; /* a PageSet a region: of the old memory */
    TakeoverPages above;
    PageSource *layered; /* NULL: there is one of the two only */
    Vmm *fresh;          /* borrowed; NULL where it was reopened */
    SharedPages *shared; /* borrowed; NULL: nothing is */
    GArray *first;       /* of LocalFeederRun; NULL: none */
    guint urgent, urgent_ms;
    gboolean discards; /* VmmDescription.discards_memory, of the fresh one */

    /* Of the fresh one, until the feeder has them. */
    GuestMemory *memory;
    Userfault *userfault;
    OutstandingPages *pages;
    LocalFeeder *feeder;
    gboolean loaded; /* or it may be: nothing is to be taken from it */

    gint gives_back; /* atomic */
};

static char *name_file(const char *directory, const char *name)
{
    return g_build_filename(directory, name, NULL);
}

/* --- the old one ------------------------------------------------------------------------ */

static TakeoverOld *describe_old(Vmm *old, GError **error)
{
    g_autoptr(VmmDescription) description = vmm_describe(old, error);
    g_autoptr(TakeoverOld) note = NULL;

    if (!description)
        return NULL;
    note = g_new0(TakeoverOld, 1);
    note->pid = vmm_get_pid(old);
    note->machine = g_steal_pointer(&description->machine);
    note->regions = g_steal_pointer(&description->ram_regions);
    return process_get_start_time(note->pid, &note->start_time, error) &&
                   vmm_check_process(old, error)
               ? g_steal_pointer(&note)
               : NULL;
}

gboolean takeover_note_machine(const char *machine, const GPtrArray *regions, const char *directory,
                               GError **error)
{
    g_autofree char *path = name_file(directory, OLD_NAME);
    g_autoptr(TakeoverOld) note = g_new0(TakeoverOld, 1);

    note->machine = g_strdup(machine);
    note->regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    for (guint i = 0; i < regions->len; i++) {
        const RamRegion *region = regions->pdata[i];

        g_ptr_array_add(note->regions, ram_region_new(region->name, 0, region->bytes));
    }
    return takeover_old_write(note, path, error);
}

gboolean takeover_note_old(Vmm *old, const char *directory, GError **error)
{
    g_autofree char *path = name_file(directory, OLD_NAME);
    g_autoptr(TakeoverOld) note = describe_old(old, error);

    return note && takeover_old_write(note, path, error);
}

gboolean takeover_leave_place(Vmm *old, const char *directory, GError **error)
{
    g_autofree char *path = name_file(directory, OLD_NAME);
    g_autoptr(TakeoverOld) note = describe_old(old, error);

    if (!note || !takeover_old_write(note, path, error) || !vmm_give_up_resources(old, error))
        return FALSE;
    note->left = TRUE;
    return takeover_old_write(note, path, error);
}

static gboolean is_there(const TakeoverOld *old)
{
    return old->pid != 0;
}

static gboolean check_old(const TakeoverOld *old, GError **error)
{
    if (!is_there(old) || process_is_same(old->pid, old->start_time))
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "process %d, which has the guest's memory, has ended",
              (int)old->pid);
    return FALSE;
}

gboolean takeover_was_place_left(const char *directory)
{
    g_autofree char *path = name_file(directory, OLD_NAME);
    g_autoptr(TakeoverOld) old = takeover_old_read(path, NULL);

    return old && old->left && check_old(old, NULL);
}

/* It is held by a pidfd before it is looked at. */
static gboolean open_old(Takeover *takeover, const char *directory, GError **error)
{
    g_autofree char *path = name_file(directory, OLD_NAME);

    takeover->old = takeover_old_read(path, error);
    if (!takeover->old || !check_old(takeover->old, error))
        return FALSE;
    if (!is_there(takeover->old))
        return TRUE;
    takeover->old_memory = guest_memory_open(takeover->old->pid, takeover->old->regions, error);
    if (!takeover->old_memory || !check_old(takeover->old, error))
        return FALSE;
    takeover->bottom = guest_source_new(takeover->old_memory);
    return TRUE;
}

static gboolean find_populated(Takeover *takeover, GError **error)
{
    const GPtrArray *regions = takeover->old->regions;

    takeover->populated = g_ptr_array_new_with_free_func((GDestroyNotify)page_set_free);
    for (guint i = 0; i < regions->len; i++)
        g_ptr_array_add(takeover->populated,
                        page_set_new(((const RamRegion *)regions->pdata[i])->bytes / PAGE_BYTES));
    for (guint i = 0; takeover->bottom && i < regions->len; i++)
        if (!page_source_add_populated(takeover->bottom, i, takeover->populated->pdata[i], error))
            return FALSE;
    return TRUE;
}

static gboolean put_above(Takeover *takeover, TakeoverPages above, GError **error)
{
    takeover->above = above;
    if (!above.source && !takeover->bottom) {
        error_set(error, VMFERRY_ERROR_INVALID, "there is nothing that has the guest's memory");
        return FALSE;
    }
    if (!above.source || (!above.pages && !takeover->bottom))
        return TRUE;
    if (!above.pages) {
        error_set(error, VMFERRY_ERROR_INVALID, "there are two that have all of its memory");
        return FALSE;
    }
    takeover->layered =
        layered_source_new(above.source, g_ptr_array_ref(above.pages), takeover->bottom, error);
    return takeover->layered != NULL;
}

static PageSource *source_of(const Takeover *takeover)
{
    if (takeover->layered)
        return takeover->layered;
    return takeover->above.source ? takeover->above.source : takeover->bottom;
}

/* --- the fresh one, before it is loaded --------------------------------------------------- */

static const RamRegion *find_region(const VmmDescription *description, const RamRegion *wanted)
{
    for (guint i = 0; i < description->ram_regions->len; i++) {
        const RamRegion *region = description->ram_regions->pdata[i];

        if (strcmp(region->name, wanted->name) == 0 && region->bytes == wanted->bytes)
            return region;
    }
    return NULL;
}

/* Those of the fresh one in the order of the old one's, so that indexes agree. */
static GPtrArray *order_regions(const VmmDescription *description, const GPtrArray *wanted,
                                GError **error)
{
    g_autoptr(GPtrArray) ordered = g_ptr_array_new();

    for (guint i = 0; i < wanted->len; i++) {
        const RamRegion *region = wanted->pdata[i], *found = find_region(description, region);

        if (!found) {
            error_set(error, VMFERRY_ERROR_FAILED, "RAM block %s did not become %" PRIu64 " bytes",
                      region->name, region->bytes);
            return NULL;
        }
        g_ptr_array_add(ordered, (gpointer)found);
    }
    return g_steal_pointer(&ordered);
}

static gboolean open_memory(Takeover *takeover, GError **error)
{
    g_autoptr(VmmDescription) description = vmm_describe(takeover->fresh, error);
    g_autoptr(GPtrArray) regions =
        description ? order_regions(description, takeover->old->regions, error) : NULL;

    if (!regions)
        return FALSE;
    takeover->discards = description->discards_memory;
    takeover->memory = guest_memory_open(vmm_get_pid(takeover->fresh), regions, error);
    return takeover->memory && vmm_check_process(takeover->fresh, error) &&
           guest_memory_check_room(takeover->memory, error) &&
           fault_service_check(takeover->memory, error);
}

/* Opening and starting has left something in it. */
static gboolean empty_memory(Takeover *takeover, GError **error)
{
    takeover->pages = outstanding_create(takeover->path, TRANSACTION, takeover->memory, error);
    if (!takeover->pages)
        return FALSE;
    for (guint i = 0; i < takeover->memory->regions->len; i++) {
        PageSpan all = {0, guest_memory_get_region(takeover->memory, i)->pages};

        if (!outstanding_add(takeover->pages, i, all, error))
            return FALSE;
    }
    return guest_memory_discard(takeover->memory, takeover->pages, error);
}

static gboolean prepare(Takeover *takeover, const char *directory, GError **error)
{
    if (!open_old(takeover, directory, error) || !find_populated(takeover, error) ||
        !vmm_open_incoming(takeover->fresh, takeover->old->machine, takeover->old->regions,
                           error) ||
        !open_memory(takeover, error) || !empty_memory(takeover, error))
        return FALSE;
    takeover->userfault =
        userfault_open(takeover->memory->pid, FAULT_SERVICE_USES, USERFAULT_STAYS_IN_VMM, error);
    return takeover->userfault != NULL;
}

Takeover *takeover_prepare(Vmm *fresh, const char *directory, GError **error)
{
    g_autoptr(Takeover) takeover = g_new0(Takeover, 1);

    takeover->fresh = fresh;
    takeover->path = name_file(directory, OUTSTANDING_NAME);
    return prepare(takeover, directory, error) ? g_steal_pointer(&takeover) : NULL;
}

/* --- loading and running ------------------------------------------------------------------- */

/* Huge pages come whole, so they are outstanding whole. */
static void round_to_backing(const GuestRegion *region, PageSet *set)
{
    uint64_t unit = region->backing_page_bytes / PAGE_BYTES, from = 0, first, count;

    while (unit > 1 && page_set_next_run(set, from, 1, &first, &count)) {
        from = first - first % unit + unit;
        page_set_add(set, from - unit, unit);
    }
}

/* What the layers have in a region. */
static gboolean find_content(Takeover *takeover, guint region, PageSet *set, GError **error)
{
    const TakeoverPages *above = &takeover->above;

    page_set_add_all(set, takeover->populated->pdata[region]);
    if (above->source && above->pages)
        page_set_remove_all(set, above->pages->pdata[region]);
    if (above->source && !page_source_add_populated(above->source, region, set, error))
        return FALSE;
    round_to_backing(guest_memory_get_region(takeover->memory, region), set);
    return TRUE;
}

/* All pages are outstanding until now. */
static void keep_outstanding(Takeover *takeover, guint region, const PageSet *set)
{
    uint64_t from = 0, first, count;

    for (; page_set_next_run(set, from, UINT64_MAX, &first, &count); from = first + count)
        outstanding_remove(takeover->pages, region, (PageSpan){from, first - from});
    outstanding_remove(takeover->pages, region, (PageSpan){from, set->pages - from});
}

static gboolean settle_outstanding(Takeover *takeover, GError **error)
{
    for (guint i = 0; i < takeover->memory->regions->len; i++) {
        g_autoptr(PageSet) set = page_set_new(guest_memory_get_region(takeover->memory, i)->pages);

        if (!find_content(takeover, i, set, error))
            return FALSE;
        keep_outstanding(takeover, i, set);
    }
    return TRUE;
}

/* The kernel may have put pages of zeroes in the place of what was discarded (khugepaged). */
static gboolean discard_again(Takeover *takeover, GError **error)
{
    return guest_memory_check_missing(takeover->memory, takeover->pages, NULL) ||
           guest_memory_discard(takeover->memory, takeover->pages, error);
}

/* A page that it gives back would be as in the file again. */
static gboolean map_shared(Takeover *takeover, GError **error)
{
    if (!takeover->discards)
        return shared_pages_map(takeover->shared, takeover->memory, error);
    error_set(error, VMFERRY_ERROR_REFUSED,
              "its memory cannot be shared: the guest may rely on pages that it gives back being "
              "zero (free page reporting, virtio-mem)");
    return FALSE;
}

static gboolean bring_first(Takeover *takeover, GError **error)
{
    const GArray *first = takeover->first;

    if (!first)
        return TRUE;
    local_feeder_set_first(takeover->feeder, (const LocalFeederRun *)first->data, first->len);
    return local_feeder_bring_first(takeover->feeder, takeover->urgent, takeover->urgent_ms, error);
}

static gboolean begin_feeding(Takeover *takeover, GError **error)
{
    GuestMemory *memory = takeover->memory;

    if (takeover->shared && !map_shared(takeover, error))
        return FALSE;
    takeover->feeder =
        local_feeder_start(g_steal_pointer(&takeover->memory),
                           g_steal_pointer(&takeover->userfault), g_steal_pointer(&takeover->pages),
                           takeover->path, source_of(takeover), takeover->shared, FALSE, error);
    return takeover->feeder && (!takeover->shared || shared_pages_open_up(memory, error)) &&
           bring_first(takeover, error);
}

void takeover_set_first(Takeover *takeover, const LocalFeederRun *runs, guint count, guint urgent,
                        guint budget_ms)
{
    g_clear_pointer(&takeover->first, g_array_unref);
    takeover->first = g_array_sized_new(FALSE, FALSE, sizeof(LocalFeederRun), count);
    g_array_append_vals(takeover->first, runs, count);
    takeover->urgent = urgent;
    takeover->urgent_ms = budget_ms;
}

void takeover_share(Takeover *takeover, SharedPages *shared)
{
    takeover->shared = shared;
}

gboolean takeover_load(Takeover *takeover, TakeoverPages above, GBytes *state, GError **error)
{
    if (!takeover->memory) {
        g_clear_pointer(&above.pages, g_ptr_array_unref);
        error_set(error, VMFERRY_ERROR_INVALID, "this takeover has been begun already");
        return FALSE;
    }
    if (!put_above(takeover, above, error) || !check_old(takeover->old, error) ||
        !settle_outstanding(takeover, error) || !discard_again(takeover, error) ||
        !begin_feeding(takeover, error) || !vmm_load_device_state(takeover->fresh, state, error))
        return FALSE;
    takeover->loaded = TRUE;
    return TRUE;
}

/* What the fresh one has by now; of huge pages those that it has wholly. */
static void find_spare(const OutstandingPages *pages, const GuestRegion *region, guint index,
                       PageSet *set)
{
    uint64_t unit = region->backing_page_bytes / PAGE_BYTES, from = 0, first, count;

    while (outstanding_next_run(pages, index, from, UINT64_MAX, &first, &count)) {
        from = first + count;
        first -= first % unit;
        page_set_remove(set, first, (from - first + unit - 1) / unit * unit);
    }
}

/* A LocalFeederProgress: what the fresh one has is never read again. */
static void give_back(gpointer user)
{
    Takeover *takeover = user;
    g_autoptr(GPtrArray) sets = NULL;
    g_autoptr(GError) problem = NULL;

    if (!takeover->old_memory || !g_atomic_int_get(&takeover->gives_back) ||
        (!takeover->populated && !find_populated(takeover, NULL)))
        return;
    sets = guest_memory_new_sets(takeover->old_memory);
    for (guint i = 0; i < sets->len; i++) {
        page_set_add_all(sets->pdata[i], takeover->populated->pdata[i]);
        find_spare(local_feeder_get_outstanding(takeover->feeder),
                   guest_memory_get_region(takeover->old_memory, i), i, sets->pdata[i]);
    }
    if (!guest_memory_discard_sets(takeover->old_memory, sets, &problem)) {
        log_debug("process %d keeps its memory: %s", (int)takeover->old->pid, problem->message);
        g_atomic_int_set(&takeover->gives_back, FALSE);
        return;
    }
    for (guint i = 0; i < sets->len; i++)
        page_set_remove_all(takeover->populated->pdata[i], sets->pdata[i]);
}

void takeover_give_back(Takeover *takeover)
{
    g_atomic_int_set(&takeover->gives_back, TRUE);
}

GArray *takeover_list_accesses(Takeover *takeover)
{
    return local_feeder_list_accesses(takeover->feeder);
}

gboolean takeover_fill(Takeover *takeover, GError **error)
{
    return local_feeder_fill(takeover->feeder, give_back, takeover, error);
}

/* --- going on ------------------------------------------------------------------------------ */

static gboolean reopen(Takeover *takeover, pid_t fresh, const char *directory, GError **error)
{
    if (!open_old(takeover, directory, error) || !put_above(takeover, takeover->above, error))
        return FALSE;
    takeover->feeder = local_feeder_reopen(fresh, takeover->path, source_of(takeover), error);
    return takeover->feeder && takeover_fill(takeover, error);
}

Takeover *takeover_reopen(pid_t fresh_pid, const char *directory, TakeoverPages above,
                          GError **error)
{
    g_autoptr(Takeover) takeover = g_new0(Takeover, 1);
    gboolean whole;

    takeover->path = name_file(directory, OUTSTANDING_NAME);
    takeover->loaded = TRUE;
    takeover->above = above;
    /* The old one may have been ended then. */
    if (!local_feeder_was_whole(fresh_pid, takeover->path, &whole, error) || whole)
        return NULL;
    return reopen(takeover, fresh_pid, directory, error) ? g_steal_pointer(&takeover) : NULL;
}

LocalFeederState takeover_await(Takeover *takeover, guint timeout_ms, GError **error)
{
    return local_feeder_await(takeover->feeder, timeout_ms, error);
}

uint64_t takeover_count_outstanding(Takeover *takeover)
{
    return local_feeder_count_outstanding(takeover->feeder);
}

void takeover_get_counts(Takeover *takeover, FaultServiceCounts *ret)
{
    local_feeder_get_counts(takeover->feeder, ret);
}

/* What was not loaded is about to be ended: nothing may wait in it. */
void takeover_free(Takeover *takeover)
{
    if (!takeover)
        return;
    if (takeover->feeder)
        (takeover->loaded ? local_feeder_free : local_feeder_discard)(takeover->feeder);
    outstanding_free(takeover->pages);
    userfault_free(takeover->userfault);
    guest_memory_free(takeover->memory);
    page_source_free(takeover->layered);
    g_clear_pointer(&takeover->above.pages, g_ptr_array_unref);
    page_source_free(takeover->bottom);
    g_clear_pointer(&takeover->populated, g_ptr_array_unref);
    guest_memory_free(takeover->old_memory);
    takeover_old_free(takeover->old);
    g_clear_pointer(&takeover->first, g_array_unref);
    g_free(takeover->path);
    g_free(takeover);
}

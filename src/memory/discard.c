#include "memory/discard.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/page.h"
#include "base/thread.h"
#include "inject/inject.h"
#include "memory/pagemap.h"

/* So many runs that a call for them all is worth its memory in the VMM. */
#define MANY_RUNS 8u

typedef struct {
    GuestMemory *memory;
    const OutstandingPages *pages; /* or … */
    const GPtrArray *sets;         /* … a PageSet a region */
    DiscardWay way;
    GArray **runs; /* of struct iovec; one a region */
    Inject *inject;
    uint64_t table; /* of the VMM: for the runs of any region; 0: none */
    uint64_t table_bytes;
    int self; /* of the VMM: a pidfd of itself; -1: none */
    gboolean done;
    GError *error;
} Job;

/* --- calls in the VMM ----------------------------------------------------------- */

/* What the kernel answers, or -errno; FALSE where it could not be asked. */
static gboolean call(Job *job, long number, const uint64_t arguments[6], int64_t *ret)
{
    return inject_call(job->inject, number, arguments, ret, &job->error);
}

/* Memory for the runs, and a pidfd; without one of them it is done one by one. */
static gboolean prepare(Job *job, uint64_t bytes)
{
    int64_t answer;

    if (!call(job, SYS_getpid, (uint64_t[6]){0}, &answer) || /* its own number of itself */
        !call(job, SYS_pidfd_open, (uint64_t[6]){(uint64_t)answer}, &answer))
        return FALSE;
    if (answer < 0)
        return TRUE;
    job->self = (int)answer;
    if (!call(job, SYS_mmap,
              (uint64_t[6]){0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                            (uint64_t)-1},
              &answer))
        return FALSE;
    if (answer < 0 && answer > -4096)
        return TRUE;
    job->table = (uint64_t)answer;
    job->table_bytes = bytes;
    return TRUE;
}

static void clean_up(Job *job)
{
    int64_t answer;

    if (job->table)
        inject_call(job->inject, SYS_munmap, (uint64_t[6]){job->table, job->table_bytes}, &answer,
                    NULL);
    if (job->self >= 0)
        inject_call(job->inject, SYS_close, (uint64_t[6]){(uint64_t)job->self}, &answer, NULL);
}

static gboolean write_table(Job *job, const GArray *runs)
{
    struct iovec local = {runs->data, runs->len * sizeof(struct iovec)};
    struct iovec remote = {(void *)(uintptr_t)job->table, local.iov_len};

    if (process_vm_writev(job->memory->pid, &local, 1, &remote, 1, 0) == (ssize_t)local.iov_len)
        return TRUE;
    error_set_errno(&job->error, errno, "write the runs to discard into pid %d",
                    (int)job->memory->pid);
    return FALSE;
}

static uint64_t total_bytes(const struct iovec *runs, guint count)
{
    uint64_t bytes = 0;

    for (guint i = 0; i < count; i++)
        bytes += runs[i].iov_len;
    return bytes;
}

/* As many as the kernel takes at once, from *from* on; where it took less than all of them, what is
 * left is for madvise(), which also says what is wrong.  *ret_done: how many it took. */
static gboolean discard_many(Job *job, const GArray *runs, guint from, int advice, guint *ret_done)
{
    guint count = MIN(IOV_MAX, runs->len - from);
    int64_t answer;

    *ret_done = 0;
    if (!call(job, SYS_process_madvise,
              (uint64_t[6]){(uint64_t)job->self, job->table + from * sizeof(struct iovec), count,
                            (uint64_t)advice, 0},
              &answer))
        return FALSE;
    if (answer > 0 &&
        (uint64_t)answer == total_bytes(&g_array_index(runs, struct iovec, from), count))
        *ret_done = count;
    return TRUE;
}

static gboolean discard_one(Job *job, const struct iovec *run, int advice)
{
    uint64_t address = (uint64_t)(uintptr_t)run->iov_base;
    int64_t answer;

    if (!call(job, SYS_madvise, (uint64_t[6]){address, run->iov_len, (uint64_t)advice}, &answer))
        return FALSE;
    if (answer == 0)
        return TRUE;
    error_set_errno(&job->error, (int)-answer, "discard %zu bytes at 0x%" PRIx64, run->iov_len,
                    address);
    return FALSE;
}

static gboolean discard_region(Job *job, const GArray *runs, int advice)
{
    gboolean many = job->table && runs->len >= MANY_RUNS;

    if (many && !write_table(job, runs))
        return FALSE;
    for (guint i = 0; i < runs->len;) {
        guint done;

        if (many) {
            if (!discard_many(job, runs, i, advice, &done))
                return FALSE;
            i += done;
            many = done > 0;
        } else if (!discard_one(job, &g_array_index(runs, struct iovec, i++), advice)) {
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean discard_all(Job *job)
{
    for (guint i = 0; i < job->memory->regions->len; i++) {
        const GuestRegion *region = guest_memory_get_region(job->memory, i);

        if (discard_region(job, job->runs[i],
                           region->backing == GUEST_BACKING_SHARED ? MADV_REMOVE : MADV_DONTNEED))
            continue;
        g_prefix_error(&job->error, "RAM block %s: ", region->name);
        return FALSE;
    }
    return TRUE;
}

/* In a thread of its own: see inject.h. */
static gpointer discard_thread(gpointer data)
{
    Job *job = data;
    g_autoptr(Inject) inject = inject_attach(job->memory->pid, &job->error);
    guint most = 0;

    if (!inject)
        return NULL;
    job->inject = inject;
    for (guint i = 0; i < job->memory->regions->len; i++)
        most = MAX(most, job->runs[i]->len);
    job->done = (job->way == DISCARD_ONE_BY_ONE || most < MANY_RUNS ||
                 prepare(job, most * sizeof(struct iovec))) &&
                discard_all(job);
    clean_up(job);
    return NULL;
}

/* --- runs ------------------------------------------------------------------------ */

static gboolean next_run(const Job *job, guint index, uint64_t from, uint64_t *ret_first,
                         uint64_t *ret_count)
{
    if (job->sets)
        return page_set_next_run(job->sets->pdata[index], from, UINT64_MAX, ret_first, ret_count);
    return outstanding_next_run(job->pages, index, from, UINT64_MAX, ret_first, ret_count);
}

static GArray *runs_of(const Job *job, guint index)
{
    const GuestRegion *region = guest_memory_get_region(job->memory, index);
    GArray *runs = g_array_new(FALSE, FALSE, sizeof(struct iovec));
    uint64_t first, count;

    for (uint64_t at = 0; next_run(job, index, at, &first, &count); at = first + count) {
        struct iovec run = {(void *)(uintptr_t)(region->host_address + first * PAGE_BYTES),
                            count * PAGE_BYTES};

        g_array_append_val(runs, run);
    }
    return runs;
}

static gboolean check_regions(const GuestMemory *memory, const OutstandingPages *pages,
                              GError **error)
{
    const GPtrArray *known = outstanding_get_regions(pages);
    gboolean same = known->len == memory->regions->len;

    for (guint i = 0; same && i < known->len; i++) {
        const RamRegion *ram = g_ptr_array_index(known, i);
        const GuestRegion *region = guest_memory_get_region(memory, i);

        same =
            ram->host_address == region->host_address && ram->bytes == region->pages * PAGE_BYTES;
    }
    if (!same)
        error_set(error, VMFERRY_ERROR_INVALID,
                  "outstanding pages of other RAM blocks than pid %d has", (int)memory->pid);
    return same;
}

static gboolean run_job(Job *job, GError **error)
{
    if (!guest_memory_check_process(job->memory, error) ||
        !thread_run("inject", discard_thread, job, error))
        return FALSE;
    if (job->done)
        return TRUE;
    g_propagate_error(error, job->error);
    return FALSE;
}

static gboolean discard(Job *job, GError **error)
{
    guint count = job->memory->regions->len;
    gboolean ok;

    job->self = -1;
    job->runs = g_new(GArray *, count);
    for (guint i = 0; i < count; i++)
        job->runs[i] = runs_of(job, i);
    ok = run_job(job, error);
    for (guint i = 0; i < count; i++)
        g_array_unref(job->runs[i]);
    g_free(job->runs);
    return ok;
}

gboolean guest_memory_discard_by(DiscardWay way, GuestMemory *memory, const OutstandingPages *pages,
                                 GError **error)
{
    Job job = {.memory = memory, .pages = pages, .way = way};

    if (check_regions(memory, pages, error) &&
        (outstanding_count(pages) == 0 || discard(&job, error)))
        return TRUE;
    g_prefix_error(error, "discard outstanding pages: ");
    return FALSE;
}

gboolean guest_memory_discard_sets(GuestMemory *memory, const GPtrArray *sets, GError **error)
{
    Job job = {.memory = memory, .sets = sets, .way = DISCARD_BEST};

    return discard(&job, error);
}

gboolean guest_memory_discard(GuestMemory *memory, const OutstandingPages *pages, GError **error)
{
    return guest_memory_discard_by(DISCARD_BEST, memory, pages, error);
}

/* --- what is there again ---------------------------------------------------------- */

/* Huge pages of a file are there where they are mapped: nobody else maps them. */
static gboolean find_present(GuestMemory *memory, guint index, PageSet *set, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(memory, index);

    if (region->backing == GUEST_BACKING_SHARED && region->backing_page_bytes == PAGE_BYTES)
        return guest_memory_add_populated(memory, index, set, error);
    return pagemap_add_present(memory->pagemap, region->host_address, set, error);
}

static gboolean check_region_missing(GuestMemory *memory, const OutstandingPages *pages,
                                     guint index, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(memory, index);
    g_autoptr(PageSet) present = NULL;
    uint64_t from = 0, first, count, found, found_count;

    if (!outstanding_next_run(pages, index, 0, 1, &first, &count))
        return TRUE;
    present = page_set_new(region->pages);
    if (!find_present(memory, index, present, error))
        return FALSE;
    for (; page_set_next_run(present, from, UINT64_MAX, &first, &count); from = first + count) {
        if (!outstanding_next_run(pages, index, first, 1, &found, &found_count) ||
            found >= first + count)
            continue;
        error_set(error, VMFERRY_ERROR_FAILED,
                  "RAM block %s: page %" PRIu64 " was discarded and is there all the same",
                  region->name, found);
        return FALSE;
    }
    return TRUE;
}

gboolean guest_memory_check_missing(GuestMemory *memory, const OutstandingPages *pages,
                                    GError **error)
{
    if (!check_regions(memory, pages, error))
        return FALSE;
    for (guint i = 0; i < memory->regions->len; i++)
        if (!check_region_missing(memory, pages, i, error))
            return FALSE;
    return TRUE;
}

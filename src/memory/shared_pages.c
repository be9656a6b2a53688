#include "memory/shared_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "base/thread.h"
#include "inject/inject.h"
#include "memory/maps.h"
#include "memory/userfault.h"

struct SharedPages {
    int file, read_only; /* the second is what guests get: they can neither write nor cut it */
    guint count;
    uint64_t *pages, *offsets; /* of each region; offsets in bytes */
    uint64_t bytes;
    uint8_t *mapping;
    Userfault *userfault;
    GMutex lock;     /* protects all below */
    GPtrArray *have; /* a PageSet a region */
    uint64_t have_count;
};

/* ---- the file ---- */

static gboolean make_file(SharedPages *shared, GError **error)
{
    g_autofree char *path = NULL;

    shared->file = memfd_create(SHARED_PAGES_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (shared->file < 0 || ftruncate(shared->file, (off_t)shared->bytes) < 0 ||
        fcntl(shared->file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
        error_set_errno(error, errno, "memory that guests share");
        return FALSE;
    }
    path = g_strdup_printf("/proc/self/fd/%d", shared->file);
    shared->read_only = open(path, O_RDONLY | O_CLOEXEC);
    /* Nobody but root opens it again by what a guest's process has. */
    if (shared->read_only < 0 || fchmod(shared->file, 0) < 0) {
        error_set_errno(error, errno, "open %s", path);
        return FALSE;
    }
    return TRUE;
}

/* Nobody here touches it, so user mode is not asked for, and not needed. */
static gboolean open_userfault(SharedPages *shared, GError **error)
{
    struct uffdio_api api = {.api = UFFD_API, .features = userfault_features(USERFAULT_MISSING)};
    autofd int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
        error_set_errno(error, errno, "userfaultfd");
        return FALSE;
    }
    shared->userfault = userfault_take(fd_steal(&fd), USERFAULT_MISSING);
    return TRUE;
}

static gboolean map_file(SharedPages *shared, GError **error)
{
    void *mapping = mmap(NULL, shared->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, shared->file, 0);

    if (mapping == MAP_FAILED) {
        error_set_errno(error, errno, "map memory that guests share");
        return FALSE;
    }
    shared->mapping = mapping;
    (void)madvise(mapping, shared->bytes, MADV_DONTDUMP);
    (void)madvise(mapping, shared->bytes, MADV_DONTFORK);
    return userfault_register(shared->userfault, (uint64_t)(uintptr_t)mapping, shared->bytes,
                              USERFAULT_MODE_MISSING, error);
}

static SharedPages *shared_pages_make(guint count)
{
    SharedPages *shared = g_new0(SharedPages, 1);

    shared->file = shared->read_only = -1;
    g_mutex_init(&shared->lock);
    shared->count = count;
    shared->pages = g_new0(uint64_t, count + 1);
    shared->offsets = g_new0(uint64_t, count + 1);
    shared->have = g_ptr_array_new_with_free_func((GDestroyNotify)page_set_free);
    return shared;
}

static void add_region(SharedPages *shared, guint region, uint64_t pages, uint64_t offset)
{
    shared->pages[region] = pages;
    shared->offsets[region] = offset;
    g_ptr_array_add(shared->have, page_set_new(pages));
}

SharedPages *shared_pages_new(const uint64_t *pages, guint count, GError **error)
{
    g_autoptr(SharedPages) shared = shared_pages_make(count);

    for (guint i = 0; i < count; i++) {
        add_region(shared, i, pages[i], shared->bytes);
        shared->bytes += pages[i] * PAGE_BYTES;
    }
    if (!make_file(shared, error) || !open_userfault(shared, error) || !map_file(shared, error))
        return NULL;
    return g_steal_pointer(&shared);
}

/* ---- a file that a guest has mapped ---- */

static gboolean open_mapped(SharedPages *shared, const GuestMemory *memory, const Mapping *mapping,
                            GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/map_files/%" PRIx64 "-%" PRIx64,
                                            (int)memory->pid, mapping->start, mapping->end);
    struct stat info;

    if (shared->file >= 0)
        return TRUE;
    shared->file = open(path, O_RDWR | O_CLOEXEC);
    if (shared->file < 0 || fstat(shared->file, &info) < 0) {
        error_set_errno(error, errno, "the memory that guests share (%s)", path);
        return FALSE;
    }
    shared->bytes = (uint64_t)info.st_size;
    return TRUE;
}

/* Who touches such memory only after that faults on what the file lacks, so all of its pages have content. */
static gboolean find_pages(SharedPages *shared, guint region, GError **error)
{
    off_t base = (off_t)shared->offsets[region];
    off_t end = base + (off_t)(shared->pages[region] * PAGE_BYTES);

    for (off_t at = base; at < end;) {
        off_t data = lseek(shared->file, at, SEEK_DATA);
        off_t hole = data >= 0 ? lseek(shared->file, data, SEEK_HOLE) : -1;

        if (data < 0 && errno == ENXIO)
            return TRUE;
        if (data < 0 || hole < 0) {
            error_set_errno(error, errno, "look for pages that guests share");
            return FALSE;
        }
        data = MIN(data, end);
        at = MIN(hole, end);
        page_set_add(shared->have->pdata[region], (uint64_t)(data - base) / PAGE_BYTES,
                     (uint64_t)(at - data) / PAGE_BYTES);
    }
    return TRUE;
}

static gboolean take_region(SharedPages *shared, GuestMemory *memory, const GPtrArray *maps,
                            guint index, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(memory, index);
    const Mapping *mapping = maps_find(maps, region->host_address);

    if (region->backing != GUEST_BACKING_COPY_ON_WRITE) {
        add_region(shared, index, 0, 0);
        return TRUE;
    }
    if (!mapping) {
        error_set(error, VMFERRY_ERROR_FAILED, "RAM block %s is not mapped", region->name);
        return FALSE;
    }
    add_region(shared, index, region->pages,
               mapping->offset + region->host_address - mapping->start);
    if (!open_mapped(shared, memory, mapping, error) || !find_pages(shared, index, error))
        return FALSE;
    shared->have_count += page_set_count(shared->have->pdata[index]);
    return TRUE;
}

SharedPages *shared_pages_of(GuestMemory *memory, GError **error)
{
    g_autoptr(SharedPages) shared = shared_pages_make(memory->regions->len);
    g_autoptr(GPtrArray) maps = maps_read(memory->pid, error);

    if (!maps)
        return NULL;
    for (guint i = 0; i < memory->regions->len; i++)
        if (!take_region(shared, memory, maps, i, error))
            return NULL;
    if (!open_userfault(shared, error) || !map_file(shared, error))
        return NULL;
    return g_steal_pointer(&shared);
}

void shared_pages_free(SharedPages *shared)
{
    if (!shared)
        return;
    userfault_free(shared->userfault);
    if (shared->mapping)
        munmap(shared->mapping, shared->bytes);
    fd_close(&shared->read_only);
    fd_close(&shared->file);
    g_ptr_array_unref(shared->have);
    g_mutex_clear(&shared->lock);
    g_free(shared->offsets);
    g_free(shared->pages);
    g_free(shared);
}

/* ---- over a guest's RAM ---- */

typedef struct {
    const SharedPages *shared; /* NULL: open up */
    GuestMemory *memory;
    const GPtrArray *maps;
    gboolean done;
    GError *error;
} Job;

static gboolean can_share(const SharedPages *shared, const GuestMemory *memory, guint index)
{
    const GuestRegion *region = guest_memory_get_region(memory, index);

    return index < shared->count && region->pages == shared->pages[index] && region->pages > 0 &&
           region->backing == GUEST_BACKING_PRIVATE && region->backing_page_bytes == PAGE_BYTES;
}

static gboolean call(Inject *inject, const char *what, long number, const uint64_t arguments[6],
                     GError **error)
{
    int64_t answer;

    if (!inject_call(inject, number, arguments, &answer, error))
        return FALSE;
    if (answer >= 0 || answer <= -4096)
        return TRUE;
    error_set_errno(error, (int)-answer, "%s in process %d", what, (int)inject_get_pid(inject));
    return FALSE;
}

static gboolean advise(Inject *inject, const GuestRegion *region, int advice, GError **error)
{
    return call(inject, "madvise", SYS_madvise,
                (uint64_t[6]){region->host_address, region->pages * PAGE_BYTES, (uint64_t)advice},
                error);
}

/* What the VMM had asked for its RAM holds for the new mapping. */
static gboolean map_region(Job *job, Inject *inject, int fd, guint index)
{
    const GuestRegion *region = guest_memory_get_region(job->memory, index);
    const Mapping *before = maps_find(job->maps, region->host_address);
    const uint64_t arguments[6] = {region->host_address,
                                   region->pages * PAGE_BYTES,
                                   PROT_NONE,
                                   MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
                                   (uint64_t)fd,
                                   job->shared->offsets[index]};

    return call(inject, "mmap", SYS_mmap, arguments, &job->error) &&
           (!before || !before->dont_fork || advise(inject, region, MADV_DONTFORK, &job->error)) &&
           (!before || !before->dont_dump || advise(inject, region, MADV_DONTDUMP, &job->error));
}

static gboolean map_regions(Job *job, Inject *inject)
{
    int fd = inject_give_fd(inject, job->shared->read_only, &job->error);
    gboolean ok = fd >= 0;
    int64_t closed;

    for (guint i = 0; ok && i < job->memory->regions->len; i++)
        ok = !can_share(job->shared, job->memory, i) || map_region(job, inject, fd, i);
    if (fd >= 0)
        inject_call(inject, SYS_close, (uint64_t[6]){(uint64_t)fd}, &closed, NULL);
    return ok;
}

static gboolean open_regions(Job *job, Inject *inject)
{
    for (guint i = 0; i < job->memory->regions->len; i++) {
        const GuestRegion *region = guest_memory_get_region(job->memory, i);
        const uint64_t arguments[6] = {region->host_address, region->pages * PAGE_BYTES,
                                       PROT_READ | PROT_WRITE};

        if (region->backing == GUEST_BACKING_COPY_ON_WRITE &&
            !call(inject, "mprotect", SYS_mprotect, arguments, &job->error))
            return FALSE;
    }
    return TRUE;
}

/* In a thread of its own: see inject.h. */
static gpointer inject_thread(gpointer data)
{
    Job *job = data;
    g_autoptr(Inject) inject = inject_attach(job->memory->pid, &job->error);

    job->done = inject && (job->shared ? map_regions(job, inject) : open_regions(job, inject));
    return NULL;
}

static gboolean run_job(Job *job, GError **error)
{
    if (!guest_memory_check_process(job->memory, error) ||
        !thread_run("inject", inject_thread, job, error))
        return FALSE;
    if (!job->done)
        g_propagate_prefixed_error(error, job->error, "share guest RAM: ");
    return job->done;
}

/* A machine's small regions could nearly always be. */
static gboolean check_worth(const SharedPages *shared, const GuestMemory *memory, GError **error)
{
    uint64_t all = 0, sharing = 0;

    for (guint i = 0; i < memory->regions->len; i++) {
        uint64_t pages = guest_memory_get_region(memory, i)->pages;

        all += pages;
        sharing += can_share(shared, memory, i) ? pages : 0;
    }
    if (sharing * 2 > all)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "its RAM cannot be shared: that takes private memory of 4 KiB pages");
    return FALSE;
}

gboolean shared_pages_map(SharedPages *shared, GuestMemory *memory, GError **error)
{
    g_autoptr(GPtrArray) maps = maps_read(memory->pid, error);
    Job job = {.shared = shared, .memory = memory, .maps = maps};

    if (!maps || !check_worth(shared, memory, error) || !run_job(&job, error))
        return FALSE;
    for (guint i = 0; i < memory->regions->len; i++)
        if (can_share(shared, memory, i))
            guest_memory_get_region(memory, i)->backing = GUEST_BACKING_COPY_ON_WRITE;
    return TRUE;
}

gboolean shared_pages_open_up(GuestMemory *memory, GError **error)
{
    Job job = {.memory = memory};

    return run_job(&job, error);
}

/* ---- its pages ---- */

static void note(SharedPages *shared, guint region, PageSpan span)
{
    lock_guard(&shared->lock);

    for (uint64_t page = span.first; page < span.first + span.count; page++) {
        if (page_set_has(shared->have->pdata[region], page))
            continue;
        page_set_add(shared->have->pdata[region], page, 1);
        shared->have_count++;
    }
}

/* Our own page tables need not keep what the file has. */
static void unmap_again(SharedPages *shared, uint64_t offset, uint64_t bytes)
{
    (void)madvise(shared->mapping + offset, bytes, MADV_DONTNEED);
}

/* Another one has put it in, or it is not what this image has.  Touching it is no missing fault. */
static gboolean check_same(uint64_t at, const uint8_t *page, GError **error)
{
    if (memcmp((const void *)(uintptr_t)at, page, PAGE_BYTES) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED,
              "a page that guests share has other content than the image");
    return FALSE;
}

static gboolean put_one(SharedPages *shared, uint64_t at, const uint8_t *page, GError **error)
{
    g_autoptr(GError) problem = NULL;

    do
        g_clear_error(&problem);
    while (!userfault_copy(shared->userfault, at, page, PAGE_BYTES, FALSE, &problem) &&
           error_is(problem, VMFERRY_ERROR_BUSY));
    if (error_is(problem, VMFERRY_ERROR_EXISTS))
        return check_same(at, page, error);
    if (!problem)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

/* All at once, or where another thread was faster with one of them, each for itself. */
static gboolean put_run(SharedPages *shared, uint64_t offset, PageSpan span, const uint8_t *content,
                        GError **error)
{
    uint64_t at = (uint64_t)(uintptr_t)shared->mapping + offset;
    struct uffdio_copy all = {at, (uint64_t)(uintptr_t)content, span.count * PAGE_BYTES,
                              UFFDIO_COPY_MODE_DONTWAKE, 0};

    if (ioctl(userfault_get_fd(shared->userfault), UFFDIO_COPY, &all) == 0)
        return TRUE;
    for (uint64_t i = 0; i < span.count; i++) {
        g_autoptr(GError) problem = NULL;

        if (put_one(shared, at + i * PAGE_BYTES, content + i * PAGE_BYTES, &problem))
            continue;
        g_propagate_prefixed_error(error, g_steal_pointer(&problem), "memory that guests share: ");
        return FALSE;
    }
    return TRUE;
}

gboolean shared_pages_put(SharedPages *shared, guint region, PageSpan span, const uint8_t *content,
                          GError **error)
{
    uint64_t end = span.first + span.count, from = span.first;
    PageSpan run;

    while (shared_pages_next_run(shared, region, from, end, FALSE, &run)) {
        uint64_t offset = shared->offsets[region] + run.first * PAGE_BYTES;

        if (!put_run(shared, offset, run, content + (run.first - span.first) * PAGE_BYTES, error))
            return FALSE;
        note(shared, region, run);
        unmap_again(shared, offset, run.count * PAGE_BYTES);
        from = run.first + run.count;
    }
    return TRUE;
}

gboolean shared_pages_has(SharedPages *shared, guint region, uint64_t page)
{
    lock_guard(&shared->lock);

    return page_set_has(shared->have->pdata[region], page);
}

gboolean shared_pages_next_run(SharedPages *shared, guint region, uint64_t from, uint64_t end,
                               gboolean has, PageSpan *ret)
{
    lock_guard(&shared->lock);
    const PageSet *have = shared->have->pdata[region];
    uint64_t at = from;

    while (at < end && page_set_has(have, at) != has)
        at++;
    ret->first = at;
    while (at < end && page_set_has(have, at) == has)
        at++;
    ret->count = at - ret->first;
    return ret->count > 0;
}

uint64_t shared_pages_count(SharedPages *shared)
{
    lock_guard(&shared->lock);

    return shared->have_count;
}

#include "transfer/stored_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "memory/outstanding.h"

#define PAGES_NAME "pages"
#define COVERED_NAME "covered"

struct StoredPages {
    int fd;
    OutstandingPages *covered;
    PageRegions regions;
    uint64_t *offsets; /* of each region in the file */
    uint64_t bytes;    /* of the file */
    uint64_t most;     /* pages that may be covered */
};

/* ---- making and opening ---- */

static void take_regions(StoredPages *pages)
{
    const GPtrArray *regions = outstanding_get_regions(pages->covered);

    pages->regions.count = regions->len;
    pages->regions.pages = g_new0(uint64_t, regions->len);
    pages->regions.names = g_new0(char *, regions->len + 1);
    pages->offsets = g_new0(uint64_t, regions->len);
    for (guint i = 0; i < regions->len; i++) {
        const RamRegion *region = g_ptr_array_index(regions, i);

        pages->regions.pages[i] = region->bytes / PAGE_BYTES;
        pages->regions.names[i] = g_strdup(region->name);
        pages->offsets[i] = region->host_address;
        pages->bytes = MAX(pages->bytes, region->host_address + region->bytes);
    }
}

static StoredPages *take(int fd, OutstandingPages *covered)
{
    StoredPages *pages = g_new0(StoredPages, 1);

    pages->fd = fd;
    pages->covered = covered;
    pages->most = UINT64_MAX;
    take_regions(pages);
    return pages;
}

void stored_pages_free(StoredPages *pages)
{
    if (!pages)
        return;
    fd_close(&pages->fd);
    outstanding_free(pages->covered);
    g_free(pages->regions.pages);
    g_strfreev(pages->regions.names);
    g_free(pages->offsets);
    g_free(pages);
}

static GPtrArray *place_regions(guint count, char *const *names, const uint64_t *bytes)
{
    GPtrArray *regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    uint64_t at = 0;

    for (guint i = 0; i < count; i++) {
        g_ptr_array_add(regions, ram_region_new(names[i], at, bytes[i]));
        at += bytes[i];
    }
    return regions;
}

static int open_file(const char *folder, int flags, GError **error)
{
    g_autofree char *path = g_build_filename(folder, PAGES_NAME, NULL);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);

    if (fd < 0)
        error_set_errno(error, errno, "open %s", path);
    return fd;
}

StoredPages *stored_pages_create(const char *folder, const char *transaction, guint count,
                                 char *const *names, const uint64_t *bytes, GError **error)
{
    g_autoptr(GPtrArray) regions = place_regions(count, names, bytes);
    g_autofree char *path = g_build_filename(folder, COVERED_NAME, NULL);
    autofd int fd = open_file(folder, O_CREAT | O_EXCL, error);
    OutstandingPages *covered =
        fd < 0 ? NULL : outstanding_create_for(path, transaction, regions, error);
    g_autoptr(StoredPages) pages = covered ? take(fd_steal(&fd), covered) : NULL;

    if (!pages)
        return NULL;
    if (ftruncate(pages->fd, (off_t)pages->bytes) == 0)
        return g_steal_pointer(&pages);
    error_set_errno(error, errno, "a file of %" PRIu64 " bytes in %s", pages->bytes, folder);
    return NULL;
}

StoredPages *stored_pages_open(const char *folder, GError **error)
{
    g_autofree char *path = g_build_filename(folder, COVERED_NAME, NULL);
    autofd int fd = open_file(folder, O_NONBLOCK, error);
    OutstandingPages *covered = fd < 0 ? NULL : outstanding_open(path, error);
    g_autoptr(StoredPages) pages = covered ? take(fd_steal(&fd), covered) : NULL;
    struct stat file;

    if (!pages)
        return NULL;
    if (fstat(pages->fd, &file) == 0 && S_ISREG(file.st_mode) &&
        (uint64_t)file.st_size == pages->bytes)
        return g_steal_pointer(&pages);
    error_set(error, VMFERRY_ERROR_INVALID, "%s/" PAGES_NAME " is not of %" PRIu64 " bytes", folder,
              pages->bytes);
    return NULL;
}

void stored_pages_set_limit(StoredPages *pages, uint64_t most)
{
    pages->most = most;
}

const PageRegions *stored_pages_get_regions(const StoredPages *pages)
{
    return &pages->regions;
}

/* ---- what is there ---- */

void stored_pages_drop(StoredPages *pages, guint region, PageSpan span)
{
    outstanding_remove(pages->covered, region, span);
}

uint64_t stored_pages_count(const StoredPages *pages)
{
    return outstanding_count(pages->covered);
}

static void add_covered(const StoredPages *pages, guint region, PageSet *set)
{
    uint64_t from = 0, first, count;

    while (outstanding_next_run(pages->covered, region, from, UINT64_MAX, &first, &count)) {
        page_set_add(set, first, count);
        from = first + count;
    }
}

GPtrArray *stored_pages_list(const StoredPages *pages)
{
    GPtrArray *sets = page_regions_new_sets(&pages->regions);

    for (guint i = 0; i < sets->len; i++)
        add_covered(pages, i, sets->pdata[i]);
    return sets;
}

static off_t offset_of(const StoredPages *pages, guint region, uint64_t page)
{
    return (off_t)(pages->offsets[region] + page * PAGE_BYTES);
}

static gboolean is_inside(const StoredPages *pages, guint region, PageSpan span, GError **error)
{
    if (region < pages->regions.count && span.first <= pages->regions.pages[region] &&
        span.count <= pages->regions.pages[region] - span.first)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "stored pages: %" PRIu64 " from %" PRIu64 " on are not in RAM block %u", span.count,
              span.first, region);
    return FALSE;
}

/* ---- the sink ---- */

/* By some pages too many, where several threads cover pages at once. */
static gboolean cover(StoredPages *pages, guint region, PageSpan span, GError **error)
{
    if (!outstanding_add(pages->covered, region, span, error))
        return FALSE;
    if (outstanding_count(pages->covered) <= pages->most)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE,
              "more than the %" PRIu64 " pages come that room was promised for", pages->most);
    return FALSE;
}

typedef struct {
    PageSink head;
    StoredPages *pages;
} StoredSink;

static gboolean write_all(int fd, const uint8_t *buffer, size_t length, off_t at, GError **error)
{
    while (length > 0) {
        ssize_t done = pwrite(fd, buffer, length, at);

        if (done <= 0 && !(done < 0 && errno == EINTR)) {
            error_set_errno(error, done < 0 ? errno : EIO, "keep pages");
            return FALSE;
        }
        done = MAX(done, 0);
        buffer += done;
        length -= (size_t)done;
        at += done;
    }
    return TRUE;
}

static gboolean sink_write(PageSink *head, guint region, const PageSpan *spans, guint count,
                           const uint8_t *buffer, GError **error)
{
    StoredPages *pages = ((StoredSink *)head)->pages;

    for (guint i = 0; i < count; i++) {
        size_t bytes = (size_t)spans[i].count * PAGE_BYTES;

        if (!is_inside(pages, region, spans[i], error) ||
            !write_all(pages->fd, buffer, bytes, offset_of(pages, region, spans[i].first), error) ||
            !cover(pages, region, spans[i], error))
            return FALSE;
        buffer += bytes;
    }
    return TRUE;
}

/* A hole, also where an older version had content. */
static gboolean sink_zero(PageSink *head, guint region, PageSpan run, GError **error)
{
    StoredPages *pages = ((StoredSink *)head)->pages;

    if (!is_inside(pages, region, run, error))
        return FALSE;
    if (run.count > 0 &&
        fallocate(pages->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  offset_of(pages, region, run.first), (off_t)(run.count * PAGE_BYTES)) < 0) {
        error_set_errno(error, errno, "keep zero pages");
        return FALSE;
    }
    return cover(pages, region, run, error);
}

static gboolean refuse(GError **error)
{
    error_set(error, VMFERRY_ERROR_INVALID, "a store takes whole pages only");
    return FALSE;
}

static gboolean sink_patch(PageSink *head, guint region, const PagePatch *patches, guint count,
                           GError **error)
{
    return refuse(error);
}

static gboolean sink_copy(PageSink *head, guint region, const CopyRun *runs, guint count,
                          GError **error)
{
    return refuse(error);
}

static gboolean sink_seal(PageSink *head, uint32_t epoch, GError **error)
{
    return refuse(error);
}

static void sink_free(PageSink *head)
{
    g_free(head);
}

PageSink *stored_pages_new_sink(StoredPages *pages)
{
    static const PageSinkMethods methods = {
        .write = sink_write,
        .zero = sink_zero,
        .patch = sink_patch,
        .copy = sink_copy,
        .seal = sink_seal,
        .free = sink_free,
    };
    StoredSink *sink = g_new0(StoredSink, 1);

    sink->head = (PageSink){&methods, &pages->regions};
    sink->pages = pages;
    return &sink->head;
}

/* ---- the source ---- */

typedef struct {
    PageSource head;
    StoredPages *pages;
} StoredSource;

static gboolean is_covered(const StoredPages *pages, guint region, PageSpan span, GError **error)
{
    uint64_t first, count;

    if (!is_inside(pages, region, span, error))
        return FALSE;
    if (span.count == 0 ||
        (outstanding_next_run(pages->covered, region, span.first, span.count, &first, &count) &&
         first == span.first && count == span.count))
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "page %" PRIu64 " of %s is not stored", span.first,
              pages->regions.names[region]);
    return FALSE;
}

static gboolean read_all(int fd, uint8_t *buffer, size_t length, off_t at, GError **error)
{
    while (length > 0) {
        ssize_t done = pread(fd, buffer, length, at);

        if (done <= 0 && !(done < 0 && errno == EINTR)) {
            error_set_errno(error, done < 0 ? errno : EIO, "read stored pages");
            return FALSE;
        }
        done = MAX(done, 0);
        buffer += done;
        length -= (size_t)done;
        at += done;
    }
    return TRUE;
}

static gboolean source_read(PageSource *head, guint region, const PageSpan *spans, guint count,
                            uint8_t *buffer, GError **error)
{
    StoredPages *pages = ((StoredSource *)head)->pages;

    for (guint i = 0; i < count; i++) {
        size_t bytes = (size_t)spans[i].count * PAGE_BYTES;

        if (!is_covered(pages, region, spans[i], error) ||
            !read_all(pages->fd, buffer, bytes, offset_of(pages, region, spans[i].first), error))
            return FALSE;
        buffer += bytes;
    }
    return TRUE;
}

static gboolean source_add_populated(PageSource *head, guint region, PageSet *set, GError **error)
{
    add_covered(((StoredSource *)head)->pages, region, set);
    return TRUE;
}

static void source_free(PageSource *head)
{
    g_free(head);
}

PageSource *stored_pages_new_source(StoredPages *pages)
{
    static const PageSourceMethods methods = {source_read, source_add_populated, source_free};
    StoredSource *source = g_new0(StoredSource, 1);

    source->head = (PageSource){&methods, &pages->regions};
    source->pages = pages;
    return &source->head;
}

#include "memory/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"

/* Linux 6.7, include/uapi/linux/fs.h */
struct scan_run {
    uint64_t start, end, categories;
};

struct scan_argument {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_IOCTL _IOWR('f', 16, struct scan_argument)
#define SCAN_WRITTEN (1u << 1)
#define SCAN_PRESENT (1u << 3)
#define SCAN_SWAPPED (1u << 4)
#define SCAN_ZERO_PAGE (1u << 5)
#define SCAN_FLAG_WP_MATCHING (1u << 0)
#define SCAN_FLAG_CHECK_WPASYNC (1u << 1)
#define SCAN_RUNS 4096u

/* The file's entries */
#define ENTRY_UFFD_WP (1ULL << 57)
#define ENTRY_SWAPPED (1ULL << 62)
#define ENTRY_PRESENT (1ULL << 63)
#define ENTRIES_CHUNK 32768u

struct Pagemap {
    int fd;
    gboolean can_scan;
    struct scan_run *runs; /* SCAN_RUNS */
    uint64_t *entries;     /* ENTRIES_CHUNK */
};

static gboolean try_scan(int fd)
{
    struct scan_argument argument = {.size = sizeof argument};

    /* An empty range: succeeds on a kernel that has the call. */
    argument.category_mask = argument.return_mask = SCAN_PRESENT;
    return ioctl(fd, SCAN_IOCTL, &argument) >= 0;
}

Pagemap *pagemap_open(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/pagemap", (int)pid);
    g_autoptr(Pagemap) pagemap = g_new0(Pagemap, 1);

    pagemap->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (pagemap->fd < 0) {
        error_set_errno(error, errno, "open %s", path);
        return NULL;
    }
    pagemap->can_scan = try_scan(pagemap->fd);
    pagemap->runs = g_new(struct scan_run, SCAN_RUNS);
    pagemap->entries = g_new(uint64_t, ENTRIES_CHUNK);
    return g_steal_pointer(&pagemap);
}

void pagemap_free(Pagemap *pagemap)
{
    if (!pagemap)
        return;
    fd_close(&pagemap->fd);
    g_free(pagemap->runs);
    g_free(pagemap->entries);
    g_free(pagemap);
}

gboolean pagemap_can_scan(Pagemap *pagemap)
{
    return pagemap->can_scan;
}

/* Runs a scan over the whole span, however many calls it takes. */
static gboolean scan(Pagemap *pagemap, struct scan_argument *argument, uint64_t address,
                     PageSpan span, PageSet *set, GError **error)
{
    uint64_t end = address + (span.first + span.count) * PAGE_BYTES;

    argument->size = sizeof *argument;
    argument->end = end;
    /* Never without a vector: the kernel then protects all, whatever the
     * categories say. */
    argument->vec = (uint64_t)(uintptr_t)pagemap->runs;
    argument->vec_len = SCAN_RUNS;
    for (uint64_t at = address + span.first * PAGE_BYTES; at < end; at = argument->walk_end) {
        int count;

        argument->start = at;
        count = ioctl(pagemap->fd, SCAN_IOCTL, argument);
        if (count < 0 && errno == EINTR && argument->walk_end > at)
            continue;
        if (count < 0) {
            struct utsname name;

            uname(&name);
            error_set_errno(error, errno, "PAGEMAP_SCAN on kernel %s (needs 6.7)", name.release);
            return FALSE;
        }
        for (int i = 0; i < count; i++)
            page_set_add(set, (pagemap->runs[i].start - address) / PAGE_BYTES,
                         (pagemap->runs[i].end - pagemap->runs[i].start) / PAGE_BYTES);
        if (argument->walk_end <= at) {
            error_set(error, VMFERRY_ERROR_FAILED, "PAGEMAP_SCAN makes no progress");
            return FALSE;
        }
    }
    return TRUE;
}

/* Reads the file and adds the pages for which (entry & any) and not
 * (entry & none); any 0: no such condition. */
static gboolean read_entries(Pagemap *pagemap, uint64_t address, PageSpan span, uint64_t any,
                             uint64_t none, PageSet *set, GError **error)
{
    uint64_t end = span.first + span.count;

    for (uint64_t page = span.first; page < end;) {
        uint64_t want = MIN(ENTRIES_CHUNK, end - page);
        ssize_t got = pread(pagemap->fd, pagemap->entries, want * 8,
                            (off_t)((address / PAGE_BYTES + page) * 8));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 8) {
            error_set_errno(error, got < 0 ? errno : EIO, "read pagemap");
            return FALSE;
        }
        for (uint64_t i = 0; i < (uint64_t)got / 8; i++) {
            uint64_t entry = pagemap->entries[i];

            if ((!any || (entry & any)) && !(entry & none))
                page_set_add(set, page + i, 1);
        }
        page += (uint64_t)got / 8;
    }
    return TRUE;
}

gboolean pagemap_add_populated(Pagemap *pagemap, uint64_t address, PageSet *set, GError **error)
{
    struct scan_argument argument = {
        .category_mask = SCAN_ZERO_PAGE,
        .category_inverted = SCAN_ZERO_PAGE,
        .category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
        .return_mask = SCAN_PRESENT,
    };
    PageSpan all = {0, set->pages};

    if (!pagemap->can_scan)
        return read_entries(pagemap, address, all, ENTRY_PRESENT | ENTRY_SWAPPED, 0, set, error);
    return scan(pagemap, &argument, address, all, set, error);
}

gboolean pagemap_add_present(Pagemap *pagemap, uint64_t address, PageSet *set, GError **error)
{
    struct scan_argument argument = {
        .category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
        .return_mask = SCAN_PRESENT,
    };
    PageSpan all = {0, set->pages};

    if (!pagemap->can_scan)
        return read_entries(pagemap, address, all, ENTRY_PRESENT | ENTRY_SWAPPED, 0, set, error);
    return scan(pagemap, &argument, address, all, set, error);
}

static gboolean scan_written(Pagemap *pagemap, uint64_t address, PageSpan span,
                             gboolean only_populated, uint64_t flags, PageSet *written,
                             GError **error)
{
    struct scan_argument argument = {
        .flags = flags,
        .category_mask = SCAN_WRITTEN,
        .category_anyof_mask = only_populated ? SCAN_PRESENT | SCAN_SWAPPED : 0,
        .return_mask = SCAN_WRITTEN,
    };

    return scan(pagemap, &argument, address, span, written, error);
}

gboolean pagemap_take_written(Pagemap *pagemap, uint64_t address, PageSpan span,
                              gboolean only_populated, PageSet *written, GError **error)
{
    return scan_written(pagemap, address, span, only_populated,
                        SCAN_FLAG_WP_MATCHING | SCAN_FLAG_CHECK_WPASYNC, written, error);
}

gboolean pagemap_add_written(Pagemap *pagemap, uint64_t address, PageSpan span,
                             gboolean only_populated, PageSet *written, GError **error)
{
    return scan_written(pagemap, address, span, only_populated, SCAN_FLAG_CHECK_WPASYNC, written,
                        error);
}

gboolean pagemap_add_unprotected(Pagemap *pagemap, uint64_t address, PageSpan span,
                                 gboolean only_populated, PageSet *set, GError **error)
{
    return read_entries(pagemap, address, span, only_populated ? ENTRY_PRESENT | ENTRY_SWAPPED : 0,
                        ENTRY_UFFD_WP, set, error);
}

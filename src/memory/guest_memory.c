#include "memory/guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "memory/maps.h"
#include "memory/pagemap.h"
#include "memory/shared_pages.h"
#include "page/zero.h"

#define ZERO_CHUNK_PAGES 256u
#define IO_SPANS 512u

static void region_free(gpointer data)
{
    GuestRegion *region = data;

    if (!region)
        return;
    g_free(region->name);
    g_free(region);
}

void guest_memory_free(GuestMemory *memory)
{
    if (!memory)
        return;
    g_clear_pointer(&memory->regions, g_ptr_array_unref);
    pagemap_free(memory->pagemap);
    fd_close(&memory->pidfd);
    g_free(memory);
}

GuestRegion *guest_memory_get_region(const GuestMemory *memory, guint index)
{
    return g_ptr_array_index(memory->regions, index);
}

GPtrArray *guest_memory_new_sets(const GuestMemory *memory)
{
    GPtrArray *sets = g_ptr_array_new_with_free_func((GDestroyNotify)page_set_free);

    for (guint i = 0; i < memory->regions->len; i++)
        g_ptr_array_add(sets, page_set_new(guest_memory_get_region(memory, i)->pages));
    return sets;
}

static int open_backing(pid_t pid, const Mapping *mapping, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/map_files/%" PRIx64 "-%" PRIx64, (int)pid,
                                            mapping->start, mapping->end);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        error_set_errno(error, errno, "open the file behind guest RAM (%s)", path);
    return fd;
}

static gboolean is_copy_on_write(const Mapping *mapping)
{
    return !mapping->shared && mapping->inode != 0 && mapping->page_bytes == PAGE_BYTES;
}

/* Nobody but us writes to that file. */
static gboolean is_shared_pages(const Mapping *mapping)
{
    return g_str_has_prefix(mapping->path, "/memfd:" SHARED_PAGES_NAME);
}

/* Every mapping of the range must be of the same sort and writable. */
static gboolean open_region(GuestRegion *region, const GPtrArray *maps, GError **error)
{
    uint64_t end = region->host_address + region->pages * PAGE_BYTES;
    const Mapping *first = maps_find(maps, region->host_address);

    for (uint64_t at = region->host_address; at < end;) {
        const Mapping *mapping = maps_find(maps, at);

        if (!mapping || !mapping->readable || !mapping->writable) {
            error_set(error, VMFERRY_ERROR_FAILED,
                      "address 0x%" PRIx64 " is not readable and writable memory", at);
            return FALSE;
        }
        if (mapping->shared != first->shared || mapping->page_bytes != first->page_bytes ||
            is_copy_on_write(mapping) != is_copy_on_write(first)) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED, "it is made of several kinds of memory");
            return FALSE;
        }
        if (is_copy_on_write(mapping) && !is_shared_pages(mapping)) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                      "it is a private mapping of %s; use share=on or no file", mapping->path);
            return FALSE;
        }
        at = mapping->end;
    }
    region->backing = is_copy_on_write(first) ? GUEST_BACKING_COPY_ON_WRITE
                      : first->shared         ? GUEST_BACKING_SHARED
                                              : GUEST_BACKING_PRIVATE;
    region->backing_page_bytes = first->page_bytes;
    return TRUE;
}

static GuestRegion *region_new(const RamRegion *ram)
{
    GuestRegion *region = g_new0(GuestRegion, 1);

    region->name = g_strdup(ram->name);
    region->host_address = ram->host_address;
    region->backing_page_bytes = PAGE_BYTES;
    region->pages = (ram->bytes + PAGE_BYTES - 1) / PAGE_BYTES;
    return region;
}

GuestMemory *guest_memory_open(pid_t pid, const GPtrArray *ram_regions, GError **error)
{
    g_autoptr(GuestMemory) memory = g_new0(GuestMemory, 1);
    g_autoptr(GPtrArray) maps = NULL;

    memory->pid = pid;
    memory->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (memory->pidfd < 0) {
        error_set_errno(error, errno, "process %d", (int)pid);
        return NULL;
    }
    maps = maps_read(pid, error);
    if (!maps)
        return NULL;
    memory->regions = g_ptr_array_new_with_free_func(region_free);
    memory->pagemap = pagemap_open(pid, error);
    if (!memory->pagemap)
        return NULL;
    for (guint i = 0; i < ram_regions->len; i++) {
        GuestRegion *region = region_new(g_ptr_array_index(ram_regions, i));

        g_ptr_array_add(memory->regions, region);
        if (!open_region(region, maps, error)) {
            g_prefix_error(error, "RAM block %s: ", region->name);
            return NULL;
        }
    }
    return g_steal_pointer(&memory);
}

gboolean guest_memory_check_process(GuestMemory *memory, GError **error)
{
    struct pollfd p = {.fd = memory->pidfd, .events = POLLIN};

    if (poll(&p, 1, 0) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "guest RAM of pid %d: its process has ended",
              (int)memory->pid);
    return FALSE;
}

gboolean guest_memory_kill(GuestMemory *memory, int timeout_ms)
{
    struct pollfd p = {.fd = memory->pidfd, .events = POLLIN};

    (void)syscall(SYS_pidfd_send_signal, memory->pidfd, SIGKILL, NULL, 0);
    return poll(&p, 1, timeout_ms) == 1;
}

gboolean guest_memory_has_shared_pages(const GuestMemory *memory)
{
    for (guint i = 0; i < memory->regions->len; i++)
        if (guest_memory_get_region(memory, i)->backing == GUEST_BACKING_COPY_ON_WRITE)
            return TRUE;
    return FALSE;
}

void guest_memory_set_io_error(GuestMemory *memory, const GuestRegion *region, int errnum,
                               GError **error)
{
    error_set_errno(error, errnum, "guest RAM %s of pid %d", region->name, (int)memory->pid);
    if (errnum == EFAULT && region->backing == GUEST_BACKING_SHARED && error)
        g_prefix_error(error, "the file behind it is shorter than the RAM, or full: ");
}

typedef ssize_t (*VectorCall)(pid_t pid, const struct iovec *local, unsigned long local_count,
                              const struct iovec *remote, unsigned long remote_count,
                              unsigned long flags);

/* One process_vm call for up to IO_SPANS spans. */
static gboolean transfer(GuestMemory *memory, const GuestRegion *region, const PageSpan *spans,
                         guint count, uint8_t *buffer, VectorCall call, GError **error)
{
    struct iovec remote[IO_SPANS];
    struct iovec local = {buffer, 0};
    ssize_t done;

    for (guint i = 0; i < count; i++) {
        remote[i].iov_base =
            (void *)(uintptr_t)(region->host_address + spans[i].first * PAGE_BYTES);
        remote[i].iov_len = spans[i].count * PAGE_BYTES;
        local.iov_len += remote[i].iov_len;
    }
    if (!guest_memory_check_process(memory, error))
        return FALSE;
    done = call(memory->pid, &local, 1, remote, count, 0);
    if (done != (ssize_t)local.iov_len) {
        guest_memory_set_io_error(memory, region, done < 0 ? errno : EFAULT, error);
        return FALSE;
    }
    return guest_memory_check_process(memory, error);
}

static gboolean transfer_all(GuestMemory *memory, guint index, const PageSpan *spans, guint count,
                             uint8_t *buffer, gboolean writing, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(memory, index);

    for (guint i = 0; i < count; i += IO_SPANS) {
        guint now = MIN(IO_SPANS, count - i);

        if (!transfer(memory, region, spans + i, now, buffer,
                      writing ? process_vm_writev : process_vm_readv, error)) {
            g_prefix_error(error, writing ? "write " : "read ");
            return FALSE;
        }
        for (guint k = 0; k < now; k++)
            buffer += spans[i + k].count * PAGE_BYTES;
    }
    return TRUE;
}

gboolean guest_memory_read(GuestMemory *memory, guint region, const PageSpan *spans, guint count,
                           uint8_t *buffer, GError **error)
{
    return transfer_all(memory, region, spans, count, buffer, FALSE, error);
}

gboolean guest_memory_write(GuestMemory *memory, guint region, const PageSpan *spans, guint count,
                            const uint8_t *buffer, GError **error)
{
    return transfer_all(memory, region, spans, count, (uint8_t *)buffer, TRUE, error);
}

/* Data of a shared file counts, also where this process has no page of it. */
static gboolean add_file_data(GuestMemory *memory, const GuestRegion *region, PageSet *set,
                              GError **error)
{
    g_autoptr(GPtrArray) maps = maps_read(memory->pid, error);
    const Mapping *mapping = maps ? maps_find(maps, region->host_address) : NULL;
    autofd int fd = mapping ? open_backing(memory->pid, mapping, error) : -1;
    off_t base, end;

    if (fd < 0)
        return FALSE;
    base = (off_t)(mapping->offset + region->host_address - mapping->start);
    end = base + (off_t)(region->pages * PAGE_BYTES);
    for (off_t at = base; at < end;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        off_t hole = data >= 0 ? lseek(fd, data, SEEK_HOLE) : -1;

        if (data < 0 && errno == ENXIO)
            break;
        if (data < 0 || hole < 0) {
            page_set_add(set, 0, set->pages); /* holes are not known: all of it counts */
            break;
        }
        if (data >= end)
            break;
        data = MAX(data, base) / (off_t)PAGE_BYTES * (off_t)PAGE_BYTES;
        page_set_add(set, (uint64_t)(data - base) / PAGE_BYTES,
                     (uint64_t)(MIN(hole, end) - data + PAGE_BYTES - 1) / PAGE_BYTES);
        at = hole;
    }
    return TRUE;
}

/* What the file may still grow by: all of the region, less what is there. */
static gboolean check_room(GuestMemory *memory, const GuestRegion *region, GError **error)
{
    g_autoptr(GPtrArray) maps = maps_read(memory->pid, error);
    const Mapping *mapping = maps ? maps_find(maps, region->host_address) : NULL;
    autofd int fd = mapping ? open_backing(memory->pid, mapping, error) : -1;
    uint64_t wanted = region->pages * PAGE_BYTES, have, room;
    struct statvfs disk;
    struct stat file;

    if (fd < 0)
        return FALSE;
    if (fstat(fd, &file) < 0 || fstatvfs(fd, &disk) < 0) {
        error_set_errno(error, errno, "stat the file behind it (%s)", mapping->path);
        return FALSE;
    }
    have = (uint64_t)file.st_blocks * 512;
    room = (uint64_t)disk.f_bavail * disk.f_frsize;
    /* No limit (memfd) is reported as no blocks at all. */
    if (disk.f_blocks == 0 || have >= wanted || wanted - have <= room)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE,
              "%s has room for %" PRIu64 " MiB more, its RAM may need %" PRIu64 " MiB",
              mapping->path, room >> 20, (wanted - have) >> 20);
    return FALSE;
}

gboolean guest_memory_check_room(GuestMemory *memory, GError **error)
{
    for (guint i = 0; i < memory->regions->len; i++) {
        const GuestRegion *region = guest_memory_get_region(memory, i);

        /* Huge pages are reserved when they are mapped. */
        if (region->backing == GUEST_BACKING_SHARED && region->backing_page_bytes == PAGE_BYTES &&
            !check_room(memory, region, error)) {
            g_prefix_error(error, "RAM block %s: ", region->name);
            return FALSE;
        }
    }
    return TRUE;
}

gboolean guest_memory_add_populated(GuestMemory *memory, guint index, PageSet *set, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(memory, index);

    if (region->backing != GUEST_BACKING_PRIVATE && !add_file_data(memory, region, set, error))
        return FALSE;
    if (region->backing == GUEST_BACKING_SHARED)
        return TRUE;
    return pagemap_add_populated(memory->pagemap, region->host_address, set, error);
}

gboolean guest_memory_count_populated(GuestMemory *memory, uint64_t *ret, GError **error)
{
    *ret = 0;
    for (guint i = 0; i < memory->regions->len; i++) {
        g_autoptr(PageSet) set = page_set_new(guest_memory_get_region(memory, i)->pages);

        if (!guest_memory_add_populated(memory, i, set, error))
            return FALSE;
        *ret += page_set_count(set);
    }
    return TRUE;
}

static gboolean zero_span(GuestMemory *memory, guint index, PageSpan span, uint8_t *buffer,
                          const uint8_t *zeroes, GError **error)
{
    if (!guest_memory_read(memory, index, &span, 1, buffer, error))
        return FALSE;
    for (uint64_t i = 0; i < span.count; i++) {
        PageSpan one = {span.first + i, 1};

        if (!zero_is_page(buffer + i * PAGE_BYTES) &&
            !guest_memory_write(memory, index, &one, 1, zeroes, error))
            return FALSE;
    }
    return TRUE;
}

gboolean guest_memory_make_zero(GuestMemory *memory, GError **error)
{
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(memory);
    g_autofree uint8_t *buffer = g_malloc(ZERO_CHUNK_PAGES * PAGE_BYTES);
    g_autofree uint8_t *zeroes = g_malloc0(PAGE_BYTES);

    for (guint i = 0; i < memory->regions->len; i++) {
        PageSet *set = g_ptr_array_index(sets, i);
        PageSpan span;

        if (!guest_memory_add_populated(memory, i, set, error))
            return FALSE;
        for (uint64_t at = 0;
             page_set_next_run(set, at, ZERO_CHUNK_PAGES, &span.first, &span.count);
             at = span.first + span.count)
            if (!zero_span(memory, i, span, buffer, zeroes, error))
                return FALSE;
    }
    return TRUE;
}

RamRegion *ram_region_new(const char *name, uint64_t host_address, uint64_t bytes)
{
    RamRegion *region = g_new0(RamRegion, 1);

    region->name = g_strdup(name);
    region->host_address = host_address;
    region->bytes = bytes;
    return region;
}

void ram_region_free(RamRegion *region)
{
    if (!region)
        return;
    g_free(region->name);
    g_free(region);
}

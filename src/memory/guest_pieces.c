/*
 * Writing pieces of pages into guest RAM
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/page.h"
#include "memory/guest_memory.h"

static gboolean check_pieces(const GuestRegion *region, const GuestPiece *pieces, guint count,
                             GError **error)
{
    uint64_t bytes = region->pages * PAGE_BYTES;

    for (guint i = 0; i < count; i++) {
        if (pieces[i].offset <= bytes && pieces[i].length <= bytes - pieces[i].offset &&
            pieces[i].length <= GUEST_PIECE_MAX_BYTES)
            continue;
        error_set(error, VMFERRY_ERROR_INVALID,
                  "write guest RAM %s: %u bytes at 0x%" PRIx64 " of 0x%" PRIx64, region->name,
                  pieces[i].length, pieces[i].offset, bytes);
        return FALSE;
    }
    return TRUE;
}

/* One process_vm_writev(2) for up to IOV_MAX pieces. */
static gboolean put_pieces(GuestMemory *memory, const GuestRegion *region, const GuestPiece *pieces,
                           guint count, GError **error)
{
    struct iovec local[IOV_MAX], remote[IOV_MAX];
    size_t bytes = 0;
    ssize_t done;

    for (guint i = 0; i < count; i++) {
        local[i] = (struct iovec){(void *)pieces[i].bytes, pieces[i].length};
        remote[i] = (struct iovec){(void *)(uintptr_t)(region->host_address + pieces[i].offset),
                                   pieces[i].length};
        bytes += pieces[i].length;
    }
    if (!guest_memory_check_process(memory, error))
        return FALSE;
    done = process_vm_writev(memory->pid, local, count, remote, count, 0);
    if (done == (ssize_t)bytes)
        return guest_memory_check_process(memory, error);
    guest_memory_set_io_error(memory, region, done < 0 ? errno : EFAULT, error);
    g_prefix_error(error, "write ");
    return FALSE;
}

gboolean guest_memory_write_pieces(GuestMemory *memory, guint index, const GuestPiece *pieces,
                                   guint count, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(memory, index);

    if (!check_pieces(region, pieces, count, error))
        return FALSE;
    for (guint i = 0; i < count; i += IOV_MAX)
        if (!put_pieces(memory, region, pieces + i, MIN(IOV_MAX, count - i), error))
            return FALSE;
    return TRUE;
}

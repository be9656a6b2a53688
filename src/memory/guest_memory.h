/*
 * Guest RAM in another process
 *
 * Theory of operation: a GuestMemory is the list of a machine's RAM regions
 * with the means to read and write them in 4096-byte pages, by
 * process_vm_readv(2) and process_vm_writev(2).  RAM that is a shared file is
 * reached in the same way and never mapped here: the file may be cut short by
 * others or its file system be full, which is an error of a system call (EFAULT)
 * but a signal (SIGBUS) for whoever touches a mapping; and a mapping would keep
 * the memory of a guest that has left.
 *
 * The process is held by a pidfd: each access checks before and after that it
 * still lives, so a pid that became another process's is neither read nor
 * written.  That it is the guest's process is the caller's to check once, after
 * guest_memory_open().
 *
 * Pages without content of their own (never touched) read as zero; they are
 * found by pagemap, or by the file's holes, and not read at all: reading one
 * would give it a page.
 *
 * Threads: reading and writing from any number of threads.
 *
 * Limits: 4 KiB base pages; hugetlbfs RAM is read and written in 4 KiB pages
 * too, but its dirty state is known per huge page.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "memory/page_set.h"

typedef struct {
    char *name;            /* the VMM's own name of the block ("pc.ram") */
    uint64_t host_address; /* in the VMM process */
    uint64_t bytes;        /* bytes in use, what must reach the other side */
} RamRegion;

RamRegion *ram_region_new(const char *name, uint64_t host_address, uint64_t bytes);
void ram_region_free(RamRegion *region);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RamRegion, ram_region_free)

typedef enum {
    GUEST_BACKING_PRIVATE, /* anonymous, not shared */
    GUEST_BACKING_SHARED,  /* memfd, tmpfs or hugetlbfs file, shared */
    GUEST_BACKING_COPY_ON_WRITE, /* a private mapping of pages that guests have in common (shared_pages.h) */
} GuestBacking;

typedef struct {
    char *name;
    uint64_t host_address;
    uint64_t pages;
    GuestBacking backing;
    uint64_t backing_page_bytes;
} GuestRegion;

typedef struct {
    pid_t pid;
    int pidfd;
    GPtrArray *regions; /* of GuestRegion */
    struct Pagemap *pagemap;
} GuestMemory;

/* Checks each RamRegion against the mappings of *pid*. */
GuestMemory *guest_memory_open(pid_t pid, const GPtrArray *ram_regions, GError **error);
void guest_memory_free(GuestMemory *memory);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GuestMemory, guest_memory_free)

/* FALSE with *error* where its process has ended. */
gboolean guest_memory_check_process(GuestMemory *memory, GError **error);

/* Kills its process, and waits for its end; FALSE where that does not come in time. */
gboolean guest_memory_kill(GuestMemory *memory, int timeout_ms);

/* TRUE where some of it is GUEST_BACKING_COPY_ON_WRITE. */
gboolean guest_memory_has_shared_pages(const GuestMemory *memory);

/* Fails (NO_SPACE) where the file system behind shared RAM has no room for all
 * of it: a guest that fills it would be killed when it touches new memory. */
gboolean guest_memory_check_room(GuestMemory *memory, GError **error);

/* Says what an errno of an access to the region means. */
void guest_memory_set_io_error(GuestMemory *memory, const GuestRegion *region, int errnum,
                               GError **error);

GuestRegion *guest_memory_get_region(const GuestMemory *memory, guint index);

/* One empty PageSet a region; free with g_ptr_array_unref(). */
GPtrArray *guest_memory_new_sets(const GuestMemory *memory);

/* Reads the pages of *spans*, one after the other, into *buffer*.  Spans lie within the region. */
gboolean guest_memory_read(GuestMemory *memory, guint region, const PageSpan *spans, guint count,
                           uint8_t *buffer, GError **error);

/* Writes them from *buffer*. */
gboolean guest_memory_write(GuestMemory *memory, guint region, const PageSpan *spans, guint count,
                            const uint8_t *buffer, GError **error);

/* Some bytes inside the pages of a region. */
typedef struct {
    uint64_t offset; /* within the region */
    uint32_t length; /* at most GUEST_PIECE_MAX_BYTES */
    const uint8_t *bytes;
} GuestPiece;

#define GUEST_PIECE_MAX_BYTES (1u << 20)

/* Writes pieces, in the order given; the bytes around them stay as they are.
 * INVALID, and nothing is written, where one is outside the region.  Fails where
 * guest RAM can't be written (its process has ended); some pieces may be in then. */
gboolean guest_memory_write_pieces(GuestMemory *memory, guint region, const GuestPiece *pieces,
                                   guint count, GError **error);

/* Adds to *set* the pages that have content of their own. */
gboolean guest_memory_add_populated(GuestMemory *memory, guint region, PageSet *set,
                                    GError **error);

/* Pages with content of their own, in all regions. */
gboolean guest_memory_count_populated(GuestMemory *memory, uint64_t *ret, GError **error);

/* Makes all of it zero: writes where something else is, touches nothing else. */
gboolean guest_memory_make_zero(GuestMemory *memory, GError **error);

/*
 * /proc/PID/pagemap: which pages are there, which were written
 *
 * Linux 6.7 answers in runs by the PAGEMAP_SCAN ioctl; before that the file is
 * read, 8 bytes per page (Documentation/admin-guide/mm/pagemap.rst).  The
 * constants of newer kernels are carried in pagemap.c: Debian 12's headers are
 * of 6.1.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "memory/page_set.h"

typedef struct Pagemap Pagemap;

/* Opens the pagemap of *pid*. */
Pagemap *pagemap_open(pid_t pid, GError **error);
void pagemap_free(Pagemap *pagemap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Pagemap, pagemap_free)

/* TRUE if this kernel has PAGEMAP_SCAN (tried on *pagemap*). */
gboolean pagemap_can_scan(Pagemap *pagemap);

/* Adds to *set* the pages of [address, address + set->pages * 4096) that hold
 * content of their own: present or swapped, and not the shared zero page where
 * the kernel can tell. */
gboolean pagemap_add_populated(Pagemap *pagemap, uint64_t address, PageSet *set, GError **error);
/* The same, and those that were only read so far (the kernel's page of zeroes). */
gboolean pagemap_add_present(Pagemap *pagemap, uint64_t address, PageSet *set, GError **error);

/* Get and clear: adds to *written* the pages of *span*, counted from *address*
 * on, that were written since the last call, and write-protects them again.  Needs PAGEMAP_SCAN and
 * a range that is registered for asynchronous write protection. *only_populated*: pages that are
 * not there are neither reported nor marked. Right for private memory, where a page that comes
 * later is seen as written; without it every hole is given a page table and a mark.  Shared memory
 * needs the marks: there a written page may be unmapped and still have content. */
gboolean pagemap_take_written(Pagemap *pagemap, uint64_t address, PageSpan span,
                              gboolean only_populated, PageSet *written, GError **error);

/* Gets only: they stay written. */
gboolean pagemap_add_written(Pagemap *pagemap, uint64_t address, PageSpan span,
                             gboolean only_populated, PageSet *written, GError **error);

/* Adds to *set* the pages of *span* that are not write-protected by a userfaultfd.
 * *only_populated*: pages that are not there do not count (private memory).
 * Linux 5.13. */
gboolean pagemap_add_unprotected(Pagemap *pagemap, uint64_t address, PageSpan span,
                                 gboolean only_populated, PageSet *set, GError **error);

/*
 * A userfaultfd of another process's address space
 *
 * The descriptor is made inside that process by injection and fetched with
 * pidfd_getfd(2); the process's own copy is closed at once, so that when the
 * fetched one is closed, by us or by our death, all registrations go away and
 * every waiting thread runs on.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

/* Linux 6.4 and 6.7; newer than Debian 12's headers. */
#define USERFAULT_FEATURE_WP_UNPOPULATED (1ULL << 13)
#define USERFAULT_FEATURE_WP_ASYNC (1ULL << 15)

/* Opens one with these features (UFFD_FEATURE_*); -1 on error.  UNSUPPORTED
 * where the kernel lacks a feature.  The process's main thread stands still
 * for about half a millisecond. */
int userfault_open(pid_t pid, uint64_t features, GError **error);

/* Registers [address, address + bytes) in write-protect mode. */
gboolean userfault_register(int fd, uint64_t address, uint64_t bytes, GError **error);
void userfault_unregister(int fd, uint64_t address, uint64_t bytes);

/* Write-protects a range, or lets it be written and wakes who waits there. */
gboolean userfault_protect(int fd, uint64_t address, uint64_t bytes, gboolean protect,
                           GError **error);

/* All features that this kernel's userfaultfd has; 0 where there is none. */
uint64_t userfault_get_kernel_features(void);

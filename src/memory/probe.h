/* What this kernel and this process's rights allow, found by doing it. */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct {
    gboolean ok;
    char *detail; /* why not, or NULL */
} ProbeResult;

typedef struct {
    char *kernel; /* release */
    ProbeResult userfaultfd;
    ProbeResult wp_async;       /* UFFD_FEATURE_WP_ASYNC, Linux 6.7 */
    ProbeResult wp_unpopulated; /* Linux 6.4 */
    ProbeResult wp_shared;      /* write protection of shared memory and hugetlbfs, 5.19 */
    ProbeResult pagemap_scan;   /* Linux 6.7 */
    ProbeResult attach;         /* ptrace a child and run a call in it */
    ProbeResult pidfd_getfd;    /* fetch the userfaultfd it made */
    ProbeResult track_scan;     /* the whole pagemap-scan tracker on a child: a write is seen */
    ProbeResult track_sync;     /* the same for uffd-sync */
    double attach_ms;           /* time that a guest is stopped for it */
} MemoryProbe;

/* Starts a child process, tries everything on it and ends it. */
void memory_probe(MemoryProbe *ret);
void memory_probe_clear(MemoryProbe *probe);

/* The memory mappings of another process (/proc/PID/smaps). */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct {
    uint64_t start, end;
    uint64_t offset;
    uint64_t inode;
    gboolean readable, writable, shared;
    uint64_t page_bytes;   /* 2 MiB and up for hugetlbfs */
    gboolean userfault_wp; /* registered with a userfaultfd in write-protect mode */
    gboolean userfault_missing;
    gboolean dont_fork, dont_dump; /* madvise(2) */
    char *path;                    /* "" for anonymous memory */
} Mapping;

/* Parses the text of a smaps file: array of Mapping in order of address.
 * Hostile text yields an error. */
GPtrArray *maps_parse(const char *text, GError **error);

/* Reads and parses /proc/PID/smaps. */
GPtrArray *maps_read(pid_t pid, GError **error);

/* The mapping that holds *address*, or NULL. */
const Mapping *maps_find(const GPtrArray *maps, uint64_t address);

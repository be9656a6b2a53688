/*
 * What the workload is told to do: KEY=VALUE, on the kernel command line and
 * in the order "set"
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    PATTERN_IDLE,
    PATTERN_SPARSE,    /* 8 bytes a page */
    PATTERN_DENSE,     /* whole pages of new random bytes */
    PATTERN_INTENSIVE, /* the same; the name for rates beyond what a link carries */
    PATTERN_TEXT,      /* whole pages of other text, which compresses well */
    PATTERN_ZERO,      /* pages become zero, and later random again */
    PATTERN_MIXED,     /* one of the above at random, page by page */
    PATTERN_READ,      /* reads whole pages, writes nothing */
    PATTERN_TOUCH,     /* reads a word a page, and notes what took long */
    PATTERN_COUNT,
} Pattern;

extern const char *const pattern_names[PATTERN_COUNT];

typedef struct {
    Pattern pattern;
    bool sequential;        /* one page after the other; else in random order */
    uint64_t pps;           /* pages written a second by all threads; 0: no limit */
    uint64_t span;          /* pages written to, from the start of the arena */
    uint64_t check;         /* pages checked a second by all threads */
    unsigned disk_rate;     /* blocks written a second; 0: none */
    unsigned disk_batch;    /* blocks of a commit; 0: one */
    unsigned disk_buffered; /* 1: they go through the page cache */
    unsigned readers;       /* of the second disk, at a time */
    bool cpus;              /* each processor counts (cpus.h); on the kernel command line only */
    unsigned wakeups;       /* by a timer, a second; on the kernel command line only */
    unsigned calls;         /* threads that are in system calls; on the kernel command line only */
    char disk[16];          /* name of the disk that is written; on the kernel command line only */
} Settings;

/* Of an arena of *pages*, which limit the span.  False: no such key or value. */
bool settings_set(Settings *settings, const char *key, const char *value, uint64_t pages);

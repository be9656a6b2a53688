/*
 * Texts of /proc and of control groups that tell figures
 *
 * Pure.  The kernel writes these files (man 5 proc; Documentation/accounting/psi.rst,
 * Documentation/scheduler/sched-stats.rst, Documentation/admin-guide/cgroup-v2.rst), but the ones of
 * another process hold what that chose (its name), and a folder that a configuration names may hold any
 * files.  So a line counts by its beginning only, a number by its digits, and what is missing or does not
 * fit is COUNTER_UNKNOWN.  Each function returns FALSE where the text is not such a file at all.
 */
#pragma once

#include <glib.h>
#include <net/if.h>
#include <stdint.h>

#include "collect/figure.h"

/* /proc/stat */
typedef struct {
    uint64_t busy_ticks; /* of all CPUs: all but idle, waiting for I/O, and stolen */
    guint cpus;          /* online */
    uint64_t running;    /* tasks that run or want to */
} StatText;

gboolean stat_text_parse(const char *text, StatText *ret);

/* /proc/meminfo; bytes */
typedef struct {
    uint64_t total, available, swap_total, swap_free;
} MeminfoText;

gboolean meminfo_text_parse(const char *text, MeminfoText *ret);

/* /proc/pressure/…, *.pressure: the time for which some, or all, tasks stood still, in us. */
typedef struct {
    uint64_t some_us, full_us;
} PressureText;

gboolean pressure_text_parse(const char *text, PressureText *ret);

/* /proc/PID/stat */
typedef struct {
    uint64_t start_time; /* ticks after boot */
    uint64_t cpu_ticks;  /* user and system, of all its threads, also those that have ended */
    uint64_t major_faults;
} ProcessStatText;

gboolean process_stat_text_parse(const char *text, ProcessStatText *ret);

/* /proc/PID/status; bytes */
typedef struct {
    uint64_t resident, swapped;
} ProcessMemoryText;

gboolean process_memory_text_parse(const char *text, ProcessMemoryText *ret);

/* /proc/PID/task/TID/schedstat; ns */
typedef struct {
    uint64_t ran_ns, waited_ns;
} SchedstatText;

gboolean schedstat_text_parse(const char *text, SchedstatText *ret);

/* /proc/PID/fdinfo/N of a descriptor of /dev/net/tun: the interface's name.  FALSE for one that is attached
 * to none, and for other files. */
gboolean tun_fdinfo_text_parse(const char *text, char ret[IFNAMSIZ]);

/* A line of /proc/PID/net/dev. */
typedef struct {
    uint64_t received_bytes, received_dropped, sent_bytes, sent_dropped;
} NetDevText;

/* The line of this interface; FALSE where there is none. */
gboolean net_dev_text_find(const char *text, const char *name, NetDevText *ret);

/* The number behind *key* and blanks at the beginning of a line ("usage_usec 17", "pswpin 3"); COUNTER_UNKNOWN
 * where there is none. */
uint64_t keyed_text_get(const char *text, const char *key);

/* A file that holds one number, or "max" (G_MAXINT64). */
uint64_t limit_text_parse(const char *text);

/* cpu.max: CPUs, or FIGURE_UNKNOWN where there is no limit. */
double cpu_max_text_parse(const char *text);

/* cpuset.cpus.effective ("0-3,8"): how many; 0 where it is not such a list. */
guint cpu_list_text_count(const char *text);

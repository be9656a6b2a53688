/*
 * Slowing vCPUs by the CPU limit of their control groups (cgroup v2)
 *
 * Theory of operation: a limit is lowered only for groups that hold nothing
 * but this VMM: those that libvirt makes for each vCPU (threaded groups,
 * …/libvirt/vcpuN), or a group (a systemd scope, say) that the whole process
 * has for itself.  "cpu.max" holds "QUOTA PERIOD" in microseconds; the quota
 * becomes what the group's vCPUs could use before (their number, or less under
 * a limit that was there) times the share.  The period is short, so that each
 * wait is: 20 ms, more only where the kernel's least quota of 1 ms asks for it.
 * A file is written only where its text changes: each write gives a new quota at once and
 * forgives what was used beyond the last one (tg_set_cfs_bandwidth() in Linux), so
 * that writing "1000 500000" every 100 ms lets a guest run for 3 % of the time, not 0.2 %.
 *
 * The guard (guard.h) is armed with what a file held before the file is changed, so
 * that our death undoes the change; lifting writes it back and disarms the guard.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#include "guard/guard.h"

typedef struct CgroupLimit CgroupLimit;

/* For the process *pid* with these vCPU *threads* (of pid_t); borrows *guard*.
 * *root* is put before /proc and /sys ("" but in tests).  Says why where it is
 * not possible: VMFERRY_ERROR_UNSUPPORTED, _PERMISSION or _NOT_FOUND. */
CgroupLimit *cgroup_limit_new(const char *root, pid_t pid, const GArray *threads, Guard *guard,
                              GError **error);

/* Sets the share of time that the vCPUs may run, above 0 and below 1.  Where
 * this fails, it has been lifted. */
gboolean cgroup_limit_set(CgroupLimit *limit, double run_share, GError **error);

/* All as it was.  A VMM that has ended needs nothing. */
gboolean cgroup_limit_lift(CgroupLimit *limit, GError **error);

/* Lifts it.  NULL-safe. */
void cgroup_limit_free(CgroupLimit *limit);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CgroupLimit, cgroup_limit_free)

/* "QUOTA PERIOD" for vCPUs that may use *cpus* processors in all, at this
 * share; free with g_free(). */
char *cgroup_limit_format(double cpus, double run_share);

/* The processors that *text* ("max 100000", "50000 100000") allows, at most
 * *cpus*; negative where it is not such a text. */
double cgroup_limit_parse(const char *text, double cpus);

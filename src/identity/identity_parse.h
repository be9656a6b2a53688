/*
 * Texts of /proc that tell who a process is
 *
 * Pure.  The kernel writes these files, but parts of them are a process's own
 * choice (its name), so a line counts by its beginning only.
 */
#pragma once

#include "identity/identity.h"

typedef struct {
    uint32_t uids[4], gids[4]; /* real, effective, saved, file system */
    GArray *groups;            /* of uint32_t */
    IdentityCapabilities capabilities;
    guint parent;
    gboolean no_new_privs;
    guint seccomp;         /* 0 off, 1 strict, 2 filter */
    guint seccomp_filters; /* 0 too where the kernel does not tell (before 5.9) */
} ProcessStatus;

/* /proc/PID/status */
gboolean process_status_parse(const char *text, ProcessStatus *ret, GError **error);
void process_status_clear(ProcessStatus *status);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ProcessStatus, process_status_clear)

/* /proc/PID/limits; limits that it does not name are left as not told. */
gboolean process_limits_parse(const char *text, IdentityLimit ret[RLIM_NLIMITS], GError **error);

/* /proc/PID/cgroup: a list of IdentityCgroup without limits, but for named
 * hierarchies of version 1 ("name=systemd"), which limit nothing. */
GPtrArray *process_cgroups_parse(const char *text, GError **error);

/* The nice value out of /proc/PID/stat. */
gboolean process_nice_parse(const char *text, int *ret, GError **error);

/* /proc/PID/attr/current: the profile or context; NULL for an unconfined
 * process.  *ret_kind is "apparmor" or "selinux".  Free with g_free(). */
char *process_label_parse(const char *text, const char **ret_kind);

/* TRUE for the scope of a login: it confines nothing, and exists on one host only. */
gboolean identity_cgroup_is_of_session(const char *path);

/* One line of what a limit file of a control group holds, or NULL where it is
 * the kernel's default.  Free with g_free(). */
char *identity_cgroup_limit_parse(const char *file, const char *text);

/* The kernel's default of one of identity_cgroup_files, one line. */
const char *identity_cgroup_limit_default(const char *file);

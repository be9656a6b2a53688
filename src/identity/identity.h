/*
 * Who runs a process, and what confines it
 *
 * Theory of operation: a guest that moves shall be run at its destination by
 * the same user and under the same confinement.  The source reads a
 * ProcessIdentity from /proc (identity_read.c) at the start of each move; it
 * travels in GUEST as JSON (identity_json.c; docs/protocol.md has the format);
 * the destination makes a SpawnPlan of it (spawn_plan.h), which refuses what
 * cannot be set here, and starts the process by that (spawn.h).
 *
 * What two hosts have in common is names, not numbers: users and groups are
 * looked up by name at the destination, network namespaces are those of
 * /run/netns.  What is like the agent's own is not told (see each field): it
 * will be like the other agent's own there.
 *
 * Limits: POSIX ACLs, keyrings, CPU affinity, scheduling policies and I/O
 * priorities are not read.  Securebits cannot be read from outside.  A seccomp
 * filter that was installed from outside, and namespaces but the network's,
 * are recognised and can only be refused.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "identity/confinement.h"

#define IDENTITY_MAX_GROUPS 256
#define IDENTITY_MAX_CGROUPS 16

/* A user or a group.  *name* NULL: the number has none there. */
typedef struct {
    uint32_t id;
    char *name;
} IdentityOwner;

/* Bits are those of <linux/capability.h>. */
typedef struct {
    uint64_t effective, permitted, inheritable, bounding, ambient;
} IdentityCapabilities;

/* RLIM_INFINITY stands for "unlimited". */
typedef struct {
    gboolean told;
    uint64_t soft, hard;
} IdentityLimit;

typedef struct {
    char *file; /* "memory.max" */
    char *text; /* what it holds, one line */
} IdentityCgroupLimit;

typedef struct {
    char *hierarchy;   /* "" for version 2, else version 1's controllers ("cpu,cpuacct") */
    char *path;        /* absolute within the hierarchy */
    GPtrArray *limits; /* of IdentityCgroupLimit; version 2 only */
} IdentityCgroup;

/* Namespaces that cannot be entered elsewhere; the host's first ones do not count. */
typedef enum {
    IDENTITY_NAMESPACE_MNT = 1 << 0, /* its root directory is another one */
    IDENTITY_NAMESPACE_USER = 1 << 1,
    IDENTITY_NAMESPACE_PID = 1 << 2,
    IDENTITY_NAMESPACE_IPC = 1 << 3,
    IDENTITY_NAMESPACE_UTS = 1 << 4,
    IDENTITY_NAMESPACE_CGROUP = 1 << 5,
    IDENTITY_NAMESPACE_NET = 1 << 6, /* another one, without a name */
} IdentityNamespace;

typedef struct {
    IdentityOwner user, group;
    gboolean mixed_ids; /* real, effective and saved ids differ */
    GPtrArray *groups;  /* of IdentityOwner: the supplementary ones */

    gboolean capabilities_told; /* FALSE: like the agent's own */
    IdentityCapabilities capabilities;
    gboolean no_new_privs; /* FALSE too where the agent itself has it */
    gboolean seccomp;      /* a filter that neither the process nor the agent installed */

    char *label_kind; /* "apparmor", "selinux"; NULL: unconfined, or like the agent's own */
    char *label;

    char *netns;        /* name of a network namespace other than the agent's, or NULL */
    guint namespaces;   /* IDENTITY_NAMESPACE_… that are not the agent's */
    GPtrArray *cgroups; /* of IdentityCgroup: those that are not the agent's */

    IdentityLimit limits[RLIM_NLIMITS]; /* told where not as the agent's own */
    int oom_score_adj;
    int nice;
} ProcessIdentity;

/* What only the caller knows of a process. */
typedef struct {
    gboolean filters_itself; /* it installs its seccomp filter (and no_new_privs) itself */
    const char *own_root;    /* the folder that it changed its root to by itself, or NULL */
} ProcessHabits;

/* NULL with *error* also where there is more than the format can carry. */
ProcessIdentity *process_identity_read(pid_t pid, const ProcessHabits *habits, GError **error);

ProcessIdentity *process_identity_copy(const ProcessIdentity *identity);
void process_identity_free(ProcessIdentity *identity);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ProcessIdentity, process_identity_free)

/* A new object, and back: every field and limit is checked. */
json_t *process_identity_to_json(const ProcessIdentity *identity);
ProcessIdentity *process_identity_from_json(json_t *object, GError **error);

/* The parts, for those who fill one. */
ProcessIdentity *process_identity_new(void);
IdentityOwner *identity_owner_new(uint32_t id, const char *name);
void identity_owner_free(IdentityOwner *owner);
IdentityCgroup *identity_cgroup_new(const char *hierarchy, const char *path);
void identity_cgroup_free(IdentityCgroup *cgroup);
IdentityCgroupLimit *identity_cgroup_limit_new(const char *file, const char *text);

/* "nofile" for RLIMIT_NOFILE, …; NULL for numbers without a name here. */
const char *identity_limit_name(guint resource);

/* "CAP_NET_ADMIN" for bit 12; and all of a set, separated by commas (free with
 * g_free()). */
char *identity_capability_names(uint64_t set);

/* What of version 2's files counts as set; NULL-terminated. */
extern const char *const identity_cgroup_files[];

/* The namespace's name ("mnt"); of one bit. */
const char *identity_namespace_name(IdentityNamespace bit);

/* NULL where the number has none; free with g_free(). */
char *identity_user_name(uint32_t uid);
char *identity_group_name(uint32_t gid);

/* FALSE where this host does not have that name. */
gboolean identity_find_user(const char *name, uint32_t *ret_uid);
gboolean identity_find_group(const char *name, uint32_t *ret_gid);

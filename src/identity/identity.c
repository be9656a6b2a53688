#include "identity/identity.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>

static const char *const limit_names[RLIM_NLIMITS] = {
    [RLIMIT_CPU] = "cpu",       [RLIMIT_FSIZE] = "fsize",       [RLIMIT_DATA] = "data",
    [RLIMIT_STACK] = "stack",   [RLIMIT_CORE] = "core",         [RLIMIT_RSS] = "rss",
    [RLIMIT_NPROC] = "nproc",   [RLIMIT_NOFILE] = "nofile",     [RLIMIT_MEMLOCK] = "memlock",
    [RLIMIT_AS] = "as",         [RLIMIT_LOCKS] = "locks",       [RLIMIT_SIGPENDING] = "sigpending",
    [RLIMIT_NICE] = "nice",     [RLIMIT_MSGQUEUE] = "msgqueue", [RLIMIT_RTPRIO] = "rtprio",
    [RLIMIT_RTTIME] = "rttime",
};

static const char *const capability_names[] = {
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
};

const char *const identity_cgroup_files[] = {
    "memory.max",  "memory.high", "memory.low", "memory.swap.max", "cpu.max", "cpu.weight",
    "cpuset.cpus", "cpuset.mems", "pids.max",   "io.weight",       NULL,
};

const char *identity_limit_name(guint resource)
{
    return resource < RLIM_NLIMITS ? limit_names[resource] : NULL;
}

char *identity_capability_names(uint64_t set)
{
    GString *names = g_string_new(NULL);

    for (guint bit = 0; bit < 64; bit++) {
        if (!(set >> bit & 1))
            continue;
        g_string_append(names, names->len ? ", " : "");
        if (bit < G_N_ELEMENTS(capability_names))
            g_string_append_printf(names, "CAP_%s", capability_names[bit]);
        else
            g_string_append_printf(names, "capability %u", bit);
    }
    return g_string_free(names, FALSE);
}

const char *identity_namespace_name(IdentityNamespace bit)
{
    switch (bit) {
    case IDENTITY_NAMESPACE_MNT:
        return "mnt";
    case IDENTITY_NAMESPACE_USER:
        return "user";
    case IDENTITY_NAMESPACE_PID:
        return "pid";
    case IDENTITY_NAMESPACE_IPC:
        return "ipc";
    case IDENTITY_NAMESPACE_UTS:
        return "uts";
    case IDENTITY_NAMESPACE_CGROUP:
        return "cgroup";
    case IDENTITY_NAMESPACE_NET:
        return "net";
    }
    return "unknown";
}

IdentityOwner *identity_owner_new(uint32_t id, const char *name)
{
    IdentityOwner *owner = g_new(IdentityOwner, 1);

    *owner = (IdentityOwner){id, g_strdup(name)};
    return owner;
}

void identity_owner_free(IdentityOwner *owner)
{
    g_free(owner->name);
    g_free(owner);
}

IdentityCgroupLimit *identity_cgroup_limit_new(const char *file, const char *text)
{
    IdentityCgroupLimit *limit = g_new(IdentityCgroupLimit, 1);

    *limit = (IdentityCgroupLimit){g_strdup(file), g_strdup(text)};
    return limit;
}

static void cgroup_limit_free(gpointer data)
{
    IdentityCgroupLimit *limit = data;

    g_free(limit->file);
    g_free(limit->text);
    g_free(limit);
}

IdentityCgroup *identity_cgroup_new(const char *hierarchy, const char *path)
{
    IdentityCgroup *cgroup = g_new(IdentityCgroup, 1);

    *cgroup = (IdentityCgroup){g_strdup(hierarchy), g_strdup(path),
                               g_ptr_array_new_with_free_func(cgroup_limit_free)};
    return cgroup;
}

void identity_cgroup_free(IdentityCgroup *cgroup)
{
    g_free(cgroup->hierarchy);
    g_free(cgroup->path);
    g_ptr_array_unref(cgroup->limits);
    g_free(cgroup);
}

static gpointer copy_owner(gconstpointer source, gpointer unused)
{
    const IdentityOwner *owner = source;

    return identity_owner_new(owner->id, owner->name);
}

static gpointer copy_cgroup_limit(gconstpointer source, gpointer unused)
{
    const IdentityCgroupLimit *limit = source;

    return identity_cgroup_limit_new(limit->file, limit->text);
}

static gpointer copy_cgroup(gconstpointer source, gpointer unused)
{
    const IdentityCgroup *cgroup = source;
    IdentityCgroup *copy = identity_cgroup_new(cgroup->hierarchy, cgroup->path);

    g_ptr_array_extend(copy->limits, cgroup->limits, copy_cgroup_limit, NULL);
    return copy;
}

ProcessIdentity *process_identity_new(void)
{
    ProcessIdentity *identity = g_new0(ProcessIdentity, 1);

    identity->groups = g_ptr_array_new_with_free_func((GDestroyNotify)identity_owner_free);
    identity->cgroups = g_ptr_array_new_with_free_func((GDestroyNotify)identity_cgroup_free);
    return identity;
}

ProcessIdentity *process_identity_copy(const ProcessIdentity *identity)
{
    ProcessIdentity *copy = process_identity_new();
    GPtrArray *groups = copy->groups, *cgroups = copy->cgroups;

    *copy = *identity;
    copy->groups = groups;
    copy->cgroups = cgroups;
    g_ptr_array_extend(groups, identity->groups, copy_owner, NULL);
    g_ptr_array_extend(cgroups, identity->cgroups, copy_cgroup, NULL);
    copy->user.name = g_strdup(identity->user.name);
    copy->group.name = g_strdup(identity->group.name);
    copy->label_kind = g_strdup(identity->label_kind);
    copy->label = g_strdup(identity->label);
    copy->netns = g_strdup(identity->netns);
    return copy;
}

void process_identity_free(ProcessIdentity *identity)
{
    if (!identity)
        return;
    g_free(identity->user.name);
    g_free(identity->group.name);
    g_ptr_array_unref(identity->groups);
    g_free(identity->label_kind);
    g_free(identity->label);
    g_free(identity->netns);
    g_ptr_array_unref(identity->cgroups);
    g_free(identity);
}

/* A group of thousands of members needs more than this; then it is doubled. */
#define FIRST_BYTES 4096u
#define MOST_BYTES (16u << 20)

/* One question to the C library with a buffer that is large enough; the answer
 * is copied out of it by *found* before it goes. */
#define LOOK_UP(type, call, key, on_found)                                                         \
    for (size_t bytes = FIRST_BYTES; bytes <= MOST_BYTES; bytes *= 2) {                            \
        g_autofree char *buffer = g_malloc(bytes);                                                 \
        type entry, *found = NULL;                                                                 \
        int failed = call(key, &entry, buffer, bytes, &found);                                     \
                                                                                                   \
        if (failed == ERANGE)                                                                      \
            continue;                                                                              \
        if (failed || !found)                                                                      \
            break;                                                                                 \
        on_found;                                                                                  \
    }

char *identity_user_name(uint32_t uid)
{
    LOOK_UP(struct passwd, getpwuid_r, uid, return g_strdup(found->pw_name))
    return NULL;
}

char *identity_group_name(uint32_t gid)
{
    LOOK_UP(struct group, getgrgid_r, gid, return g_strdup(found->gr_name))
    return NULL;
}

gboolean identity_find_user(const char *name, uint32_t *ret_uid)
{
    LOOK_UP(struct passwd, getpwnam_r, name, {
        *ret_uid = found->pw_uid;
        return TRUE;
    })
    return FALSE;
}

gboolean identity_find_group(const char *name, uint32_t *ret_gid)
{
    LOOK_UP(struct group, getgrnam_r, name, {
        *ret_gid = found->gr_gid;
        return TRUE;
    })
    return FALSE;
}

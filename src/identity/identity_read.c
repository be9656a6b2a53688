#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "identity/identity.h"
#include "identity/identity_cgroup.h"
#include "identity/process_facts.h"

#define NETNS_FOLDER "/run/netns"

typedef struct {
    ProcessIdentity *identity; /* being filled */
    const ProcessHabits *habits;
    const char *there; /* "/proc/PID" */
    const ProcessFacts *theirs, *ours;
} Reading;

/* ---- user and groups ---- */

static gboolean is_mixed(const uint32_t ids[4])
{
    return ids[1] != ids[0] || ids[2] != ids[0] || ids[3] != ids[0];
}

static gboolean take_owners(Reading *reading, GError **error)
{
    const ProcessStatus *status = &reading->theirs->status;
    ProcessIdentity *identity = reading->identity;

    if (status->groups->len > IDENTITY_MAX_GROUPS) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "it has %u supplementary groups; at most %d can be told", status->groups->len,
                  IDENTITY_MAX_GROUPS);
        return FALSE;
    }
    identity->user = (IdentityOwner){status->uids[0], identity_user_name(status->uids[0])};
    identity->group = (IdentityOwner){status->gids[0], identity_group_name(status->gids[0])};
    identity->mixed_ids = is_mixed(status->uids) || is_mixed(status->gids);
    for (guint i = 0; i < status->groups->len; i++) {
        uint32_t id = g_array_index(status->groups, uint32_t, i);
        g_autofree char *name = identity_group_name(id);

        g_ptr_array_add(identity->groups, identity_owner_new(id, name));
    }
    return TRUE;
}

/* ---- rights ---- */

static gboolean same_capabilities(const IdentityCapabilities *a, const IdentityCapabilities *b)
{
    return a->effective == b->effective && a->permitted == b->permitted &&
           a->inheritable == b->inheritable && a->bounding == b->bounding &&
           a->ambient == b->ambient;
}

/* A process that filters itself has set no_new_privs by itself, too, as
 * libseccomp does. */
static void take_rights(Reading *reading)
{
    const ProcessStatus *theirs = &reading->theirs->status, *ours = &reading->ours->status;
    ProcessIdentity *identity = reading->identity;
    gboolean filters_itself = reading->habits->filters_itself;

    identity->capabilities = theirs->capabilities;
    identity->capabilities_told = !same_capabilities(&theirs->capabilities, &ours->capabilities);
    identity->no_new_privs = theirs->no_new_privs && !ours->no_new_privs && !filters_itself;
    identity->seccomp = theirs->seccomp != 0 && !filters_itself &&
                        (ours->seccomp == 0 || theirs->seccomp_filters > ours->seccomp_filters);
}

static gboolean check_text(const char *text, const char *what, GError **error)
{
    if (g_utf8_validate(text, -1, NULL))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "the name of its %s is not UTF-8", what);
    return FALSE;
}

static gboolean take_label(Reading *reading, GError **error)
{
    const ProcessFacts *theirs = reading->theirs;

    if (!theirs->label || g_strcmp0(theirs->label, reading->ours->label) == 0)
        return TRUE;
    reading->identity->label_kind = g_strdup(theirs->label_kind);
    reading->identity->label = g_strdup(theirs->label);
    return check_text(theirs->label, "security label", error);
}

/* ---- namespaces ---- */

static gboolean same_file(const char *a, const char *b)
{
    struct stat first, second;

    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

static gboolean differs(Reading *reading, const char *file)
{
    g_autofree char *theirs = g_strconcat(reading->there, "/", file, NULL);
    g_autofree char *ours = g_strconcat("/proc/self/", file, NULL);

    return !same_file(theirs, ours);
}

/* What is not ours may still confine nothing: a service manager gives an agent
 * namespaces of its own (for the host's name, say), while the guest is in the
 * first ones, whose numbers the kernel fixes (include/linux/proc_ns.h). */
static gboolean is_confined_by(Reading *reading, const char *file, ino_t first)
{
    g_autofree char *theirs = g_strconcat(reading->there, "/", file, NULL);
    struct stat info;

    return differs(reading, file) && !(stat(theirs, &info) == 0 && info.st_ino == first);
}

/* A mount namespace by itself is only a view of the same files (as services
 * have it for a /tmp of their own); what counts is another root, unless the
 * process has changed to it by itself. */
static gboolean has_other_root(Reading *reading)
{
    g_autofree char *root = g_strconcat(reading->there, "/root/.", NULL);
    const char *own_root = reading->habits->own_root;

    if (!differs(reading, "root/."))
        return FALSE;
    return !own_root || (differs(reading, "ns/mnt") && !same_file(root, own_root));
}

static char *find_netns_name(Reading *reading)
{
    g_autofree char *theirs = g_strconcat(reading->there, "/ns/net", NULL);
    g_autoptr(GDir) folder = g_dir_open(NETNS_FOLDER, 0, NULL);
    const char *name;

    while (folder && (name = g_dir_read_name(folder))) {
        g_autofree char *path = g_build_filename(NETNS_FOLDER, name, NULL);

        if (same_file(path, theirs))
            return g_strdup(name);
    }
    return NULL;
}

static gboolean take_namespaces(Reading *reading, GError **error)
{
    static const struct {
        const char *file;
        IdentityNamespace bit;
        ino_t first;
    } plain[] = {
        {"ns/user", IDENTITY_NAMESPACE_USER, 0xeffffffd},
        {"ns/pid", IDENTITY_NAMESPACE_PID, 0xeffffffc},
        {"ns/ipc", IDENTITY_NAMESPACE_IPC, 0xefffffff},
        {"ns/uts", IDENTITY_NAMESPACE_UTS, 0xeffffffe},
        {"ns/cgroup", IDENTITY_NAMESPACE_CGROUP, 0xeffffffb},
    };
    ProcessIdentity *identity = reading->identity;

    for (guint i = 0; i < G_N_ELEMENTS(plain); i++)
        if (is_confined_by(reading, plain[i].file, plain[i].first))
            identity->namespaces |= plain[i].bit;
    if (has_other_root(reading))
        identity->namespaces |= IDENTITY_NAMESPACE_MNT;
    if (!differs(reading, "ns/net"))
        return TRUE;
    identity->netns = find_netns_name(reading);
    if (!identity->netns)
        identity->namespaces |= IDENTITY_NAMESPACE_NET;
    return !identity->netns || check_text(identity->netns, "network namespace", error);
}

/* ---- control groups ---- */

static gboolean take_cgroup(Reading *reading, const IdentityCgroup *cgroup, GError **error)
{
    g_autofree char *mount = NULL;
    g_autofree char *folder = NULL;
    IdentityCgroup *told;

    /* Beyond the root of our own cgroup namespace. */
    if (g_str_has_prefix(cgroup->path, "/..")) {
        reading->identity->namespaces |= IDENTITY_NAMESPACE_CGROUP;
        return TRUE;
    }
    if (!check_text(cgroup->path, "control group", error))
        return FALSE;
    told = identity_cgroup_new(cgroup->hierarchy, cgroup->path);
    g_ptr_array_add(reading->identity->cgroups, told);
    mount = *cgroup->hierarchy ? NULL : identity_cgroup_mount("", "");
    if (!mount)
        return TRUE;
    folder = g_strconcat(mount, cgroup->path, NULL);
    identity_cgroup_read_limits(told, folder);
    return TRUE;
}

static gboolean take_cgroups(Reading *reading, GError **error)
{
    const GPtrArray *theirs = reading->theirs->cgroups;

    for (guint i = 0; i < theirs->len; i++) {
        const IdentityCgroup *cgroup = theirs->pdata[i];

        if (strcmp(cgroup->path, "/") == 0 || identity_cgroup_is_of_session(cgroup->path) ||
            process_facts_is_in_cgroup(reading->ours, cgroup))
            continue;
        if (!take_cgroup(reading, cgroup, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- limits ---- */

static void take_limits(Reading *reading)
{
    ProcessIdentity *identity = reading->identity;

    memcpy(identity->limits, reading->theirs->limits, sizeof identity->limits);
    for (guint i = 0; i < RLIM_NLIMITS; i++) {
        IdentityLimit *limit = &identity->limits[i];
        const IdentityLimit *ours = &reading->ours->limits[i];

        if (limit->soft == ours->soft && limit->hard == ours->hard)
            limit->told = FALSE;
    }
    identity->oom_score_adj = reading->theirs->oom_score_adj;
    identity->nice = reading->theirs->nice;
}

static gboolean read_all(Reading *reading, GError **error)
{
    take_rights(reading);
    take_limits(reading);
    return take_owners(reading, error) && take_label(reading, error) &&
           take_namespaces(reading, error) && take_cgroups(reading, error);
}

ProcessIdentity *process_identity_read(pid_t pid, const ProcessHabits *habits, GError **error)
{
    static const ProcessHabits no_habits;
    g_autoptr(ProcessIdentity) identity = process_identity_new();
    g_autofree char *there = g_strdup_printf("/proc/%d", (int)pid);
    g_auto(ProcessFacts) theirs = {0};
    g_auto(ProcessFacts) ours = {0};
    Reading reading = {identity, habits ? habits : &no_habits, there, &theirs, &ours};

    if (process_facts_read(there, &theirs, error) &&
        process_facts_read("/proc/self", &ours, error) && read_all(&reading, error))
        return g_steal_pointer(&identity);
    g_prefix_error(error, "who runs process %d: ", (int)pid);
    return NULL;
}

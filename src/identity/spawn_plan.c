#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "identity/identity_cgroup.h"
#include "identity/identity.h"
#include "identity/process_facts.h"
#include "identity/spawn_plan_private.h"

#define NETNS_FOLDER "/run/netns"
#define APPARMOR_PROFILES "/sys/kernel/security/apparmor/profiles"
#define APPARMOR_EXEC "/proc/self/attr/apparmor/exec"
#define LABEL_EXEC "/proc/self/attr/exec"
#define LAST_CAPABILITY_FILE "/proc/sys/kernel/cap_last_cap"

/* ---- user and groups ---- */

/* A number without a name must be without one here, too: else it would be
 * another user. */
static gboolean find_owner(const IdentityOwner *owner, const char *what,
                           gboolean (*find)(const char *, uint32_t *), char *(*get_name)(uint32_t),
                           uint32_t *ret_id, GError **error)
{
    g_autofree char *here = NULL;

    if (owner->name) {
        if (find(owner->name, ret_id))
            return TRUE;
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "there is no %s \"%s\" on this host, which runs the guest where it is: create it",
                  what, owner->name);
        return FALSE;
    }
    here = get_name(owner->id);
    *ret_id = owner->id;
    if (!here)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the guest is run by the %s %u, which has no name where it is, and is \"%s\" here",
              what, owner->id, here);
    return FALSE;
}

static gboolean resolve_owners(SpawnPlan *plan, GError **error)
{
    const ProcessIdentity *wanted = plan->wanted;
    uint32_t id;

    if (wanted->mixed_ids) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest is run with different real, effective and saved ids");
        return FALSE;
    }
    if (!find_owner(&wanted->user, "user", identity_find_user, identity_user_name, &id, error))
        return FALSE;
    plan->uid = id;
    if (!find_owner(&wanted->group, "group", identity_find_group, identity_group_name, &id, error))
        return FALSE;
    plan->gid = id;
    for (guint i = 0; i < wanted->groups->len; i++) {
        gid_t gid;

        if (!find_owner(wanted->groups->pdata[i], "group", identity_find_group, identity_group_name,
                        &id, error))
            return FALSE;
        gid = id;
        g_array_append_val(plan->groups, gid);
    }
    return TRUE;
}

static gboolean plan_owner(SpawnPlan *plan, const ProcessFacts *own, GError **error)
{
    if (!resolve_owners(plan, error))
        return FALSE;
    plan->set_owner = !plan->starts_as_us && !spawn_plan_has_owner(plan, &own->status);
    if (!plan->set_owner || (process_facts_has_capability(own, CAP_SETUID) &&
                             process_facts_has_capability(own, CAP_SETGID)))
        return TRUE;
    error_set(error, VMFERRY_ERROR_PERMISSION, "the agent here may not start processes as others");
    return FALSE;
}

/* ---- capabilities ---- */

static guint read_last_capability(void)
{
    g_autofree char *text = file_read(LAST_CAPABILITY_FILE, 64, NULL, NULL);
    guint64 number;

    return text && g_ascii_string_to_unsigned(g_strchomp(text), 10, 0, 63, &number, NULL)
               ? (guint)number
               : CAP_LAST_CAP;
}

static gboolean check_available(const char *what, uint64_t wanted, uint64_t available,
                                GError **error)
{
    g_autofree char *names = identity_capability_names(wanted & ~available);

    if (!(wanted & ~available))
        return TRUE;
    error_set(error, VMFERRY_ERROR_PERMISSION, "the agent here cannot give it %s (%s)", names,
              what);
    return FALSE;
}

static gboolean plan_capabilities(SpawnPlan *plan, const ProcessFacts *own, GError **error)
{
    const IdentityCapabilities *wanted = &plan->wanted->capabilities;
    const IdentityCapabilities *have = &own->status.capabilities;

    plan->last_capability = read_last_capability();
    if (!plan->wanted->capabilities_told)
        return TRUE;
    if (!check_available("permitted", wanted->permitted | wanted->effective, have->bounding,
                         error) ||
        !check_available("inheritable", wanted->inheritable, have->bounding, error) ||
        !check_available("ambient", wanted->ambient, have->permitted, error))
        return FALSE;
    plan->set_capabilities = TRUE;
    plan->capabilities = *wanted;
    plan->capabilities.bounding &= have->bounding;
    if (plan->starts_as_us)
        plan->capabilities.ambient = 0;
    if (plan->capabilities.bounding == have->bounding ||
        process_facts_has_capability(own, CAP_SETPCAP))
        return TRUE;
    error_set(error, VMFERRY_ERROR_PERMISSION, "the agent here has no CAP_SETPCAP");
    return FALSE;
}

/* ---- what can only be refused ---- */

static gboolean plan_seccomp(SpawnPlan *plan, const ProcessFacts *own, GError **error)
{
    if (!plan->wanted->seccomp)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "a system call filter was put on the guest's process from outside, which cannot be "
              "done again here (let QEMU filter itself, with -sandbox on)");
    return FALSE;
}

static gboolean plan_namespaces(SpawnPlan *plan, const ProcessFacts *own, GError **error)
{
    guint set = plan->wanted->namespaces & ~(guint)IDENTITY_NAMESPACE_NET;
    g_autoptr(GString) names = g_string_new(NULL);

    for (guint bit = 1; bit <= set; bit <<= 1)
        if (set & bit)
            g_string_append_printf(names, "%s%s", names->len ? ", " : "",
                                   identity_namespace_name((IdentityNamespace)bit));
    if (!set)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "the guest's process is in namespaces of its own (%s), as in a container, which "
              "cannot be made here",
              names->str);
    return FALSE;
}

/* ---- network namespace ---- */

static gboolean plan_netns(SpawnPlan *plan, const ProcessFacts *own, GError **error)
{
    g_autofree char *path = NULL;

    if (plan->wanted->namespaces & IDENTITY_NAMESPACE_NET) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest is in a network namespace that has no name where it is: give it one "
                  "there and here (ip netns attach NAME PID; ip netns add NAME)");
        return FALSE;
    }
    if (!plan->wanted->netns)
        return TRUE;
    path = g_build_filename(NETNS_FOLDER, plan->wanted->netns, NULL);
    plan->netns_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (plan->netns_fd >= 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND,
              "there is no network namespace \"%s\" on this host (%s): create it, with what the "
              "guest needs in it (ip netns add)",
              plan->wanted->netns, g_strerror(errno));
    return FALSE;
}

/* ---- labels ---- */

/* "NAME (enforce)", a line each; where the list cannot be read the child's step
 * tells. */
static gboolean has_profile(const char *name)
{
    g_autofree char *text = file_read(APPARMOR_PROFILES, 16u << 20, NULL, NULL);
    g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;

    for (char **line = lines; line && *line; line++) {
        char *mode = strrchr(*line, '(');

        if (mode)
            *mode = '\0';
        if (strcmp(g_strchomp(*line), name) == 0)
            return TRUE;
    }
    return lines == NULL;
}

static gboolean plan_apparmor(SpawnPlan *plan, const ProcessFacts *own, GError **error)
{
    const char *label = plan->wanted->label;

    if (g_strcmp0(plan->wanted->label_kind, "apparmor") != 0)
        return TRUE;
    if (access("/sys/kernel/security/apparmor", F_OK) != 0) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest is confined by the AppArmor profile \"%s\"; this host has no AppArmor",
                  label);
        return FALSE;
    }
    if (!has_profile(label)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "there is no AppArmor profile \"%s\" on this host: load it", label);
        return FALSE;
    }
    plan->label_file = g_strdup(access(APPARMOR_EXEC, F_OK) == 0 ? APPARMOR_EXEC : LABEL_EXEC);
    plan->label_text = g_strdup_printf("exec %s", label);
    return TRUE;
}

static gboolean plan_selinux(SpawnPlan *plan, const ProcessFacts *own, GError **error)
{
    if (g_strcmp0(plan->wanted->label_kind, "selinux") != 0)
        return TRUE;
    if (access("/sys/fs/selinux/enforce", F_OK) != 0) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest runs in the SELinux context \"%s\"; this host has no SELinux",
                  plan->wanted->label);
        return FALSE;
    }
    plan->label_file = g_strdup(LABEL_EXEC);
    plan->label_text = g_strdup(plan->wanted->label);
    return TRUE;
}

/* ---- control groups ---- */

static gboolean open_cgroup(SpawnPlan *plan, const IdentityCgroup *cgroup, GError **error)
{
    g_autofree char *mount = identity_cgroup_mount("", cgroup->hierarchy);
    g_autofree char *folder = NULL, *procs = NULL;
    gboolean created;
    int fd;

    if (!mount) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest is in the control group %s%s%s, and that hierarchy (%s) is not "
                  "mounted here",
                  cgroup->hierarchy, *cgroup->hierarchy ? ":" : "", cgroup->path,
                  *cgroup->hierarchy ? cgroup->hierarchy : "version 2");
        return FALSE;
    }
    folder = g_strconcat(mount, cgroup->path, NULL);
    if (!identity_cgroup_prepare(cgroup, folder, &created, error))
        return FALSE;
    if (created)
        g_ptr_array_add(plan->created, g_strdup(folder));
    procs = g_build_filename(folder, "cgroup.procs", NULL);
    fd = open(procs, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        error_set_errno(error, errno, "open %s", procs);
        return FALSE;
    }
    g_array_append_val(plan->cgroup_fds, fd);
    return TRUE;
}

static void close_cgroups(SpawnPlan *plan)
{
    for (guint i = 0; i < plan->cgroup_fds->len; i++)
        close(g_array_index(plan->cgroup_fds, int, i));
    g_array_set_size(plan->cgroup_fds, 0);
    for (guint i = 0; i < plan->created->len; i++)
        rmdir(plan->created->pdata[i]);
    g_ptr_array_set_size(plan->created, 0);
}

static gboolean plan_cgroups(SpawnPlan *plan, const ProcessFacts *own, GError **error)
{
    for (guint i = 0; i < plan->wanted->cgroups->len; i++) {
        if (open_cgroup(plan, plan->wanted->cgroups->pdata[i], error))
            continue;
        close_cgroups(plan);
        return FALSE;
    }
    return TRUE;
}

/* ---- limits ---- */

static gboolean check_limit(guint resource, const IdentityLimit *wanted, const ProcessFacts *own,
                            GError **error)
{
    const IdentityLimit *have = &own->limits[resource];

    if (!wanted->told || !have->told || wanted->hard <= have->hard ||
        process_facts_has_capability(own, CAP_SYS_RESOURCE))
        return TRUE;
    error_set(error, VMFERRY_ERROR_PERMISSION,
              "the agent here may not raise the limit \"%s\" above its own %" G_GUINT64_FORMAT,
              identity_limit_name(resource), (guint64)have->hard);
    return FALSE;
}

/* The rest shows when it is set: what the OOM score may be is not to be seen. */
static gboolean plan_limits(SpawnPlan *plan, const ProcessFacts *own, GError **error)
{
    const ProcessIdentity *wanted = plan->wanted;

    plan->limits = wanted->limits;
    plan->set_nice = wanted->nice != own->nice;
    if (wanted->oom_score_adj != own->oom_score_adj)
        plan->oom_score = g_strdup_printf("%d", wanted->oom_score_adj);
    for (guint i = 0; i < RLIM_NLIMITS; i++)
        if (!check_limit(i, &wanted->limits[i], own, error))
            return FALSE;
    return TRUE;
}

/* ---- all of it ---- */

static const struct {
    Confinement kind;
    gboolean (*make)(SpawnPlan *plan, const ProcessFacts *own, GError **error);
} parts[] = {
    {CONFINEMENT_USER, plan_owner},      {CONFINEMENT_CAPABILITIES, plan_capabilities},
    {CONFINEMENT_SECCOMP, plan_seccomp}, {CONFINEMENT_NAMESPACES, plan_namespaces},
    {CONFINEMENT_NETNS, plan_netns},     {CONFINEMENT_APPARMOR, plan_apparmor},
    {CONFINEMENT_SELINUX, plan_selinux}, {CONFINEMENT_LIMITS, plan_limits},
    {CONFINEMENT_CGROUP, plan_cgroups},
};

static gboolean make_parts(SpawnPlan *plan, const ProcessFacts *own, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(parts); i++) {
        g_autoptr(GError) problem = NULL;

        if (parts[i].make(plan, own, &problem) || (plan->allowed & parts[i].kind))
            continue;
        g_propagate_prefixed_error(error, g_steal_pointer(&problem),
                                   "%s: ", confinement_name(parts[i].kind));
        return FALSE;
    }
    return TRUE;
}

SpawnPlan *spawn_plan_new(const ProcessIdentity *identity, guint allowed, gboolean starts_as_us,
                          GError **error)
{
    g_autoptr(SpawnPlan) plan = g_new0(SpawnPlan, 1);
    g_auto(ProcessFacts) own = {0};

    plan->groups = g_array_new(FALSE, FALSE, sizeof(gid_t));
    plan->cgroup_fds = g_array_new(FALSE, FALSE, sizeof(int));
    plan->created = g_ptr_array_new_with_free_func(g_free);
    plan->netns_fd = -1;
    plan->starts_as_us = starts_as_us;
    plan->allowed = allowed;
    if (!identity) {
        /* A guest is not protected from the OOM killer because the agent is. */
        plan->oom_score = g_strdup("0");
        plan->allowed = CONFINEMENT_LIMITS;
        return g_steal_pointer(&plan);
    }
    plan->wanted = process_identity_copy(identity);
    return process_facts_read("/proc/self", &own, error) && make_parts(plan, &own, error)
               ? g_steal_pointer(&plan)
               : NULL;
}

void spawn_plan_free(SpawnPlan *plan)
{
    if (!plan)
        return;
    close_cgroups(plan);
    fd_close(&plan->netns_fd);
    process_identity_free(plan->wanted);
    g_array_unref(plan->groups);
    g_array_unref(plan->cgroup_fds);
    g_ptr_array_unref(plan->created);
    g_free(plan->label_file);
    g_free(plan->label_text);
    g_free(plan->oom_score);
    g_free(plan);
}

void spawn_plan_get_start_owner(const SpawnPlan *plan, uid_t *ret_uid, gid_t *ret_gid)
{
    *ret_uid = plan->set_owner ? plan->uid : geteuid();
    *ret_gid = plan->set_owner ? plan->gid : getegid();
}

char **spawn_plan_keep(SpawnPlan *plan)
{
    GPtrArray *created = g_steal_pointer(&plan->created);

    plan->created = g_ptr_array_new_with_free_func(g_free);
    if (created->len == 0) {
        g_ptr_array_unref(created);
        return NULL;
    }
    g_ptr_array_add(created, NULL);
    return (char **)g_ptr_array_free(created, FALSE);
}

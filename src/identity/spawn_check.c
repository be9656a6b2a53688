/* Whether a process became what was told. */
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "identity/process_facts.h"
#include "identity/spawn_plan_private.h"

typedef struct {
    const SpawnPlan *plan;
    const ProcessFacts *facts;
    pid_t pid;
} Check;

/* ---- user and groups ---- */

static gboolean has_group(const GArray *groups, uint32_t gid)
{
    for (guint i = 0; i < groups->len; i++)
        if (g_array_index(groups, uint32_t, i) == gid)
            return TRUE;
    return FALSE;
}

static gboolean holds_all(const GArray *a, const GArray *b)
{
    for (guint i = 0; i < b->len; i++)
        if (!has_group(a, g_array_index(b, uint32_t, i)))
            return FALSE;
    return TRUE;
}

gboolean spawn_plan_has_owner(const SpawnPlan *plan, const ProcessStatus *status)
{
    for (guint i = 0; i < 4; i++)
        if (status->uids[i] != plan->uid || status->gids[i] != plan->gid)
            return FALSE;
    return holds_all(status->groups, plan->groups) && holds_all(plan->groups, status->groups);
}

static char *describe_groups(const GArray *groups)
{
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < groups->len; i++)
        g_string_append_printf(text, "%s%u", i ? "," : "", g_array_index(groups, uint32_t, i));
    return g_string_free(text, FALSE);
}

static gboolean check_owner(const Check *check, GError **error)
{
    const SpawnPlan *plan = check->plan;
    const ProcessStatus *status = &check->facts->status;
    g_autofree char *is = NULL, *should = NULL;

    if (spawn_plan_has_owner(plan, status))
        return TRUE;
    is = describe_groups(status->groups);
    should = describe_groups(plan->groups);
    error_set(error, VMFERRY_ERROR_REFUSED,
              "QEMU runs here as user %u, group %u, groups %s; by the names that the guest has "
              "where it comes from it should be user %u, group %u, groups %s",
              status->uids[0], status->gids[0], *is ? is : "(none)", (guint)plan->uid,
              (guint)plan->gid, *should ? should : "(none)");
    return FALSE;
}

/* ---- capabilities ---- */

static gboolean check_set(const char *what, uint64_t is, uint64_t should, GError **error)
{
    g_autofree char *missing = identity_capability_names(should & ~is);
    g_autofree char *extra = identity_capability_names(is & ~should);

    if (is == should)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "QEMU's %s capabilities are not what they were: %s%s%s%s%s", what,
              *missing ? "missing " : "", missing, *missing && *extra ? "; " : "",
              *extra ? "too many " : "", extra);
    return FALSE;
}

static gboolean check_capabilities(const Check *check, GError **error)
{
    const ProcessIdentity *wanted = check->plan->wanted;
    const IdentityCapabilities *is = &check->facts->status.capabilities;
    const IdentityCapabilities *should = &wanted->capabilities;

    if (!wanted->capabilities_told)
        return TRUE;
    /* The bounding set only takes away. */
    return check_set("permitted", is->permitted, should->permitted, error) &&
           check_set("effective", is->effective, should->effective, error) &&
           check_set("inheritable", is->inheritable, should->inheritable, error) &&
           check_set("ambient", is->ambient, should->ambient, error) &&
           check_set("bounding", is->bounding | should->bounding, should->bounding, error);
}

/* ---- the rest ---- */

static gboolean check_label(const Check *check, const char *kind, GError **error)
{
    const ProcessIdentity *wanted = check->plan->wanted;

    if (g_strcmp0(wanted->label_kind, kind) != 0 ||
        g_strcmp0(check->facts->label, wanted->label) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "QEMU is confined by \"%s\" here instead of \"%s\"",
              check->facts->label ? check->facts->label : "nothing", wanted->label);
    return FALSE;
}

static gboolean check_apparmor(const Check *check, GError **error)
{
    return check_label(check, "apparmor", error);
}

static gboolean check_selinux(const Check *check, GError **error)
{
    return check_label(check, "selinux", error);
}

static gboolean check_netns(const Check *check, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/ns/net", (int)check->pid);
    struct stat is, should;

    if (check->plan->netns_fd < 0)
        return TRUE;
    if (stat(path, &is) == 0 && fstat(check->plan->netns_fd, &should) == 0 &&
        is.st_ino == should.st_ino && is.st_dev == should.st_dev)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "QEMU is not in the network namespace \"%s\"",
              check->plan->wanted->netns);
    return FALSE;
}

static gboolean check_cgroups(const Check *check, GError **error)
{
    const GPtrArray *wanted = check->plan->wanted->cgroups;

    for (guint i = 0; i < wanted->len; i++) {
        const IdentityCgroup *cgroup = wanted->pdata[i];

        if (process_facts_is_in_cgroup(check->facts, cgroup))
            continue;
        error_set(error, VMFERRY_ERROR_REFUSED, "QEMU is not in the control group %s",
                  cgroup->path);
        return FALSE;
    }
    return TRUE;
}

/* A newer QEMU raises its own soft limit of open files. */
static gboolean check_limits(const Check *check, GError **error)
{
    const ProcessIdentity *wanted = check->plan->wanted;

    for (guint i = 0; i < RLIM_NLIMITS; i++) {
        const IdentityLimit *is = &check->facts->limits[i], *should = &wanted->limits[i];

        if (!should->told ||
            (is->hard == should->hard &&
             (is->soft == should->soft || (i == RLIMIT_NOFILE && is->soft == is->hard))))
            continue;
        error_set(error, VMFERRY_ERROR_REFUSED, "QEMU's limit \"%s\" is not what it was",
                  identity_limit_name(i));
        return FALSE;
    }
    if (check->facts->nice == wanted->nice && check->facts->oom_score_adj == wanted->oom_score_adj)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "QEMU has nice value %d and OOM score %d here instead of %d and %d",
              check->facts->nice, check->facts->oom_score_adj, wanted->nice, wanted->oom_score_adj);
    return FALSE;
}

static const struct {
    Confinement kind;
    gboolean (*holds)(const Check *check, GError **error);
} parts[] = {
    {CONFINEMENT_USER, check_owner},        {CONFINEMENT_CAPABILITIES, check_capabilities},
    {CONFINEMENT_APPARMOR, check_apparmor}, {CONFINEMENT_SELINUX, check_selinux},
    {CONFINEMENT_NETNS, check_netns},       {CONFINEMENT_CGROUP, check_cgroups},
    {CONFINEMENT_LIMITS, check_limits},
};

gboolean spawn_plan_check(const SpawnPlan *plan, pid_t pid, GError **error)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d", (int)pid);
    g_auto(ProcessFacts) facts = {0};
    Check check = {plan, &facts, pid};

    if (!plan->wanted)
        return TRUE;
    if (!process_facts_read(folder, &facts, error))
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(parts); i++) {
        if ((plan->allowed & parts[i].kind) || parts[i].holds(&check, error))
            continue;
        g_prefix_error(error, "%s: ", confinement_name(parts[i].kind));
        return FALSE;
    }
    return TRUE;
}

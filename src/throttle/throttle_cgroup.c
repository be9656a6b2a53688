#include "throttle/throttle_cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"

#define PERIOD_US 20000.0
#define LONGEST_PERIOD_US 1000000.0 /* the kernel's limits */
#define LEAST_QUOTA_US 1000.0
#define SMALL_FILE 4096
#define LONG_FILE (1u << 20) /* lists of threads */

typedef struct {
    char *folder;
    char *file;    /* its cpu.max */
    char *before;  /* what that held */
    char *written; /* the limit that it holds now; NULL: what it held before */
    guint threads; /* vCPU threads in it */
    double cpus;   /* what they could use before */
} Group;

struct CgroupLimit {
    const char *root;
    pid_t pid;
    Guard *guard;
    GPtrArray *groups; /* of Group */
    gboolean lowered;
};

static void group_free(gpointer data)
{
    Group *group = data;

    g_free(group->folder);
    g_free(group->file);
    g_free(group->before);
    g_free(group->written);
    g_free(group);
}

/* ---- numbers ---- */

char *cgroup_limit_format(double cpus, double run_share)
{
    double used = cpus * run_share;
    double period = CLAMP(LEAST_QUOTA_US / used, PERIOD_US, LONGEST_PERIOD_US);
    double quota = MAX(used * period, LEAST_QUOTA_US);

    return g_strdup_printf("%.0f %.0f", quota, period);
}

double cgroup_limit_parse(const char *text, double cpus)
{
    g_auto(GStrv) words = g_strsplit(text, " ", 3);
    guint64 quota, period;

    if (g_strv_length(words) != 2 ||
        !g_ascii_string_to_unsigned(g_strchomp(words[1]), 10, 1, G_MAXUINT32, &period, NULL))
        return -1;
    if (strcmp(words[0], "max") == 0)
        return cpus;
    if (!g_ascii_string_to_unsigned(words[0], 10, 1, G_MAXINT64, &quota, NULL))
        return -1;
    return MIN(cpus, (double)quota / (double)period);
}

/* ---- finding the groups ---- */

/* The path behind "0::" in a /proc/…/cgroup file: the group in version 2. */
static char *read_group_path(const char *file, GError **error)
{
    size_t length;
    g_autofree char *text = file_read(file, SMALL_FILE * 4, &length, error);
    g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;

    for (char **line = lines; line && *line; line++)
        if (g_str_has_prefix(*line, "0::/"))
            return g_strdup(*line + strlen("0::"));
    if (lines)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s names no control group of version 2", file);
    return NULL;
}

/* Where version 2 is mounted: alone, or beside version 1. */
static char *find_mount(const char *root)
{
    static const char *const places[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};

    for (guint i = 0; i < G_N_ELEMENTS(places); i++) {
        g_autofree char *sign = g_strconcat(root, places[i], "/cgroup.controllers", NULL);

        if (g_file_test(sign, G_FILE_TEST_EXISTS))
            return g_strconcat(root, places[i], NULL);
    }
    return NULL;
}

static Group *find_group(CgroupLimit *limit, const char *folder)
{
    Group *group;

    for (guint i = 0; i < limit->groups->len; i++) {
        group = limit->groups->pdata[i];
        if (strcmp(group->folder, folder) == 0)
            return group;
    }
    group = g_new0(Group, 1);
    group->folder = g_strdup(folder);
    group->file = g_strconcat(folder, "/cpu.max", NULL);
    g_ptr_array_add(limit->groups, group);
    return group;
}

static gboolean add_thread(CgroupLimit *limit, const char *mount, pid_t thread, GError **error)
{
    g_autofree char *file =
        g_strdup_printf("%s/proc/%d/task/%d/cgroup", limit->root, (int)limit->pid, (int)thread);
    g_autofree char *path = read_group_path(file, error);
    g_autofree char *folder = NULL;

    if (!path)
        return FALSE;
    if (strcmp(path, "/") == 0 || g_str_has_prefix(path, "/..")) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest has no control group for itself: it is in %s", path);
        return FALSE;
    }
    folder = g_strconcat(mount, path, NULL);
    find_group(limit, folder)->threads++;
    return TRUE;
}

/* ---- making sure of one ---- */

static gboolean has_groups_below(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        if (g_file_test(path, G_FILE_TEST_IS_DIR))
            return TRUE;
    }
    return FALSE;
}

/* All threads in it must be the VMM's. */
static gboolean check_members(CgroupLimit *limit, const Group *group, GError **error)
{
    g_autofree char *file = g_strconcat(group->folder, "/cgroup.threads", NULL);
    size_t length;
    g_autofree char *text = file_read(file, LONG_FILE, &length, error);
    g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;

    if (!text)
        return FALSE;
    for (char **line = lines; *line; line++) {
        g_autofree char *task =
            g_strdup_printf("%s/proc/%d/task/%s", limit->root, (int)limit->pid, *line);

        if (**line && !g_file_test(task, G_FILE_TEST_IS_DIR)) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                      "the guest shares its control group %s with other processes", group->folder);
            return FALSE;
        }
    }
    if (has_groups_below(group->folder)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "control group %s has groups below it",
                  group->folder);
        return FALSE;
    }
    return TRUE;
}

static gboolean write_limit(const Group *group, const char *text, GError **error)
{
    autofd int fd = open(group->file, O_WRONLY | O_TRUNC | O_CLOEXEC);

    if (fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text))
        return TRUE;
    error_set_errno(error, errno, "%s: write \"%s\"", group->file, text);
    return FALSE;
}

/* Writing what it holds changes nothing, and shows that it can be written. */
static gboolean probe(Group *group, GError **error)
{
    size_t length;

    group->before = file_read(group->file, SMALL_FILE, &length, error);
    if (!group->before)
        return FALSE;
    g_strchomp(group->before);
    group->cpus = cgroup_limit_parse(group->before, group->threads);
    if (group->cpus <= 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s holds \"%s\"", group->file, group->before);
        return FALSE;
    }
    return write_limit(group, group->before, error);
}

static gboolean find_groups(CgroupLimit *limit, const GArray *threads, GError **error)
{
    g_autofree char *mount = find_mount(limit->root);

    if (!mount) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "this host has no control groups of version 2");
        return FALSE;
    }
    for (guint i = 0; i < threads->len; i++)
        if (!add_thread(limit, mount, g_array_index(threads, pid_t, i), error))
            return FALSE;
    for (guint i = 0; i < limit->groups->len; i++) {
        Group *group = limit->groups->pdata[i];

        if (!check_members(limit, group, error) || !probe(group, error))
            return FALSE;
    }
    return TRUE;
}

CgroupLimit *cgroup_limit_new(const char *root, pid_t pid, const GArray *threads, Guard *guard,
                              GError **error)
{
    g_autoptr(CgroupLimit) limit = g_new0(CgroupLimit, 1);

    limit->root = root;
    limit->pid = pid;
    limit->guard = guard;
    limit->groups = g_ptr_array_new_with_free_func(group_free);
    return find_groups(limit, threads, error) ? g_steal_pointer(&limit) : NULL;
}

/* ---- slowing ---- */

static gboolean arm_guard(CgroupLimit *limit, GError **error)
{
    for (guint i = 0; i < limit->groups->len; i++) {
        const Group *group = limit->groups->pdata[i];
        GuardAction action;

        guard_action_begin(&action, 1);
        guard_action_add_write(&action, group->file, group->before);
        if (!guard_arm_also(limit->guard, GUARD_SLOT_LIMITS, &action, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean lower(CgroupLimit *limit, double run_share, GError **error)
{
    for (guint i = 0; i < limit->groups->len; i++) {
        Group *group = limit->groups->pdata[i];
        g_autofree char *text = cgroup_limit_format(group->cpus, run_share);

        if (g_strcmp0(text, group->written) == 0)
            continue;
        if (!write_limit(group, text, error))
            return FALSE;
        g_free(group->written);
        group->written = g_steal_pointer(&text);
    }
    return TRUE;
}

gboolean cgroup_limit_set(CgroupLimit *limit, double run_share, GError **error)
{
    gboolean armed = limit->lowered || arm_guard(limit, error);

    if (armed) {
        limit->lowered = TRUE;
        if (lower(limit, run_share, error))
            return TRUE;
        cgroup_limit_lift(limit, NULL);
    } else {
        guard_disarm(limit->guard, GUARD_SLOT_LIMITS, NULL);
    }
    return FALSE;
}

gboolean cgroup_limit_lift(CgroupLimit *limit, GError **error)
{
    g_autoptr(GError) first = NULL;

    if (!limit->lowered)
        return TRUE;
    for (guint i = 0; i < limit->groups->len; i++) {
        Group *group = limit->groups->pdata[i];
        g_autoptr(GError) problem = NULL;

        g_clear_pointer(&group->written, g_free);
        /* A group goes away with its last process. */
        if (!write_limit(group, group->before, &problem) &&
            !error_is(problem, VMFERRY_ERROR_NOT_FOUND) && !first)
            first = g_steal_pointer(&problem);
    }
    if (first) { /* the guard may still do it, later */
        g_propagate_prefixed_error(error, g_steal_pointer(&first),
                                   "the guest's CPU limit could not be set back: ");
        return FALSE;
    }
    limit->lowered = FALSE;
    return guard_disarm(limit->guard, GUARD_SLOT_LIMITS, error);
}

void cgroup_limit_free(CgroupLimit *limit)
{
    if (!limit)
        return;
    cgroup_limit_lift(limit, NULL);
    g_ptr_array_unref(limit->groups);
    g_free(limit);
}

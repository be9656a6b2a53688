#include "identity/identity_parse.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

#define LIMIT_NAME_BYTES 26 /* the columns of /proc/PID/limits */
#define MAX_LINES 4096

/* What follows "KEY:" at the beginning of a line, up to the line's end; NULL
 * where there is no such line.  Free with g_free(). */
static char *find_field(const char *text, const char *key)
{
    size_t length = strlen(key);

    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0 && line[length] == ':') {
            const char *value = line + length + 1;

            return g_strstrip(g_strndup(value, strcspn(value, "\n")));
        }
    }
    return NULL;
}

static gboolean bad_field(const char *key, GError **error)
{
    error_set(error, VMFERRY_ERROR_INVALID, "/proc tells no \"%s\" as it should", key);
    return FALSE;
}

static gboolean read_number(const char *text, const char *key, guint64 max, guint64 *ret,
                            GError **error)
{
    g_autofree char *value = find_field(text, key);

    return (value && g_ascii_string_to_unsigned(value, 10, 0, max, ret, NULL)) ||
           bad_field(key, error);
}

/* As read_number(), 0 where an older kernel has no such line. */
static gboolean read_newer_number(const char *text, const char *key, guint *ret, GError **error)
{
    g_autofree char *value = find_field(text, key);
    guint64 number = 0;

    if (value && !g_ascii_string_to_unsigned(value, 10, 0, G_MAXUINT, &number, NULL))
        return bad_field(key, error);
    *ret = (guint)number;
    return TRUE;
}

static gboolean read_ids(const char *text, const char *key, uint32_t ret[4], GError **error)
{
    g_autofree char *value = find_field(text, key);
    g_auto(GStrv) words = value ? g_strsplit(value, "\t", 5) : NULL;

    if (!words || g_strv_length(words) != 4)
        return bad_field(key, error);
    for (guint i = 0; i < 4; i++) {
        guint64 id;

        if (!g_ascii_string_to_unsigned(words[i], 10, 0, G_MAXUINT32, &id, NULL))
            return bad_field(key, error);
        ret[i] = (uint32_t)id;
    }
    return TRUE;
}

static gboolean read_groups(const char *text, GArray *groups, GError **error)
{
    g_autofree char *value = find_field(text, "Groups");
    g_auto(GStrv) words = value ? g_strsplit(value, " ", -1) : NULL;

    for (char **word = words; word && *word; word++) {
        guint64 id;
        uint32_t group;

        if (!**word)
            continue;
        if (!g_ascii_string_to_unsigned(*word, 10, 0, G_MAXUINT32, &id, NULL))
            return bad_field("Groups", error);
        group = (uint32_t)id;
        g_array_append_val(groups, group);
    }
    return words != NULL || bad_field("Groups", error);
}

static gboolean read_set(const char *text, const char *key, uint64_t *ret, GError **error)
{
    g_autofree char *value = find_field(text, key);
    guint64 set;

    if (!value || !g_ascii_string_to_unsigned(value, 16, 0, G_MAXUINT64, &set, NULL))
        return bad_field(key, error);
    *ret = set;
    return TRUE;
}

static gboolean read_capabilities(const char *text, IdentityCapabilities *ret, GError **error)
{
    return read_set(text, "CapInh", &ret->inheritable, error) &&
           read_set(text, "CapPrm", &ret->permitted, error) &&
           read_set(text, "CapEff", &ret->effective, error) &&
           read_set(text, "CapBnd", &ret->bounding, error) &&
           read_set(text, "CapAmb", &ret->ambient, error);
}

static gboolean read_status(const char *text, ProcessStatus *ret, GError **error)
{
    guint64 parent;
    guint no_new_privs;

    if (!read_number(text, "PPid", G_MAXINT32, &parent, error) ||
        !read_ids(text, "Uid", ret->uids, error) || !read_ids(text, "Gid", ret->gids, error) ||
        !read_groups(text, ret->groups, error) ||
        !read_capabilities(text, &ret->capabilities, error) ||
        !read_newer_number(text, "NoNewPrivs", &no_new_privs, error) ||
        !read_newer_number(text, "Seccomp", &ret->seccomp, error) ||
        !read_newer_number(text, "Seccomp_filters", &ret->seccomp_filters, error))
        return FALSE;
    ret->parent = (guint)parent;
    ret->no_new_privs = no_new_privs != 0;
    return TRUE;
}

gboolean process_status_parse(const char *text, ProcessStatus *ret, GError **error)
{
    *ret = (ProcessStatus){.groups = g_array_new(FALSE, FALSE, sizeof(uint32_t))};
    if (read_status(text, ret, error))
        return TRUE;
    process_status_clear(ret);
    return FALSE;
}

void process_status_clear(ProcessStatus *status)
{
    g_clear_pointer(&status->groups, g_array_unref);
}

/* ---- limits ---- */

static const struct {
    const char *name;
    guint resource;
} limit_lines[] = {
    {"Max cpu time", RLIMIT_CPU},
    {"Max file size", RLIMIT_FSIZE},
    {"Max data size", RLIMIT_DATA},
    {"Max stack size", RLIMIT_STACK},
    {"Max core file size", RLIMIT_CORE},
    {"Max resident set", RLIMIT_RSS},
    {"Max processes", RLIMIT_NPROC},
    {"Max open files", RLIMIT_NOFILE},
    {"Max locked memory", RLIMIT_MEMLOCK},
    {"Max address space", RLIMIT_AS},
    {"Max file locks", RLIMIT_LOCKS},
    {"Max pending signals", RLIMIT_SIGPENDING},
    {"Max msgqueue size", RLIMIT_MSGQUEUE},
    {"Max nice priority", RLIMIT_NICE},
    {"Max realtime priority", RLIMIT_RTPRIO},
    {"Max realtime timeout", RLIMIT_RTTIME},
};

static gboolean parse_limit(const char *word, uint64_t *ret)
{
    guint64 number;

    if (strcmp(word, "unlimited") == 0) {
        *ret = RLIM_INFINITY;
        return TRUE;
    }
    if (!g_ascii_string_to_unsigned(word, 10, 0, G_MAXUINT64, &number, NULL))
        return FALSE;
    *ret = number;
    return TRUE;
}

/* "Max open files            1024                 4096                 files" */
static gboolean parse_limit_line(const char *line, IdentityLimit limits[RLIM_NLIMITS])
{
    g_autofree char *name = g_strchomp(g_strndup(line, LIMIT_NAME_BYTES));
    char soft[32], hard[32];

    for (guint i = 0; i < G_N_ELEMENTS(limit_lines); i++) {
        IdentityLimit *limit = &limits[limit_lines[i].resource];

        if (strcmp(name, limit_lines[i].name) != 0)
            continue;
        limit->told = strlen(line) > LIMIT_NAME_BYTES &&
                      sscanf(line + LIMIT_NAME_BYTES, "%31s %31s", soft, hard) == 2 &&
                      parse_limit(soft, &limit->soft) && parse_limit(hard, &limit->hard);
        return limit->told;
    }
    return TRUE;
}

gboolean process_limits_parse(const char *text, IdentityLimit ret[RLIM_NLIMITS], GError **error)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", MAX_LINES);

    memset(ret, 0, RLIM_NLIMITS * sizeof *ret);
    for (char **line = lines; *line; line++) {
        if (parse_limit_line(*line, ret))
            continue;
        error_set(error, VMFERRY_ERROR_INVALID, "/proc tells a limit as \"%.80s\"", *line);
        return FALSE;
    }
    return TRUE;
}

/* ---- control groups ---- */

GPtrArray *process_cgroups_parse(const char *text, GError **error)
{
    g_autoptr(GPtrArray) cgroups =
        g_ptr_array_new_with_free_func((GDestroyNotify)identity_cgroup_free);
    g_auto(GStrv) lines = g_strsplit(text, "\n", MAX_LINES);

    for (char **line = lines; *line && **line; line++) {
        g_auto(GStrv) parts = g_strsplit(*line, ":", 3);

        if (g_strv_length(parts) != 3 || parts[2][0] != '/') {
            error_set(error, VMFERRY_ERROR_INVALID, "/proc tells a control group as \"%.200s\"",
                      *line);
            return NULL;
        }
        if (!strchr(parts[1], '='))
            g_ptr_array_add(cgroups, identity_cgroup_new(parts[1], parts[2]));
    }
    return g_steal_pointer(&cgroups);
}

gboolean identity_cgroup_is_of_session(const char *path)
{
    return g_str_has_prefix(path, "/user.slice/") && g_str_has_suffix(path, ".scope");
}

const char *identity_cgroup_limit_default(const char *file)
{
    static const struct {
        const char *file, *text;
    } defaults[] = {
        {"memory.low", "0"}, {"cpu.max", "max 100000"}, {"cpu.weight", "100"},
        {"cpuset.cpus", ""}, {"cpuset.mems", ""},       {"io.weight", "default 100"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(defaults); i++)
        if (strcmp(file, defaults[i].file) == 0)
            return defaults[i].text;
    return "max";
}

char *identity_cgroup_limit_parse(const char *file, const char *text)
{
    /* What io.weight says of single devices means nothing elsewhere. */
    g_autofree char *line = g_strstrip(g_strndup(text, strcspn(text, "\n")));

    return strcmp(line, identity_cgroup_limit_default(file)) == 0 ? NULL : g_steal_pointer(&line);
}

/* ---- the rest ---- */

gboolean process_nice_parse(const char *text, int *ret, GError **error)
{
    /* The name is in parentheses and may hold anything, also ") ". */
    const char *after_name = strrchr(text, ')');
    g_auto(GStrv) fields = NULL;
    gint64 number;

    if (after_name && after_name[1] == ' ')
        fields = g_strsplit(after_name + 2, " ", 18);
    if (!fields || g_strv_length(fields) < 18 ||
        !g_ascii_string_to_signed(fields[16], 10, -20, 19, &number, NULL))
        return bad_field("nice", error);
    *ret = (int)number;
    return TRUE;
}

char *process_label_parse(const char *text, const char **ret_kind)
{
    g_autofree char *label = g_strstrip(g_strndup(text, strcspn(text, "\n")));
    char *mode = g_str_has_suffix(label, ")") ? strstr(label, " (") : NULL;

    /* An SELinux context is user:role:type[:level]; a profile has its mode
     * behind it, and says "unconfined" where there is none. */
    if (!mode && strchr(label, ':') && strchr(strchr(label, ':') + 1, ':')) {
        *ret_kind = "selinux";
        return g_steal_pointer(&label);
    }
    if (mode)
        *mode = '\0';
    if (!*label || strcmp(label, "unconfined") == 0)
        return NULL;
    *ret_kind = "apparmor";
    return g_steal_pointer(&label);
}

#include "identity/identity_cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "identity/identity_parse.h"

#define MOUNTS_LIMIT (4u << 20)
#define FILE_LIMIT 65536

/* TRUE where the last field of a version 1 mount ("rw,cpu,cpuacct") has just
 * these controllers. */
static gboolean has_controllers(const char *options, const char *hierarchy)
{
    g_auto(GStrv) wanted = g_strsplit(hierarchy, ",", -1);
    g_auto(GStrv) given = g_strsplit(options, ",", -1);

    for (char **word = wanted; *word; word++)
        if (!g_strv_contains((const char *const *)given, *word))
            return FALSE;
    return TRUE;
}

/* One line of mountinfo: "… root mount-point options [tags] - type source options".
 * Only a whole hierarchy counts (root "/"); free with g_free(). */
static char *match_mount(const char *line, const char *hierarchy)
{
    const char *separator = strstr(line, " - ");
    g_auto(GStrv) fields = g_strsplit(line, " ", 6);
    g_auto(GStrv) kind = separator ? g_strsplit(separator + 3, " ", 3) : NULL;

    if (!kind || g_strv_length(kind) != 3 || g_strv_length(fields) != 6 ||
        strcmp(fields[3], "/") != 0)
        return NULL;
    if (*hierarchy ? strcmp(kind[0], "cgroup") == 0 && has_controllers(kind[2], hierarchy)
                   : strcmp(kind[0], "cgroup2") == 0)
        return g_strcompress(fields[4]); /* blanks are written as \040 */
    return NULL;
}

char *identity_cgroup_mount(const char *root, const char *hierarchy)
{
    g_autofree char *path = g_strconcat(root, "/proc/self/mountinfo", NULL);
    g_autofree char *text = file_read(path, MOUNTS_LIMIT, NULL, NULL);
    g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;

    for (char **line = lines; line && *line; line++) {
        g_autofree char *mount = match_mount(*line, hierarchy);

        if (mount)
            return g_strconcat(root, mount, NULL);
    }
    return NULL;
}

/* What the file says, one line; NULL where there is no such file. */
static char *read_limit(const char *folder, const char *file)
{
    g_autofree char *path = g_build_filename(folder, file, NULL);
    char *text = file_read(path, FILE_LIMIT, NULL, NULL);

    if (text)
        text[strcspn(text, "\n")] = '\0';
    return text;
}

void identity_cgroup_read_limits(IdentityCgroup *cgroup, const char *folder)
{
    for (const char *const *file = identity_cgroup_files; *file; file++) {
        g_autofree char *text = read_limit(folder, *file);
        g_autofree char *limit = text ? identity_cgroup_limit_parse(*file, text) : NULL;

        if (limit)
            g_ptr_array_add(cgroup->limits, identity_cgroup_limit_new(*file, limit));
    }
}

/* cgroup.events counts the groups below it, too. */
static gboolean is_empty(const char *folder)
{
    g_autofree char *procs = g_build_filename(folder, "cgroup.procs", NULL);
    g_autofree char *events = g_build_filename(folder, "cgroup.events", NULL);
    g_autofree char *members = file_read(procs, MOUNTS_LIMIT, NULL, NULL);
    g_autofree char *populated = file_read(events, FILE_LIMIT, NULL, NULL);

    return (!members || !*members) && !(populated && strstr(populated, "populated 1"));
}

static gboolean write_limit(const char *folder, const char *file, const char *text, GError **error)
{
    g_autofree char *path = g_build_filename(folder, file, NULL);
    autofd int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    const char *line = *text ? text : "\n"; /* no write at all would change nothing */
    ssize_t length = (ssize_t)strlen(line);

    if (fd < 0 && errno == ENOENT) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "there is no %s: enable its controller in cgroup.subtree_control of the folder "
                  "above",
                  path);
        return FALSE;
    }
    if (fd >= 0 && write(fd, line, (size_t)length) == length)
        return TRUE;
    error_set_errno(error, errno, "%s: write \"%s\"", path, text);
    return FALSE;
}

static gboolean refuse_limit(const char *folder, const char *file, const char *is,
                             const char *should, GError **error)
{
    error_set(error, VMFERRY_ERROR_REFUSED,
              "%s/%s is \"%s\" here and should be \"%s\"; other processes are in that group, so it "
              "is not changed",
              folder, file, is ? is : "", should);
    return FALSE;
}

static const char *find_limit(const IdentityCgroup *cgroup, const char *file)
{
    for (guint i = 0; i < cgroup->limits->len; i++) {
        const IdentityCgroupLimit *limit = cgroup->limits->pdata[i];

        if (strcmp(limit->file, file) == 0)
            return limit->text;
    }
    return NULL;
}

/* A file that is not there limits nothing; one that holds the default stays. */
static gboolean set_limit(const IdentityCgroup *cgroup, const char *folder, const char *file,
                          gboolean empty, GError **error)
{
    const char *named = find_limit(cgroup, file);
    const char *wanted = named ? named : identity_cgroup_limit_default(file);
    g_autofree char *is = read_limit(folder, file);
    g_autofree char *own = is && !named ? identity_cgroup_limit_parse(file, is) : NULL;

    if (!named && !own)
        return TRUE;
    if (empty)
        return write_limit(folder, file, wanted, error);
    return g_strcmp0(is, wanted) == 0 || refuse_limit(folder, file, is, wanted, error);
}

static gboolean create(const char *folder, gboolean *ret_created, GError **error)
{
    *ret_created = mkdir(folder, 0755) == 0;
    if (*ret_created || errno == EEXIST)
        return TRUE;
    error_set_errno(error, errno, "make the control group %s (the one above it must be there)",
                    folder);
    return FALSE;
}

gboolean identity_cgroup_prepare(const IdentityCgroup *cgroup, const char *folder,
                                 gboolean *ret_created, GError **error)
{
    gboolean empty;

    *ret_created = FALSE;
    /* Version 1 keeps limits in files of many kinds: whoever made the group there
     * has to make it here. */
    if (*cgroup->hierarchy && !g_file_test(folder, G_FILE_TEST_IS_DIR)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "there is no %s here: make it, with its limits (version 1)", folder);
        return FALSE;
    }
    if (!*cgroup->hierarchy && !create(folder, ret_created, error))
        return FALSE;
    empty = is_empty(folder);
    /* Version 1 keeps its limits in other files, which are left as they are. */
    for (const char *const *file = identity_cgroup_files; *file && !*cgroup->hierarchy; file++) {
        if (set_limit(cgroup, folder, *file, empty, error))
            continue;
        if (*ret_created)
            rmdir(folder);
        return FALSE;
    }
    return TRUE;
}

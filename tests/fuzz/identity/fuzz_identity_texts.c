/* Texts of /proc: whatever they hold, what is read of them can be told. */
#include <stdlib.h>
#include <string.h>

#include "identity/identity_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_status(const char *text)
{
    g_auto(ProcessStatus) status = {0};

    (void)process_status_parse(text, &status, NULL);
}

static void read_rest(const char *text)
{
    IdentityLimit limits[RLIM_NLIMITS];
    const char *kind = NULL;
    g_autofree char *label = process_label_parse(text, &kind);
    int nice;

    (void)process_limits_parse(text, limits, NULL);
    if ((label == NULL) != (kind == NULL) || (label && !*label))
        abort();
    if (process_nice_parse(text, &nice, NULL) && (nice < -20 || nice > 19))
        abort();
}

static void read_cgroups(const char *text)
{
    g_autoptr(GPtrArray) cgroups = process_cgroups_parse(text, NULL);

    for (guint i = 0; cgroups && i < cgroups->len; i++) {
        const IdentityCgroup *cgroup = cgroups->pdata[i];

        if (cgroup->path[0] != '/' || strchr(cgroup->hierarchy, '='))
            abort();
        (void)identity_cgroup_is_of_session(cgroup->path);
    }
    for (const char *const *file = identity_cgroup_files; *file; file++)
        g_free(identity_cgroup_limit_parse(*file, text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);

    read_status(text);
    read_rest(text);
    read_cgroups(text);
    return 0;
}

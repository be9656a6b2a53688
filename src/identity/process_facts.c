#include "identity/process_facts.h"

#include <string.h>

#include "base/error.h"
#include "base/fd.h"

#define TEXT_LIMIT (1u << 20)

static char *read_text(const char *folder, const char *file, GError **error)
{
    g_autofree char *path = g_strconcat(folder, "/", file, NULL);

    return file_read(path, TEXT_LIMIT, NULL, error);
}

static gboolean read_status(const char *folder, ProcessFacts *facts, GError **error)
{
    g_autofree char *text = read_text(folder, "status", error);

    return text && process_status_parse(text, &facts->status, error);
}

static gboolean read_limits(const char *folder, ProcessFacts *facts, GError **error)
{
    g_autofree char *text = read_text(folder, "limits", error);

    return text && process_limits_parse(text, facts->limits, error);
}

/* A kernel without control groups has no such file. */
static gboolean read_cgroups(const char *folder, ProcessFacts *facts, GError **error)
{
    g_autofree char *text = read_text(folder, "cgroup", NULL);

    facts->cgroups = process_cgroups_parse(text ? text : "", error);
    return facts->cgroups != NULL;
}

/* A kernel without a security module refuses to tell. */
static void read_label(const char *folder, ProcessFacts *facts)
{
    g_autofree char *text = read_text(folder, "attr/current", NULL);
    const char *kind = NULL;

    facts->label = text ? process_label_parse(text, &kind) : NULL;
    facts->label_kind = g_strdup(kind);
}

static gboolean read_priorities(const char *folder, ProcessFacts *facts, GError **error)
{
    g_autofree char *score = read_text(folder, "oom_score_adj", error);
    g_autofree char *stat = score ? read_text(folder, "stat", error) : NULL;
    gint64 number;

    if (!stat)
        return FALSE;
    if (!g_ascii_string_to_signed(g_strchomp(score), 10, -1000, 1000, &number, NULL)) {
        error_set(error, VMFERRY_ERROR_INVALID, "/proc tells the OOM score as \"%.32s\"", score);
        return FALSE;
    }
    facts->oom_score_adj = (int)number;
    return process_nice_parse(stat, &facts->nice, error);
}

gboolean process_facts_read(const char *folder, ProcessFacts *ret, GError **error)
{
    *ret = (ProcessFacts){0};
    read_label(folder, ret);
    if (read_status(folder, ret, error) && read_limits(folder, ret, error) &&
        read_cgroups(folder, ret, error) && read_priorities(folder, ret, error))
        return TRUE;
    process_facts_clear(ret);
    return FALSE;
}

void process_facts_clear(ProcessFacts *facts)
{
    process_status_clear(&facts->status);
    g_clear_pointer(&facts->cgroups, g_ptr_array_unref);
    g_clear_pointer(&facts->label_kind, g_free);
    g_clear_pointer(&facts->label, g_free);
}

gboolean process_facts_has_capability(const ProcessFacts *facts, guint bit)
{
    return facts->status.capabilities.effective >> bit & 1;
}

gboolean process_facts_is_in_cgroup(const ProcessFacts *facts, const IdentityCgroup *cgroup)
{
    for (guint i = 0; i < facts->cgroups->len; i++) {
        const IdentityCgroup *own = facts->cgroups->pdata[i];

        if (strcmp(own->hierarchy, cgroup->hierarchy) == 0 && strcmp(own->path, cgroup->path) == 0)
            return TRUE;
    }
    return FALSE;
}

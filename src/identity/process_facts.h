/* What the kernel tells of a process's rights and limits, as it tells it. */
#pragma once

#include "identity/identity_parse.h"

typedef struct {
    ProcessStatus status;
    IdentityLimit limits[RLIM_NLIMITS]; /* all told */
    GPtrArray *cgroups;                 /* of IdentityCgroup, without limits */
    char *label_kind, *label;           /* NULL where it has none that confines */
    int oom_score_adj;
    int nice;
} ProcessFacts;

/* *folder* is "/proc/self" or "/proc/PID". */
gboolean process_facts_read(const char *folder, ProcessFacts *ret, GError **error);
void process_facts_clear(ProcessFacts *facts);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ProcessFacts, process_facts_clear)

gboolean process_facts_has_capability(const ProcessFacts *facts, guint bit);

/* TRUE where it is in this group of this hierarchy. */
gboolean process_facts_is_in_cgroup(const ProcessFacts *facts, const IdentityCgroup *cgroup);

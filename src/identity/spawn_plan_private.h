/* What spawn_plan.c prepares and spawn.c does with it, in the child. */
#pragma once

#include "identity/identity_parse.h"
#include "identity/spawn_plan.h"

struct SpawnPlan {
    ProcessIdentity *wanted; /* NULL: as we are */
    guint allowed;           /* Confinement that may be left out */
    gboolean starts_as_us;

    gboolean set_owner; /* before exec; not where these are ours already */
    uid_t uid;          /* who runs it in the end; known unless that may be left out */
    gid_t gid;
    GArray *groups; /* of gid_t */

    gboolean set_capabilities;
    IdentityCapabilities capabilities; /* as the child sets them before exec */
    guint last_capability;

    GArray *cgroup_fds; /* of int: cgroup.procs of each group, open for writing */
    GPtrArray *created; /* of char *: folders of groups that were made */
    int netns_fd;       /* -1: stays in ours */
    char *label_file;   /* where the label is written, and what; NULL: none */
    char *label_text;
    const IdentityLimit *limits; /* of *wanted*; NULL: as ours */
    char *oom_score;             /* text for oom_score_adj; NULL: stays as it is */
    gboolean set_nice;
};

/* TRUE where a process with this status is run by just these. */
gboolean spawn_plan_has_owner(const SpawnPlan *plan, const ProcessStatus *status);

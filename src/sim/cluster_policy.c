#include "sim/cluster_policy.h"

#include <string.h>
#include <time.h>

#include "sim/cluster_rivals.h"

static const char *const names[CLUSTER_POLICIES] = {"engine",    "threshold",    "proxmox",
                                                    "sandpiper", "sandpiper-5s", "none"};

const char *cluster_policy_name(ClusterPolicyKind kind)
{
    return kind < CLUSTER_POLICIES ? names[kind] : "unknown";
}

gboolean cluster_policy_from_name(const char *name, ClusterPolicyKind *ret)
{
    for (guint kind = 0; kind < CLUSTER_POLICIES; kind++)
        if (strcmp(names[kind], name) == 0) {
            *ret = (ClusterPolicyKind)kind;
            return TRUE;
        }
    return FALSE;
}

/* A move that waits for another one. */
typedef struct {
    ClusterPolicyMove move;
    ClusterPolicyMove after;
} Waiting;

struct ClusterPolicy {
    ClusterPolicyKind kind;
    ClusterThresholds thresholds;
    ClusterLimits limits;
    guint rounds;
    GArray *waiting;
    void (*explain)(double now_ms, const char *text);
};

ClusterPolicy *cluster_policy_new(ClusterPolicyKind kind, const ClusterWorldOptions *options)
{
    ClusterPolicy *policy = g_new0(ClusterPolicy, 1);

    policy->kind = kind;
    policy->thresholds = cluster_thresholds_default();
    policy->limits = cluster_limits_default();
    policy->limits.moves = MAX(policy->limits.moves, options->hosts / 8);
    if (options->kind == CLUSTER_TRACE_LEAK)
        policy->limits.memory_overcommit = 1.5;
    policy->waiting = g_array_new(FALSE, FALSE, sizeof(Waiting));
    return policy;
}

void cluster_policy_free(ClusterPolicy *policy)
{
    if (!policy)
        return;
    g_array_unref(policy->waiting);
    g_free(policy);
}

void cluster_policy_set_explain(ClusterPolicy *policy,
                                void (*explain)(double now_ms, const char *text))
{
    policy->explain = explain;
}

/* ---- ours ---- */

/* What waited for a move that has ended begins, if it still can. */
static void begin_waiting(ClusterPolicy *policy, const ClusterView *view, GArray *moves)
{
    for (guint i = 0; i < policy->waiting->len;) {
        Waiting waiting = g_array_index(policy->waiting, Waiting, i);
        const ClusterGuest *before = &view->guests[waiting.after.guest];

        if (before->to != CLUSTER_NONE) {
            i++;
            continue;
        }
        g_array_remove_index(policy->waiting, i);
        if (before->host == waiting.after.to &&
            cluster_move_check(view, &policy->limits, waiting.move.guest, waiting.move.to, NULL) ==
                CLUSTER_WHY_NOTHING)
            g_array_append_val(moves, waiting.move);
    }
}

static void explain(const ClusterPolicy *policy, const ClusterView *view, const GArray *hotspots,
                    const ClusterPlan *plan)
{
    for (guint i = 0; i < plan->answers->len; i++) {
        g_autofree char *text =
            cluster_answer_explain(view, &g_array_index(plan->answers, ClusterAnswer, i));

        policy->explain(view->now_ms, text);
    }
    for (guint i = 0; i < plan->moves->len; i++) {
        g_autofree char *text = cluster_move_explain(view, &policy->thresholds, hotspots, plan, i);

        policy->explain(view->now_ms, text);
    }
}

static void decide_engine(ClusterPolicy *policy, const ClusterView *view, GArray *moves)
{
    g_autoptr(GArray) hotspots = g_array_new(FALSE, FALSE, sizeof(ClusterHotspot));
    g_autoptr(ClusterPlan) plan = NULL;

    begin_waiting(policy, view, moves);
    if (moves->len > 0)
        return;
    cluster_find_hotspots(view, &policy->thresholds, hotspots);
    plan = cluster_plan_make(view, &policy->thresholds, &policy->limits, hotspots);
    for (guint i = 0; i < plan->moves->len; i++) {
        const ClusterMove *move = &g_array_index(plan->moves, ClusterMove, i);
        Waiting waiting = {.move = {move->guest, move->to}};

        if (move->after == CLUSTER_NONE) {
            g_array_append_val(moves, waiting.move);
            continue;
        }
        waiting.after.guest = g_array_index(plan->moves, ClusterMove, move->after).guest;
        waiting.after.to = g_array_index(plan->moves, ClusterMove, move->after).to;
        g_array_append_val(policy->waiting, waiting);
    }
    if (policy->explain)
        explain(policy, view, hotspots, plan);
}

void cluster_policy_decide(ClusterPolicy *policy, const ClusterView *view, GArray *moves)
{
    switch (policy->kind) {
    case CLUSTER_POLICY_ENGINE:
        decide_engine(policy, view, moves);
        break;
    case CLUSTER_POLICY_THRESHOLD:
        cluster_rival_threshold(view, moves);
        break;
    case CLUSTER_POLICY_PROXMOX:
        cluster_rival_proxmox(view, &policy->rounds, moves);
        break;
    case CLUSTER_POLICY_SANDPIPER:
    case CLUSTER_POLICY_SANDPIPER_QUICK:
        cluster_rival_sandpiper(view, moves);
        break;
    case CLUSTER_POLICY_NONE:
    case CLUSTER_POLICIES:
        break;
    }
}

/* ---- a whole trace ---- */

static double cpu_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* The others have theirs as they were published: 10 s. */
static guint reading_steps(ClusterPolicyKind kind)
{
    gboolean quick = kind == CLUSTER_POLICY_ENGINE || kind == CLUSTER_POLICY_SANDPIPER_QUICK;

    return quick ? 1 : (guint)(CLUSTER_POLICY_READING_MS / CLUSTER_STEP_MS);
}

ClusterWorldResult cluster_play(const ClusterWorldOptions *options, ClusterPolicyKind kind,
                                void (*told)(double now_ms, const char *text))
{
    ClusterWorldOptions own = *options;
    g_autoptr(ClusterWorld) world = NULL;
    g_autoptr(ClusterPolicy) policy = cluster_policy_new(kind, options);
    g_autoptr(GArray) moves = g_array_new(FALSE, FALSE, sizeof(ClusterPolicyMove));
    ClusterWorldResult *result;

    own.reading_steps = reading_steps(kind);
    world = cluster_world_new(&own);
    result = cluster_world_result(world);
    cluster_policy_set_explain(policy, told);
    while (cluster_world_step(world)) {
        double before = cpu_ms(), took;

        if (!cluster_world_has_reading(world))
            continue;
        g_array_set_size(moves, 0);
        cluster_policy_decide(policy, cluster_world_view(world), moves);
        took = cpu_ms() - before;
        result->decide_ms_most = MAX(result->decide_ms_most, took);
        result->decide_ms_sum += took;
        result->decisions++;
        for (guint i = 0; i < moves->len; i++) {
            const ClusterPolicyMove *move = &g_array_index(moves, ClusterPolicyMove, i);

            cluster_world_move(world, move->guest, move->to);
        }
    }
    return *result;
}

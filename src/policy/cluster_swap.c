/* Two guests change places: where no host has room for one of them, and two have for each other's difference. */
#include <math.h>
#include <string.h>

#include "policy/cluster_planner.h"

#define LARGEST_GUESTS 6
#define COOLEST_HOSTS 16

typedef struct {
    ClusterPlanner *planner;
    const ClusterHotHost *hot;
    ClusterLoad before;             /* at the source */
    ClusterCandidate first, second; /* of the best pair, in the order to be done */
    double profit, gain, cost;
} Swap;

/* Alone, and free to go. */
static gboolean begin_alone(ClusterModel *model, guint guest, ClusterUnit *ret)
{
    ClusterWhy why;

    return cluster_unit_begin(model, guest, ret, &why) && ret->n == 1 &&
           ret->only_to == CLUSTER_NONE;
}

/* Can it go while the other is still there, though that will leave (or has left already, for the second)? */
static gboolean can_go(ClusterModel *model, guint guest, guint to, guint without, ClusterUnit *unit)
{
    return begin_alone(model, guest, unit) &&
           cluster_unit_check(model, unit, to, without, NULL) == CLUSTER_WHY_NOTHING;
}

/* The first one makes room by leaving, so only the other's place has to have room while both are there. */
static gboolean can_come_back(ClusterModel *model, const ClusterUnit *first, guint second, guint to,
                              ClusterUnit *unit)
{
    ClusterHostLoad kept = model->loads[to];
    ClusterHostLoad *load = &model->loads[to];
    gboolean was_hot = model->hot[to], can;
    double cpu_share = model->cpu_share;

    load->memory_free += first->need.resident;
    load->all.memory -= first->need.memory;
    model->hot[to] = FALSE; /* it becomes less so */
    model->cpu_share = 10;  /* what it comes to is weighed afterwards */
    model->link_share = 10;
    can = can_go(model, second, to, CLUSTER_NONE, unit);
    model->cpu_share = cpu_share;
    model->link_share = model->limits->destination_link;
    model->hot[to] = was_hot;
    model->loads[to] = kept;
    return can;
}

static void weigh(Swap *swap, const ClusterUnit *a, const ClusterUnit *b, gboolean b_first)
{
    ClusterPlanner *planner = swap->planner;
    ClusterModel *model = planner->model;
    guint source = a->host, there = b->host;
    ClusterLoad after = cluster_model_now(model, source, &a->need, &b->need);
    ClusterLoad was = cluster_model_expected(model, there, NULL, NULL);
    ClusterLoad will = cluster_model_expected(model, there, &b->need, &a->need);
    ClusterLoad home = cluster_model_expected(model, source, &a->need, &b->need);
    double cost, gain;

    if (home.cpu > planner->thresholds->cpu || home.link > planner->thresholds->link)
        return;
    if (will.cpu > model->cpu_share || will.link > model->link_share)
        return;
    gain = cluster_load_pressure(&swap->before) - cluster_load_pressure(&after) -
           (cluster_load_pressure(&will) - cluster_load_pressure(&was));
    gain += cluster_pain(planner, swap->hot, NULL, &swap->before, &swap->before, NULL) -
            cluster_pain(planner, swap->hot, a, &swap->before, &after, &will);
    cost = cluster_cost(model, a, there) + cluster_cost(model, b, source);
    if (gain - cost <= swap->profit)
        return;
    swap->profit = gain - cost;
    swap->gain = gain;
    swap->cost = cost;
    swap->first = (ClusterCandidate){.unit = b_first ? *b : *a, .to = b_first ? source : there};
    swap->second = (ClusterCandidate){.unit = b_first ? *a : *b, .to = b_first ? there : source};
}

static void try_pair(Swap *swap, guint a, guint b)
{
    ClusterModel *model = swap->planner->model;
    guint source = model->host[a], there = model->host[b];
    ClusterUnit unit_a, unit_b;

    if (model->needs[a].cpu <= model->needs[b].cpu &&
        model->needs[a].link <= model->needs[b].link &&
        model->needs[a].resident <= model->needs[b].resident)
        return;
    if (can_go(model, a, there, b, &unit_a) && can_come_back(model, &unit_a, b, source, &unit_b)) {
        weigh(swap, &unit_a, &unit_b, FALSE);
        return;
    }
    /* The other way round: the source has to have room for both. */
    if (!begin_alone(model, a, &unit_a))
        return;
    unit_a.need = (ClusterNeed){.known = TRUE};
    if (can_come_back(model, &unit_a, b, source, &unit_b)) {
        ClusterUnit gone = unit_b;

        if (!can_come_back(model, &gone, a, there, &unit_a))
            return;
        weigh(swap, &unit_a, &unit_b, TRUE);
    }
}

static double weight(const ClusterModel *model, guint guest)
{
    const ClusterHost *host = &model->view->hosts[model->host[guest]];
    const ClusterNeed *need = &model->needs[guest];

    return need->cpu / host->cpus + need->resident / host->memory_bytes +
           (host->link_bytes_per_s > 0 ? need->link / host->link_bytes_per_s : 0);
}

/* By name they stand; the largest few of them. */
static guint find_largest(const ClusterModel *model, guint host, guint largest[LARGEST_GUESTS])
{
    guint n = 0;

    for (guint i = model->first[host]; i < model->first[host + 1]; i++) {
        guint guest = model->by_host[i], at = n;

        while (at > 0 && weight(model, largest[at - 1]) < weight(model, guest))
            at--;
        if (at >= LARGEST_GUESTS)
            continue;
        n = MIN(n + 1, LARGEST_GUESTS);
        memmove(&largest[at + 1], &largest[at], sizeof(guint) * (n - 1 - at));
        largest[at] = guest;
    }
    return n;
}

static void try_host(Swap *swap, guint there, const guint *largest, guint n)
{
    const ClusterModel *model = swap->planner->model;
    guint guests[LARGEST_GUESTS + 1];
    guint m = find_largest(model, there, guests);

    for (guint i = 0; i < n; i++)
        for (guint j = 0; j < m; j++)
            try_pair(swap, largest[i], guests[j]);
}

gboolean cluster_swap(ClusterPlanner *planner, const ClusterHotHost *hot)
{
    ClusterModel *model = planner->model;
    const ClusterCoolest *coolest = planner->coolest;
    Swap swap = {.planner = planner, .hot = hot, .profit = -INFINITY};
    guint largest[LARGEST_GUESTS + 1], n = find_largest(model, hot->host, largest), tried = 0;
    ClusterMove *first, *second;
    guint index;

    swap.before = cluster_model_now(model, hot->host, NULL, NULL);
    for (guint i = 0; i < coolest->n && tried < COOLEST_HOSTS; i++) {
        guint there = coolest->order[i];

        if (!model->loads[there].known || model->hot[there] || model->view->hosts[there].drained ||
            !model->view->hosts[there].accepts ||
            model->loads[there].moves >= model->limits->moves_per_host)
            continue;
        try_host(&swap, there, largest, n);
        tried++;
    }
    if (swap.profit < model->limits->least_profit)
        return FALSE;
    index = planner->plan->moves->len;
    swap.first.gain = swap.second.gain = swap.gain;
    swap.first.cost = swap.second.cost = swap.cost;
    cluster_planner_take(planner, hot, &swap.first);
    cluster_planner_take(planner, hot, &swap.second);
    first = &g_array_index(planner->plan->moves, ClusterMove, index);
    second = &g_array_index(planner->plan->moves, ClusterMove, index + 1);
    second->group = index;
    second->after = index;
    first->swap = second->swap = TRUE;
    return TRUE;
}

#include "policy/cluster_placement.h"

#include <math.h>
#include <string.h>

#include "policy/cluster_planner.h"

/* A guest that misses its SLA hurts this much, and by how far it misses it, up to as much again twice. */
#define MISSED_PAIN 2.0
#define MOST_EXCESS 4.0
/* Below these nothing on the host makes a guest wait for others: to move it would not help. */
#define CONTENDED_CPU 0.5
#define CONTENDED_LINK 0.5
/* Of memory in use, below which swapping ends. */
#define EASY_MEMORY 0.95
/* In pressure. */
#define MINUTE_COST 1.0
#define PAUSE_SECOND_COST 1.0
#define PREFERRED_COST 2.0
/* A list of destinations that is not longer is looked at as a whole. */
#define SHORT_LIST 256
#define WHY_LOOK_AT 16
/* Of all hosts, up to which those that are not hot yet are relieved, too. */
#define FEW_HOT 0.05

/* ---- what hurts ---- */

static gboolean moves_along(const ClusterModel *model, const ClusterUnit *unit, guint guest)
{
    for (guint i = 0; unit && i < unit->n; i++)
        if (unit->guests[i] == guest)
            return TRUE;
    return guest != CLUSTER_NONE && model->to[guest] != CLUSTER_NONE;
}

/* The share of it that is left. */
static double wait_left(const ClusterHotspot *h, const ClusterLoad *before, double cpu)
{
    double after = h->value * cluster_pressure(cpu) / cluster_pressure(before->cpu);

    if (before->cpu < CONTENDED_CPU)
        return 1;
    return after <= h->threshold ? 0 : MIN(after / h->value, 1);
}

static double memory_left(const ClusterLoad *before, const ClusterLoad *after)
{
    if (after->memory <= EASY_MEMORY)
        return after->memory < before->memory ? 0 : 1;
    return CLAMP((after->memory - EASY_MEMORY) / (before->memory - EASY_MEMORY), 0, 1);
}

static double pain_left(const ClusterPlanner *planner, const ClusterHotspot *h, gboolean away,
                        const ClusterLoad *before, const ClusterLoad *after,
                        const ClusterLoad *there)
{
    switch (h->kind) {
    case CLUSTER_HOT_CPU_WAIT:
        return wait_left(h, before, away && there ? there->cpu : after->cpu);
    case CLUSTER_HOT_NETWORK:
        if (before->link < CONTENDED_LINK)
            return 1;
        return away || after->link <= planner->thresholds->link ? 0 : 1;
    case CLUSTER_HOT_SWAPPED:
        return away ? 0 : memory_left(before, after);
    case CLUSTER_HOT_SWAP_OUT:
    case CLUSTER_HOT_MEMORY:
        return memory_left(before, after);
    case CLUSTER_HOT_CPU:
    case CLUSTER_HOT_LINK:
    case CLUSTER_HOT_KINDS:
        break;
    }
    return 0; /* loads say it */
}

static double full_pain(const ClusterHotspot *h)
{
    switch (h->kind) {
    case CLUSTER_HOT_NETWORK:
        return MISSED_PAIN + MIN(1 - h->value / h->threshold, MOST_EXCESS);
    case CLUSTER_HOT_SWAPPED:
        return MISSED_PAIN;
    case CLUSTER_HOT_CPU_WAIT:
    case CLUSTER_HOT_SWAP_OUT:
    case CLUSTER_HOT_MEMORY:
        return MISSED_PAIN + MIN(h->value / h->threshold - 1, MOST_EXCESS);
    case CLUSTER_HOT_CPU:
    case CLUSTER_HOT_LINK:
    case CLUSTER_HOT_KINDS:
        break;
    }
    return 0;
}

double cluster_pain(const ClusterPlanner *planner, const ClusterHotHost *hot,
                    const ClusterUnit *unit, const ClusterLoad *before, const ClusterLoad *after,
                    const ClusterLoad *there)
{
    double pain = 0;

    for (guint i = 0; i < hot->count; i++) {
        const ClusterHotspot *h = &g_array_index(planner->hotspots, ClusterHotspot, hot->first + i);
        gboolean away = moves_along(planner->model, unit, h->guest);

        pain += full_pain(h) * pain_left(planner, h, away, before, after, there);
    }
    return pain;
}

double cluster_cost(const ClusterModel *model, const ClusterUnit *unit, guint to)
{
    ClusterCost price = cluster_unit_price(model, unit, to);

    return price.ms / 60000 * MINUTE_COST + price.pause_ms / 1000 * PAUSE_SECOND_COST +
           PREFERRED_COST * cluster_unit_broken(model, unit, to);
}

/* ---- the best move off a host ---- */

typedef struct {
    ClusterPlanner *planner;
    const ClusterHotHost *hot;
    ClusterAnswer *answer;
    ClusterChoice *choice;
    ClusterUnit unit;
    ClusterLoad before, after; /* at the source */
    double relief;             /* there, of loads */
    guint feasible;
    double unit_profit;
    guint unit_to;
} Search;

static gint compare_names(const ClusterView *view, guint guest_a, guint to_a, guint guest_b,
                          guint to_b)
{
    int by_guest = strcmp(view->guests[guest_a].name, view->guests[guest_b].name);

    return by_guest != 0 ? by_guest : strcmp(view->hosts[to_a].name, view->hosts[to_b].name);
}

/* Kept: a few, the best of them first. */
static void note_rival(const ClusterView *view, ClusterChoice *choice, const ClusterRunnerUp *rival)
{
    guint at = choice->n_runners_up, most = G_N_ELEMENTS(choice->runners_up);

    while (at > 0) {
        const ClusterRunnerUp *other = &choice->runners_up[at - 1];

        if (other->profit > rival->profit ||
            (other->profit == rival->profit &&
             compare_names(view, other->guest, other->to, rival->guest, rival->to) <= 0))
            break;
        at--;
    }
    if (at >= most)
        return;
    choice->n_runners_up = MIN(choice->n_runners_up + 1, most);
    memmove(&choice->runners_up[at + 1], &choice->runners_up[at],
            sizeof(*rival) * (choice->n_runners_up - 1 - at));
    choice->runners_up[at] = *rival;
}

static void compare(Search *search, guint to)
{
    ClusterPlanner *planner = search->planner;
    const ClusterModel *model = planner->model;
    const ClusterUnit *unit = &search->unit;
    ClusterLoad was = cluster_model_expected(model, to, NULL, NULL);
    ClusterLoad there = cluster_model_expected(model, to, NULL, &unit->need);
    double burden = cluster_load_pressure(&there) - cluster_load_pressure(&was);
    double gain = search->relief - burden, cost = cluster_cost(model, unit, to);
    ClusterChoice *choice = search->choice;

    gain += cluster_pain(planner, search->hot, NULL, &search->before, &search->before, NULL) -
            cluster_pain(planner, search->hot, unit, &search->before, &search->after, &there);
    search->feasible++;
    if (gain - cost > search->unit_profit) {
        search->unit_profit = gain - cost;
        search->unit_to = to;
    }
    if (gain - cost < choice->profit ||
        (gain - cost == choice->profit &&
         compare_names(model->view, unit->guests[0], to, choice->best.unit.guests[0],
                       choice->best.to) > 0))
        return;
    choice->profit = gain - cost;
    choice->best = (ClusterCandidate){.unit = *unit, .to = to, .gain = gain, .cost = cost};
}

static void look_at(Search *search, guint to)
{
    ClusterWhy why =
        cluster_unit_check(search->planner->model, &search->unit, to, CLUSTER_NONE, NULL);

    if (why == CLUSTER_WHY_NOTHING)
        compare(search, to);
    else if (why != CLUSTER_WHY_THERE_ALREADY)
        search->answer->stopped[why]++;
}

/* The shortest list of hosts that it is bound to, if any is short. */
static const guint *short_list(const ClusterModel *model, const ClusterUnit *unit, guint *ret_n)
{
    const guint *list = NULL;

    *ret_n = SHORT_LIST + 1;
    if (unit->only_to != CLUSTER_NONE) {
        *ret_n = 1;
        return &unit->only_to;
    }
    for (guint m = 0; m < unit->n; m++) {
        const ClusterGuest *guest = &model->view->guests[unit->guests[m]];
        guint g = unit->guests[m];

        if (guest->destinations && guest->n_destinations < *ret_n) {
            list = guest->destinations;
            *ret_n = guest->n_destinations;
        }
        for (guint i = model->first_rule[g]; i < model->first_rule[g + 1]; i++) {
            const ClusterRule *rule = &model->view->rules[model->rules_of[i]];

            if (rule->strict && rule->kind == CLUSTER_RULE_HOSTS && rule->n_hosts < *ret_n) {
                list = rule->hosts;
                *ret_n = rule->n_hosts;
            }
        }
    }
    return list;
}

static void look_at_coolest(Search *search)
{
    const ClusterCoolest *coolest = search->planner->coolest;
    guint place = 0, looked_at = 0;

    while (looked_at < CLUSTER_LOOK_AT && search->feasible < CLUSTER_COMPARE) {
        place = cluster_coolest_next(coolest, place, &search->unit.need);
        if (place >= coolest->n)
            break;
        look_at(search, coolest->order[place]);
        place++;
        looked_at++;
    }
    /* Nobody has room: the coolest ones show of what. */
    for (guint i = 0; looked_at == 0 && i < MIN(coolest->n, WHY_LOOK_AT); i++)
        look_at(search, coolest->order[i]);
}

static void look_at_unit(Search *search)
{
    ClusterPlanner *planner = search->planner;
    const ClusterModel *model = planner->model;
    guint n;
    const guint *list = short_list(model, &search->unit, &n);

    search->after = cluster_model_now(model, search->hot->host, &search->unit.need, NULL);
    search->relief = cluster_load_pressure(&search->before) - cluster_load_pressure(&search->after);
    search->feasible = 0;
    search->unit_profit = -INFINITY;
    if (list)
        for (guint i = 0; i < n; i++)
            look_at(search, list[i]);
    else
        look_at_coolest(search);
    if (search->feasible > 0) {
        ClusterRunnerUp rival = {
            .guest = search->unit.guests[0], .to = search->unit_to, .profit = search->unit_profit};

        note_rival(model->view, search->choice, &rival);
    }
}

static void find_best(ClusterPlanner *planner, const ClusterHotHost *hot, ClusterAnswer *answer,
                      ClusterChoice *choice)
{
    ClusterModel *model = planner->model;
    Search search = {.planner = planner,
                     .hot = hot,
                     .answer = answer,
                     .choice = choice,
                     .before = cluster_model_now(model, hot->host, NULL, NULL)};

    choice->profit = -INFINITY;
    choice->n_runners_up = 0;
    for (guint i = model->first[hot->host]; i < model->first[hot->host + 1]; i++) {
        guint guest = model->by_host[i];
        ClusterWhy why;
        gboolean can_leave = cluster_unit_begin(model, guest, &search.unit, &why);

        if (search.unit.n > 0 && search.unit.guests[0] != guest)
            continue; /* came with another one */
        if (can_leave)
            look_at_unit(&search);
        else
            answer->stopped[why]++;
    }
}

/* ---- a move, as it is told ---- */

static void note_rules(const ClusterModel *model, guint guest, ClusterMove *move)
{
    for (guint i = model->first_rule[guest]; i < model->first_rule[guest + 1]; i++) {
        if (move->n_rules < CLUSTER_MOVE_RULES)
            move->rules[move->n_rules] = model->rules_of[i];
        move->n_rules++;
    }
}

ClusterMove *cluster_planner_take(ClusterPlanner *planner, const ClusterHotHost *hot,
                                  const ClusterCandidate *candidate)
{
    ClusterModel *model = planner->model;
    const ClusterUnit *unit = &candidate->unit;
    GArray *moves = planner->plan->moves;
    guint first = moves->len;
    ClusterMove shared = {.from = unit->host,
                          .to = candidate->to,
                          .hotspot = hot->first,
                          .group = first,
                          .gain = candidate->gain,
                          .cost = candidate->cost};

    shared.from_before = cluster_model_now(model, unit->host, NULL, NULL);
    shared.from_after = cluster_model_now(model, unit->host, &unit->need, NULL);
    shared.to_before = cluster_model_expected(model, candidate->to, NULL, NULL);
    shared.to_after = cluster_model_expected(model, candidate->to, NULL, &unit->need);
    for (guint i = 0; i < unit->n; i++) {
        ClusterMove move = shared;
        ClusterUnit alone = {.guests = {unit->guests[i]}, .n = 1, .host = unit->host};

        move.guest = unit->guests[i];
        move.after = i == 0 ? CLUSTER_NONE : first + i - 1;
        move.price = cluster_unit_price(model, &alone, candidate->to);
        note_rules(model, move.guest, &move);
        g_array_append_val(moves, move);
    }
    cluster_model_apply(model, unit, candidate->to);
    cluster_coolest_update(planner->coolest, model, candidate->to);
    cluster_coolest_update(planner->coolest, model, unit->host);
    return &g_array_index(moves, ClusterMove, first);
}

/* The winner itself is among those that were noted. */
static void note_runners_up(const ClusterPlanner *planner, const ClusterChoice *choice,
                            ClusterMove *move)
{
    for (guint i = 0; i < choice->n_runners_up && move->n_runners_up < CLUSTER_RUNNERS_UP; i++) {
        ClusterRunnerUp rival = choice->runners_up[i];

        if (rival.guest == choice->best.unit.guests[0])
            continue;
        rival.why = rival.profit < planner->model->limits->least_profit ? CLUSTER_WHY_NO_GAIN
                                                                        : CLUSTER_WHY_OUTBIDDEN;
        move->runners_up[move->n_runners_up++] = rival;
    }
}

/* ---- host by host ---- */

static ClusterWhy source_may_move(const ClusterModel *model, guint h)
{
    const ClusterLimits *limits = model->limits;
    const ClusterHostLoad *load = &model->loads[h];

    if (limits->frozen)
        return CLUSTER_WHY_FROZEN;
    if (limits->quiet)
        return CLUSTER_WHY_QUIET_HOURS;
    if (!load->known)
        return CLUSTER_WHY_SOURCE_UNUSABLE;
    if (limits->moves > 0 && model->moves >= limits->moves)
        return CLUSTER_WHY_CLUSTER_MOVES;
    if (load->moves >= limits->moves_per_host)
        return CLUSTER_WHY_SOURCE_MOVES;
    if (limits->moves_per_host_hour > 0 && load->moves_lately >= limits->moves_per_host_hour)
        return CLUSTER_WHY_SOURCE_HOUR;
    return CLUSTER_WHY_NOTHING;
}

/* With all gone that is leaving. */
static gboolean is_relieved(const ClusterPlanner *planner, const ClusterHotHost *hot)
{
    const ClusterModel *model = planner->model;
    const ClusterHostLoad *load = &model->loads[hot->host];
    ClusterLoad before, after;

    if (!load->known || load->leaving.memory <= 0)
        return FALSE;
    after = cluster_model_now(model, hot->host, NULL, NULL);
    before = cluster_model_now(model, hot->host, NULL, &load->leaving);
    return after.cpu <= (hot->early ? planner->thresholds->cpu_early : planner->thresholds->cpu) &&
           after.link <= planner->thresholds->link &&
           cluster_pain(planner, hot, NULL, &before, &after, NULL) <= 0;
}

static ClusterWhy what_stopped_most(const ClusterAnswer *answer)
{
    ClusterWhy most = CLUSTER_WHY_NO_GAIN;
    guint count = 0;

    for (guint why = 0; why < CLUSTER_WHYS; why++)
        if (answer->stopped[why] > count) {
            count = answer->stopped[why];
            most = (ClusterWhy)why;
        }
    return most;
}

/* FALSE: nothing more to be done for this host. */
static gboolean take_best(ClusterPlanner *planner, const ClusterHotHost *hot, ClusterAnswer *answer)
{
    ClusterChoice choice = {.profit = -INFINITY};
    ClusterMove *move;

    memset(answer->stopped, 0, sizeof(answer->stopped));
    find_best(planner, hot, answer, &choice);
    if (choice.profit >= planner->model->limits->least_profit) {
        move = cluster_planner_take(planner, hot, &choice.best);
        note_runners_up(planner, &choice, move);
        return TRUE;
    }
    if (cluster_swap(planner, hot))
        return TRUE;
    if (choice.n_runners_up > 0) {
        answer->why = CLUSTER_WHY_NO_GAIN;
        answer->best_profit = choice.profit;
    } else {
        answer->why = what_stopped_most(answer);
    }
    return FALSE;
}

/* What is not yet hot is relieved only where that is easy. */
static double destination_cpu(const ClusterPlanner *planner, const ClusterHotHost *hot)
{
    const ClusterThresholds *thresholds = planner->thresholds;
    double most = planner->model->limits->destination_cpu;

    return hot->early ? most - (thresholds->cpu - thresholds->cpu_early) : most;
}

static void relieve(ClusterPlanner *planner, const ClusterHotHost *hot)
{
    ClusterAnswer answer = {.host = hot->host, .hotspot = hot->first};
    guint first = planner->plan->moves->len;

    planner->model->cpu_share = destination_cpu(planner, hot);
    while (answer.why == CLUSTER_WHY_NOTHING) {
        if (is_relieved(planner, hot)) {
            answer.under_way = planner->plan->moves->len == first;
            break;
        }
        answer.why = source_may_move(planner->model, hot->host);
        if (answer.why != CLUSTER_WHY_NOTHING || !take_best(planner, hot, &answer))
            break;
    }
    answer.n_moves = planner->plan->moves->len - first;
    g_array_append_val(planner->plan->answers, answer);
}

static gint compare_hot_hosts(gconstpointer a, gconstpointer b, gpointer user)
{
    const ClusterHotHost *left = a, *right = b;
    const ClusterView *view = user;

    if (left->pain != right->pain)
        return left->pain > right->pain ? -1 : 1;
    return strcmp(view->hosts[left->host].name, view->hosts[right->host].name);
}

/* Hot spots of one host follow each other. */
static GArray *find_hot_hosts(ClusterPlanner *planner)
{
    GArray *hosts = g_array_new(FALSE, FALSE, sizeof(ClusterHotHost));
    const GArray *hotspots = planner->hotspots;

    for (guint i = 0; i < hotspots->len;) {
        ClusterHotHost hot = {
            .host = g_array_index(hotspots, ClusterHotspot, i).host, .first = i, .early = TRUE};
        ClusterLoad load = {0};

        while (i < hotspots->len && g_array_index(hotspots, ClusterHotspot, i).host == hot.host) {
            hot.early = hot.early && g_array_index(hotspots, ClusterHotspot, i).early;
            hot.pain += full_pain(&g_array_index(hotspots, ClusterHotspot, i++));
        }
        hot.count = i - hot.first;
        if (planner->model->loads[hot.host].known)
            load = cluster_model_now(planner->model, hot.host, NULL, NULL);
        hot.pain += cluster_load_pressure(&load);
        planner->model->hot[hot.host] = !hot.early;
        g_array_append_val(hosts, hot);
    }
    g_array_sort_with_data(hosts, compare_hot_hosts, (gpointer)planner->model->view);
    return hosts;
}

/* Where much is hot, what room there is belongs to those. */
static void relieve_all(ClusterPlanner *planner, const GArray *hosts)
{
    guint n_hot = 0;

    for (guint i = 0; i < hosts->len; i++)
        n_hot += g_array_index(hosts, ClusterHotHost, i).early ? 0 : 1;
    for (guint i = 0; i < hosts->len; i++) {
        const ClusterHotHost *hot = &g_array_index(hosts, ClusterHotHost, i);

        if (!hot->early || n_hot <= FEW_HOT * planner->model->view->n_hosts)
            relieve(planner, hot);
    }
}

ClusterPlan *cluster_plan_make(const ClusterView *view, const ClusterThresholds *thresholds,
                               const ClusterLimits *limits, const GArray *hotspots)
{
    ClusterPlan *plan = g_new0(ClusterPlan, 1);
    g_autoptr(ClusterModel) model = NULL;
    g_autoptr(ClusterCoolest) coolest = NULL;
    g_autoptr(GArray) hosts = NULL;
    ClusterPlanner planner = {.thresholds = thresholds, .hotspots = hotspots, .plan = plan};

    *plan = (ClusterPlan){.made_ms = view->now_ms,
                          .expires_ms = view->now_ms + limits->plan_ms,
                          .moves = g_array_new(FALSE, FALSE, sizeof(ClusterMove)),
                          .answers = g_array_new(FALSE, FALSE, sizeof(ClusterAnswer))};
    if (hotspots->len == 0)
        return plan;
    planner.model = model = cluster_model_new(view, limits);
    hosts = find_hot_hosts(&planner);
    planner.coolest = coolest = cluster_coolest_new(model);
    relieve_all(&planner, hosts);
    return plan;
}

void cluster_plan_free(ClusterPlan *plan)
{
    if (!plan)
        return;
    g_array_unref(plan->moves);
    g_array_unref(plan->answers);
    g_free(plan);
}

gboolean cluster_plan_has_expired(const ClusterPlan *plan, double now_ms)
{
    return !(now_ms >= plan->made_ms && now_ms < plan->expires_ms);
}

static ClusterWhy check_move(const ClusterView *view, const ClusterLimits *limits, guint guest,
                             guint to, guint without, guint *ret_rule)
{
    g_autoptr(ClusterModel) model = cluster_model_new(view, limits);
    ClusterWhy why = source_may_move(model, view->guests[guest].host);
    ClusterUnit unit;

    if (why != CLUSTER_WHY_NOTHING || !cluster_unit_begin(model, guest, &unit, &why))
        return why;
    return cluster_unit_check(model, &unit, to, without, ret_rule);
}

ClusterWhy cluster_move_check(const ClusterView *view, const ClusterLimits *limits, guint guest,
                              guint to, guint *ret_rule)
{
    return check_move(view, limits, guest, to, CLUSTER_NONE, ret_rule);
}

ClusterWhy cluster_swap_check(const ClusterView *view, const ClusterLimits *limits,
                              const ClusterThresholds *thresholds, guint guest, guint to,
                              guint with, guint *ret_rule)
{
    gboolean is_there = with < view->n_guests && view->guests[with].host == to;
    ClusterLimits wide = *limits;

    wide.destination_cpu = MAX(limits->destination_cpu, thresholds->cpu);
    wide.destination_link = MAX(limits->destination_link, thresholds->link);
    return check_move(view, &wide, guest, to, is_there ? with : CLUSTER_NONE, ret_rule);
}

ClusterCost cluster_move_price(const ClusterView *view, guint guest, guint to)
{
    const ClusterLimits limits = cluster_limits_default();
    g_autoptr(ClusterModel) model = cluster_model_new(view, &limits);
    ClusterUnit alone = {.guests = {guest}, .n = 1, .host = view->guests[guest].host};

    return cluster_unit_price(model, &alone, to);
}

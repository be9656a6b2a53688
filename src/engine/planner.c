#include "engine/planner.h"

#include <string.h>

EnginePlan *planner_make(EngineView *view, const ClusterThresholds *thresholds,
                         const ClusterLimits *limits)
{
    EnginePlan *plan = g_new0(EnginePlan, 1);

    plan->view = view;
    plan->thresholds = *thresholds;
    plan->hotspots = g_array_new(FALSE, FALSE, sizeof(ClusterHotspot));
    cluster_find_hotspots(&view->cluster, thresholds, plan->hotspots);
    plan->plan = cluster_plan_make(&view->cluster, thresholds, limits, plan->hotspots);
    return plan;
}

void engine_plan_free(EnginePlan *plan)
{
    if (!plan)
        return;
    cluster_plan_free(plan->plan);
    g_array_unref(plan->hotspots);
    engine_view_free(plan->view);
    g_free(plan);
}

/* ---- as JSON ---- */

static const ClusterView *cluster_of(const EnginePlan *plan)
{
    return &plan->view->cluster;
}

static const ClusterHotspot *hotspot_at(const EnginePlan *plan, guint index)
{
    return &g_array_index(plan->hotspots, ClusterHotspot, index);
}

static json_t *number_or_null(double value)
{
    return value >= 0 ? json_real(value) : json_null();
}

/* Takes *text*. */
static json_t *take_text(char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    g_free(text);
    return json_string(valid);
}

static json_t *hotspot_to_json(const EnginePlan *plan, const ClusterHotspot *spot)
{
    const ClusterView *cluster = cluster_of(plan);
    json_t *object =
        json_pack("{s:s, s:s, s:s?}", "kind", cluster_hot_kind_name(spot->kind), "host",
                  cluster->hosts[spot->host].name, "guest",
                  spot->guest == CLUSTER_NONE ? NULL : cluster->guests[spot->guest].name);

    json_object_set_new(object, "value", number_or_null(spot->value));
    json_object_set_new(object, "threshold", number_or_null(spot->threshold));
    json_object_set_new(object, "forecast", number_or_null(spot->forecast));
    json_object_set_new(object, "early", json_boolean(spot->early));
    json_object_set_new(object, "readings", json_integer(spot->above));
    json_object_set_new(object, "text",
                        take_text(cluster_hotspot_describe(cluster, &plan->thresholds, spot)));
    return object;
}

static json_t *load_to_json(const ClusterLoad *load)
{
    json_t *object = json_object();

    json_object_set_new(object, "cpu", number_or_null(load->cpu));
    json_object_set_new(object, "link", number_or_null(load->link));
    json_object_set_new(object, "memory", number_or_null(load->memory));
    return object;
}

json_t *planner_cost_to_json(const ClusterCost *cost)
{
    json_t *object = json_object();

    json_object_set_new(object, "ms", number_or_null(cost->ms));
    json_object_set_new(object, "bytes", number_or_null(cost->bytes));
    json_object_set_new(object, "pause_ms", number_or_null(cost->pause_ms));
    json_object_set_new(object, "guessed", json_boolean(cost->guessed));
    return object;
}

static json_t *rules_to_json(const ClusterView *cluster, const ClusterMove *move)
{
    json_t *list = json_array();

    for (guint i = 0; i < MIN(move->n_rules, CLUSTER_MOVE_RULES); i++)
        json_array_append_new(list, json_string(cluster->rules[move->rules[i]].id));
    return list;
}

static json_t *runners_up_to_json(const ClusterView *cluster, const ClusterMove *move)
{
    json_t *list = json_array();

    for (guint i = 0; i < move->n_runners_up; i++) {
        const ClusterRunnerUp *other = &move->runners_up[i];

        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:s, s:s, s:f}", "guest", cluster->guests[other->guest].name,
                      "to", cluster->hosts[other->to].name, "reason", cluster_why_name(other->why),
                      "why", cluster_why_text(other->why), "profit", other->profit));
    }
    return list;
}

/* The guest that comes in its place, or null. */
static json_t *name_swapped(const EnginePlan *plan, guint index)
{
    const GArray *moves = plan->plan->moves;
    const ClusterMove *move = &g_array_index(moves, ClusterMove, index);
    guint other = move->after == CLUSTER_NONE ? index + 1 : move->after;

    if (!move->swap || other >= moves->len)
        return json_null();
    return json_string(
        cluster_of(plan)->guests[g_array_index(moves, ClusterMove, other).guest].name);
}

json_t *planner_move_to_json(const EnginePlan *plan, guint index)
{
    const ClusterView *cluster = cluster_of(plan);
    const ClusterMove *move = &g_array_index(plan->plan->moves, ClusterMove, index);
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:o, s:f, s:o}", "guest", cluster->guests[move->guest].name,
                  "from", cluster->hosts[move->from].name, "to", cluster->hosts[move->to].name,
                  "trigger", hotspot_to_json(plan, hotspot_at(plan, move->hotspot)), "gain",
                  move->gain, "cost", planner_cost_to_json(&move->price));

    json_object_set_new(object, "burden", json_real(move->cost));
    json_object_set_new(object, "swap", json_boolean(move->swap));
    json_object_set_new(object, "swap_with", name_swapped(plan, index));
    json_object_set_new(object, "after",
                        move->after == CLUSTER_NONE ? json_null() : json_integer(move->after));
    json_object_set_new(object, "source_before", load_to_json(&move->from_before));
    json_object_set_new(object, "source_after", load_to_json(&move->from_after));
    json_object_set_new(object, "destination_before", load_to_json(&move->to_before));
    json_object_set_new(object, "destination_after", load_to_json(&move->to_after));
    json_object_set_new(object, "rules", rules_to_json(cluster, move));
    json_object_set_new(object, "runners_up", runners_up_to_json(cluster, move));
    json_object_set_new(object, "text",
                        take_text(cluster_move_explain(cluster, &plan->thresholds, plan->hotspots,
                                                       plan->plan, index)));
    return object;
}

/* What is done about each hot host, or why nothing is. */
static json_t *answers_to_json(const EnginePlan *plan)
{
    const ClusterView *cluster = cluster_of(plan);
    json_t *list = json_array();

    for (guint i = 0; i < plan->plan->answers->len; i++) {
        const ClusterAnswer *answer = &g_array_index(plan->plan->answers, ClusterAnswer, i);

        json_array_append_new(
            list,
            json_pack("{s:s, s:o, s:i, s:b, s:s, s:o}", "host", cluster->hosts[answer->host].name,
                      "trigger", hotspot_to_json(plan, hotspot_at(plan, answer->hotspot)), "moves",
                      (int)answer->n_moves, "under_way", answer->under_way, "reason",
                      cluster_why_name(answer->why), "text",
                      take_text(cluster_answer_explain(cluster, answer))));
    }
    return list;
}

/* Why there is no move; NULL where there are some.  Free with g_free(). */
static char *describe_nothing(const EnginePlan *plan)
{
    const ClusterView *cluster = cluster_of(plan);
    g_autoptr(GString) text = g_string_new(NULL);
    guint unusable = 0;

    if (plan->plan->moves->len > 0)
        return NULL;
    for (guint i = 0; i < plan->plan->answers->len; i++) {
        g_autofree char *line =
            cluster_answer_explain(cluster, &g_array_index(plan->plan->answers, ClusterAnswer, i));

        g_string_append_printf(text, "%s%s", text->len ? "; " : "", line);
    }
    for (guint i = 0; i < cluster->n_hosts; i++)
        unusable += !cluster->hosts[i].usable;
    if (unusable == cluster->n_hosts)
        return g_strdup("of no host anything is known that can be used");
    if (text->len == 0)
        g_string_assign(text, "nothing is hot: there is nothing to gain by a move");
    if (unusable > 0)
        g_string_append_printf(text, "; of %u of %u hosts nothing is known that can be used",
                               unusable, cluster->n_hosts);
    return g_strdup(text->str);
}

json_t *planner_plan_to_json(const EnginePlan *plan, double wall)
{
    char *nothing = describe_nothing(plan);
    json_t *moves = json_array();
    double good_s = (plan->plan->expires_ms - plan->plan->made_ms) / 1e3;

    for (guint i = 0; i < plan->plan->moves->len; i++)
        json_array_append_new(moves, planner_move_to_json(plan, i));
    return json_pack("{s:f, s:f, s:o, s:o, s:o}", "made_at", wall, "expires_at", wall + good_s,
                     "moves", moves, "hot", answers_to_json(plan), "nothing",
                     nothing ? take_text(nothing) : json_null());
}

json_t *planner_list_hot(const EnginePlan *plan, guint host)
{
    json_t *list = json_array();

    for (guint i = 0; i < plan->hotspots->len; i++)
        if (hotspot_at(plan, i)->host == host && !hotspot_at(plan, i)->early)
            json_array_append_new(
                list, take_text(cluster_hotspot_describe(cluster_of(plan), &plan->thresholds,
                                                         hotspot_at(plan, i))));
    return list;
}

gboolean planner_is_hot(const EnginePlan *plan, guint host)
{
    for (guint i = 0; i < plan->hotspots->len; i++)
        if (hotspot_at(plan, i)->host == host && !hotspot_at(plan, i)->early)
            return TRUE;
    return FALSE;
}

/* ---- why not ---- */

char *planner_describe_why(const EngineView *view, guint guest, guint to, ClusterWhy why,
                           guint rule)
{
    const ModelGuest *known = view->guests[guest];

    if (why == CLUSTER_WHY_RULE && rule != CLUSTER_NONE)
        return g_strdup_printf("%s: rule %s", cluster_why_text(why), view->cluster.rules[rule].id);
    if (why == CLUSTER_WHY_PINNED && known->frozen)
        return g_strdup_printf("it is frozen: %s", known->frozen);
    if (why == CLUSTER_WHY_NOT_MOVABLE && known->stuck)
        return g_strdup_printf("%s: %s", cluster_why_text(why), known->stuck);
    if (why == CLUSTER_WHY_NOT_A_DESTINATION)
        return g_strdup_printf("%s, or a move there has come to nothing lately",
                               cluster_why_text(why));
    if (to != CLUSTER_NONE && why >= CLUSTER_WHY_DESTINATION_UNUSABLE)
        return g_strdup_printf("%s: %s", view->cluster.hosts[to].name, cluster_why_text(why));
    return g_strdup(cluster_why_text(why));
}

json_t *planner_drain_to_json(const EngineView *view, const ClusterDrain *drain, guint host)
{
    const ClusterView *cluster = &view->cluster;
    json_t *stays = json_array(), *moves = json_array();

    for (guint i = 0; i < drain->stays->len; i++) {
        const ClusterStays *one = &g_array_index(drain->stays, ClusterStays, i);

        json_array_append_new(
            stays, json_pack("{s:s, s:s, s:o}", "guest", cluster->guests[one->guest].name, "reason",
                             cluster_why_name(one->why), "why",
                             take_text(planner_describe_why(view, one->guest, CLUSTER_NONE,
                                                            one->why, one->rule))));
    }
    for (guint i = 0; i < drain->steps->len; i++) {
        const ClusterDrainStep *step = &g_array_index(drain->steps, ClusterDrainStep, i);

        json_array_append_new(moves, json_pack("{s:s, s:s, s:s, s:o, s:o}", "guest",
                                               cluster->guests[step->guest].name, "from",
                                               cluster->hosts[host].name, "to",
                                               cluster->hosts[step->to].name, "cost",
                                               planner_cost_to_json(&step->price),
                                               "destination_after", load_to_json(&step->to_after)));
    }
    return json_pack("{s:o, s:o, s:i}", "cannot_leave", stays, "moves", moves, "under_way",
                     (int)drain->under_way);
}

/* ---- promises ---- */

/* TRUE where it is known that *sla* is kept in this respect, FALSE where it is known not to be. */
static void judge(double promised, double value, gboolean good, gboolean *known, gboolean *met)
{
    if (promised <= 0 || value < 0)
        return;
    *known = TRUE;
    *met &= good;
}

json_t *planner_sla_met(const ClusterGuest *guest)
{
    double wait = cluster_series_last(&guest->cpu_wait);
    double backlog = cluster_series_last(&guest->backlog);
    double network = cluster_series_last(&guest->network);
    double swapped = cluster_series_last(&guest->swapped);
    gboolean known = FALSE, met = TRUE;

    judge(guest->sla.cpu_wait, wait, wait <= guest->sla.cpu_wait, &known, &met);
    judge(guest->sla.network, MIN(backlog, network), backlog <= 0 || network >= guest->sla.network,
          &known, &met);
    judge(guest->sla.no_swap, swapped, swapped <= 0, &known, &met);
    return known ? json_boolean(met) : json_null();
}

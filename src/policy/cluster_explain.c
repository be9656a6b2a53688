/* Plans in words. */
#include "policy/cluster_placement.h"

static void add_load(GString *text, const char *what, const char *host, const ClusterLoad *before,
                     const ClusterLoad *after)
{
    g_string_append_printf(text,
                           "  %s %s: CPUs %.0f %% -> %.0f %%, link %.0f %% -> %.0f %%, memory %.0f "
                           "%% -> %.0f %%\n",
                           what, host, 100 * before->cpu, 100 * after->cpu, 100 * before->link,
                           100 * after->link, 100 * before->memory, 100 * after->memory);
}

static void add_order(GString *text, const ClusterView *view, const ClusterPlan *plan,
                      const ClusterMove *move)
{
    const ClusterMove *before;

    if (move->after == CLUSTER_NONE || move->after >= plan->moves->len)
        return;
    before = &g_array_index(plan->moves, ClusterMove, move->after);
    g_string_append_printf(text, "  after %s has moved, %s\n", view->guests[before->guest].name,
                           move->swap ? "with which it changes places"
                                      : "with which it has to be together");
}

static void add_cost(GString *text, const ClusterMove *move)
{
    g_string_append_printf(text, "  cost: %.0f s, %.0f MB, %.0f ms of pause%s\n",
                           move->price.ms / 1000, move->price.bytes / 1e6, move->price.pause_ms,
                           move->price.guessed ? " (guessed: its agent was not asked yet)" : "");
    g_string_append_printf(text, "  gain %.2f, cost %.2f: profit %.2f\n", move->gain, move->cost,
                           move->gain - move->cost);
}

static void add_rules(GString *text, const ClusterView *view, const ClusterMove *move)
{
    guint shown = MIN(move->n_rules, CLUSTER_MOVE_RULES);

    g_string_append(text, move->n_rules == 0 ? "  rules: none\n" : "  rules:");
    for (guint i = 0; i < shown; i++)
        g_string_append_printf(text, "%s %s%s", i > 0 ? "," : "", view->rules[move->rules[i]].id,
                               view->rules[move->rules[i]].strict ? "" : " (preferred)");
    if (move->n_rules > shown)
        g_string_append_printf(text, " and %u more", move->n_rules - shown);
    if (move->n_rules > 0)
        g_string_append(text, "\n");
}

static void add_runners_up(GString *text, const ClusterView *view, const ClusterMove *move)
{
    for (guint i = 0; i < move->n_runners_up; i++) {
        const ClusterRunnerUp *other = &move->runners_up[i];

        g_string_append_printf(text, "  not %s to %s: %s (profit %.2f)\n",
                               view->guests[other->guest].name, view->hosts[other->to].name,
                               cluster_why_text(other->why), other->profit);
    }
    if (move->n_runners_up == 0)
        g_string_append(text, "  no other guest of its host could go\n");
}

char *cluster_move_explain(const ClusterView *view, const ClusterThresholds *thresholds,
                           const GArray *hotspots, const ClusterPlan *plan, guint index)
{
    const ClusterMove *move = &g_array_index(plan->moves, ClusterMove, index);
    const char *from = view->hosts[move->from].name, *to = view->hosts[move->to].name;
    GString *text = g_string_new(NULL);

    g_string_append_printf(text, "%s from %s to %s\n", view->guests[move->guest].name, from, to);
    if (move->hotspot < hotspots->len) {
        g_autofree char *why = cluster_hotspot_describe(
            view, thresholds, &g_array_index(hotspots, ClusterHotspot, move->hotspot));

        g_string_append_printf(text, "  because %s\n", why);
    }
    add_order(text, view, plan, move);
    add_load(text, "from", from, &move->from_before, &move->from_after);
    add_load(text, "to", to, &move->to_before, &move->to_after);
    add_cost(text, move);
    add_rules(text, view, move);
    add_runners_up(text, view, move);
    return g_string_free(text, FALSE);
}

static void add_stopped(GString *text, const ClusterAnswer *answer)
{
    const char *between = " (";

    for (guint why = 1; why < CLUSTER_WHYS; why++)
        if (answer->stopped[why] > 0) {
            g_string_append_printf(text, "%s%u: %s", between, answer->stopped[why],
                                   cluster_why_text((ClusterWhy)why));
            between = "; ";
        }
    if (between[0] == ';')
        g_string_append(text, ")");
}

char *cluster_answer_explain(const ClusterView *view, const ClusterAnswer *answer)
{
    GString *text = g_string_new(NULL);
    const char *host = view->hosts[answer->host].name;

    if (answer->n_moves > 0)
        g_string_append_printf(text, "host %s: %u %s planned", host, answer->n_moves,
                               answer->n_moves == 1 ? "move is" : "moves are");
    else if (answer->under_way)
        g_string_append_printf(text, "host %s: moves that are under way relieve it", host);
    else if (answer->why == CLUSTER_WHY_NO_GAIN && answer->best_profit > 0)
        g_string_append_printf(text,
                               "host %s: no move gains enough; the best one has a profit of %.2f",
                               host, answer->best_profit);
    else if (answer->why == CLUSTER_WHY_NO_GAIN)
        g_string_append_printf(text, "host %s: no move would make it better", host);
    else
        g_string_append_printf(text, "host %s: nothing can be done now: %s", host,
                               cluster_why_text(answer->why));
    add_stopped(text, answer);
    return g_string_free(text, FALSE);
}

#include "policy/cluster_drain.h"

#include <math.h>
#include <string.h>

#include "policy/cluster_model.h"

/* Differences that are smaller are noise. */
#define STEP 0.05
/* Just below what is a hot spot. */
#define BELOW_THRESHOLD 0.98

typedef struct {
    ClusterModel *model;
    guint host;
    ClusterDrain *drain;
} Work;

/* ---- where to ---- */

typedef struct {
    guint to; /* CLUSTER_NONE: nowhere */
    gint broken, steps;
    double room;
    ClusterWhy why; /* the one that came closest */
    guint rule;
} Place;

static gboolean is_better(const ClusterView *view, const Place *place, const Place *best)
{
    if (best->to == CLUSTER_NONE)
        return TRUE;
    if (place->broken != best->broken)
        return place->broken < best->broken;
    if (place->steps != best->steps)
        return place->steps < best->steps;
    if (place->room != best->room)
        return place->room > best->room;
    return strcmp(view->hosts[place->to].name, view->hosts[best->to].name) < 0;
}

static Place find_place(const ClusterModel *model, const ClusterUnit *unit)
{
    Place best = {.to = CLUSTER_NONE, .why = CLUSTER_WHY_NOTHING, .rule = CLUSTER_NONE};

    for (guint h = 0; h < model->view->n_hosts; h++) {
        Place place = {.to = h, .rule = CLUSTER_NONE};
        ClusterWhy why = cluster_unit_check(model, unit, h, CLUSTER_NONE, &place.rule);
        ClusterLoad after;

        if (why != CLUSTER_WHY_NOTHING) {
            /* Reasons are checked one after the other, so the last one is the closest. */
            if (why > best.why || (why == best.why && place.rule < best.rule)) {
                best.why = why;
                best.rule = place.rule;
            }
            continue;
        }
        after = cluster_model_expected(model, h, NULL, &unit->need);
        place.broken = cluster_unit_broken(model, unit, h);
        place.steps = (gint)floor(MAX(after.cpu, after.link) / STEP);
        place.room = MIN(model->loads[h].memory_free,
                         model->view->hosts[h].memory_bytes - model->loads[h].all.memory);
        place.why = best.why;
        if (is_better(model->view, &place, &best))
            best = place;
    }
    return best;
}

/* ---- in which order ---- */

static gint compare_units(gconstpointer a, gconstpointer b, gpointer user)
{
    const ClusterUnit *left = a, *right = b;
    const ClusterView *view = user;

    if (left->need.memory != right->need.memory)
        return left->need.memory > right->need.memory ? -1 : 1;
    return strcmp(view->guests[left->guests[0]].name, view->guests[right->guests[0]].name);
}

static void note_stays(Work *work, guint guest, ClusterWhy why, guint rule)
{
    ClusterStays stays = {.guest = guest, .why = why, .rule = rule};

    g_array_append_val(work->drain->stays, stays);
}

static GArray *find_units(Work *work)
{
    ClusterModel *model = work->model;
    GArray *units = g_array_new(FALSE, FALSE, sizeof(ClusterUnit));

    for (guint i = model->first[work->host]; i < model->first[work->host + 1]; i++) {
        guint guest = model->by_host[i];
        ClusterUnit unit;
        ClusterWhy why;

        if (model->to[guest] != CLUSTER_NONE && model->to[guest] != work->host) {
            work->drain->under_way++;
            continue;
        }
        if (!cluster_unit_begin(model, guest, &unit, &why))
            note_stays(work, guest, why, CLUSTER_NONE);
        else if (unit.guests[0] == guest)
            g_array_append_val(units, unit);
    }
    g_array_sort_with_data(units, compare_units, (gpointer)model->view);
    return units;
}

static void add_steps(Work *work, const ClusterUnit *unit, guint to)
{
    GArray *steps = work->drain->steps;
    ClusterDrainStep shared = {.to = to, .group = steps->len};

    shared.to_after = cluster_model_expected(work->model, to, NULL, &unit->need);
    for (guint i = 0; i < unit->n; i++) {
        ClusterDrainStep step = shared;
        ClusterUnit alone = {.guests = {unit->guests[i]}, .n = 1, .host = unit->host};

        step.guest = unit->guests[i];
        step.price = cluster_unit_price(work->model, &alone, to);
        g_array_append_val(steps, step);
    }
    cluster_model_complete(work->model, unit, to);
}

static void place_units(Work *work, const GArray *units)
{
    for (guint i = 0; i < units->len; i++) {
        guint first = g_array_index(units, ClusterUnit, i).guests[0];
        ClusterUnit unit;
        ClusterWhy why;
        Place place;

        /* Begun anew: those that left before it may bind it, or bind it no more. */
        if (!cluster_unit_begin(work->model, first, &unit, &why)) {
            note_stays(work, first, why, CLUSTER_NONE);
            continue;
        }
        place = find_place(work->model, &unit);
        if (place.to != CLUSTER_NONE) {
            add_steps(work, &unit, place.to);
            continue;
        }
        for (guint m = 0; m < unit.n; m++)
            note_stays(work, unit.guests[m], place.why, place.rule);
    }
}

ClusterDrain *cluster_drain_plan(const ClusterView *view, const ClusterThresholds *thresholds,
                                 const ClusterLimits *limits, guint host)
{
    ClusterDrain *drain = g_new0(ClusterDrain, 1);
    g_autoptr(ClusterModel) model = cluster_model_new(view, limits);
    g_autoptr(GArray) units = NULL;
    Work work = {model, host, drain};

    drain->stays = g_array_new(FALSE, FALSE, sizeof(ClusterStays));
    drain->steps = g_array_new(FALSE, FALSE, sizeof(ClusterDrainStep));
    model->ordered = TRUE;
    model->cpu_share = thresholds->cpu * BELOW_THRESHOLD;
    model->link_share = thresholds->link * BELOW_THRESHOLD;
    units = find_units(&work);
    place_units(&work, units);
    return drain;
}

void cluster_drain_free(ClusterDrain *drain)
{
    if (!drain)
        return;
    g_array_unref(drain->stays);
    g_array_unref(drain->steps);
    g_free(drain);
}

#include "policy/cluster_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The newest readings that stand for "now", where they are to be quick and no single one is to count. */
#define NOW_READINGS 3
#define STEEP_FROM 0.9
#define STEEP_SLOPE 100.0
double cluster_pressure(double share)
{
    double u = MAX(share, 0);

    if (u <= STEEP_FROM)
        return u / (1 - u);
    return STEEP_FROM / (1 - STEEP_FROM) + STEEP_SLOPE * (u - STEEP_FROM);
}

double cluster_memory_pressure(double share)
{
    double u = MAX(share, 0);

    return cluster_pressure(u < 1 ? u * u * u * u : u);
}

double cluster_load_pressure(const ClusterLoad *load)
{
    return cluster_pressure(load->cpu) + cluster_pressure(load->link) +
           cluster_memory_pressure(load->memory);
}

void cluster_need_add(ClusterNeed *sum, const ClusterNeed *need)
{
    sum->cpu += need->cpu;
    sum->link += need->link;
    sum->cpu_mean += need->cpu_mean;
    sum->cpu_variance += need->cpu_variance;
    sum->link_mean += need->link_mean;
    sum->link_variance += need->link_variance;
    sum->memory += need->memory;
    sum->resident += need->resident;
    sum->known = sum->known && need->known;
}

static void need_subtract(ClusterNeed *sum, const ClusterNeed *need)
{
    sum->cpu -= need->cpu;
    sum->link -= need->link;
    sum->cpu_mean -= need->cpu_mean;
    sum->cpu_variance -= need->cpu_variance;
    sum->link_mean -= need->link_mean;
    sum->link_variance -= need->link_variance;
    sum->memory -= need->memory;
    sum->resident -= need->resident;
}

/* ---- what a guest needs ---- */

static double deviation(const ClusterSeries *series, double mean)
{
    double sum = 0;
    guint known = 0;

    for (guint i = 0; i < series->length; i++) {
        double value = cluster_series_get(series, i);

        if (value >= 0) {
            sum += (value - mean) * (value - mean);
            known++;
        }
    }
    return known > 1 ? sqrt(sum / known) : 0;
}

static void expect(const ClusterSeries *series, const ClusterHistory *history, double now,
                   double all, const ClusterModel *model, double *ret_mean, double *ret_variance)
{
    double mean, above;

    *ret_mean = MAX(now, all);
    if (!history || !cluster_history_expect(history, model->view->now_ms, model->limits->ahead_ms,
                                            &mean, &above)) {
        above = deviation(series, cluster_series_mean(series, CLUSTER_SAMPLES));
    } else {
        /* What it needs beyond what is known of it may be such a deviation already. */
        double most = mean + above;

        *ret_mean = MAX(*ret_mean, mean);
        above = MAX(most - *ret_mean, 0);
    }
    *ret_variance = above * above;
}

static gboolean is_starved(const ClusterGuest *guest, double network)
{
    return guest->sla.network > 0 && cluster_series_last(&guest->backlog) > 0 &&
           network < guest->sla.network;
}

static ClusterNeed make_need(const ClusterModel *model, const ClusterGuest *guest)
{
    double network = cluster_series_mean(&guest->network, NOW_READINGS);
    double cpu = cluster_guest_demand(guest, NOW_READINGS);
    ClusterNeed need = {.memory = guest->memory_bytes,
                        .resident = guest->resident_bytes >= 0 ? guest->resident_bytes
                                                               : guest->memory_bytes,
                        .known = cpu >= 0 && guest->memory_bytes > 0};

    need.cpu = MAX(cpu, 0);
    need.link = is_starved(guest, network) ? guest->sla.network : MAX(network, 0);
    expect(&guest->cpu, guest->cpu_history, need.cpu, cluster_guest_demand(guest, CLUSTER_SAMPLES),
           model, &need.cpu_mean, &need.cpu_variance);
    expect(&guest->network, guest->network_history, need.link,
           cluster_series_mean(&guest->network, CLUSTER_SAMPLES), model, &need.link_mean,
           &need.link_variance);
    return need;
}

/* ---- what that comes to on a host ---- */

/* What runs beside guests: measured, less what they were measured to use. */
static void add_own_load(ClusterModel *model, guint h)
{
    const ClusterHost *host = &model->view->hosts[h];
    ClusterHostLoad *load = &model->loads[h];
    double cpu = cluster_series_mean(&host->cpu, NOW_READINGS);
    double link = cluster_series_mean(&host->network, NOW_READINGS);
    double available = cluster_series_last(&host->memory_available), resident = 0;

    load->known = host->usable && cpu >= 0 && host->cpus > 0 && host->memory_bytes > 0;
    for (guint i = model->first[h]; i < model->first[h + 1]; i++) {
        const ClusterGuest *guest = &model->view->guests[model->by_host[i]];

        cpu -= MAX(cluster_series_mean(&guest->cpu, NOW_READINGS), 0);
        link -= MAX(cluster_series_mean(&guest->network, NOW_READINGS), 0);
        load->memory_used += MAX(cluster_series_last(&guest->swapped), 0);
        resident += model->needs[model->by_host[i]].resident;
    }
    load->all.cpu += MAX(cpu, 0);
    load->all.cpu_mean += MAX(cpu, 0);
    load->all.link += MAX(link, 0);
    load->all.link_mean += MAX(link, 0);
    load->moves = host->moves;
    load->moves_lately = host->moves_lately;
    /* A host that says that it has more than it can have is believed what its guests take. */
    if (available < 0 || available > host->memory_bytes - resident / 2)
        available = MAX(host->memory_bytes - resident, 0);
    load->memory_used += host->memory_bytes - available;
    load->memory_free += available - host->memory_reserve_bytes;
}

static void arrive(ClusterModel *model, guint to, const ClusterNeed *need)
{
    cluster_need_add(&model->loads[to].all, need);
    model->loads[to].memory_used += need->resident;
    model->loads[to].memory_free -= need->resident;
}

static void sum_up(ClusterModel *model)
{
    for (guint h = 0; h < model->view->n_hosts; h++) {
        for (guint i = model->first[h]; i < model->first[h + 1]; i++) {
            guint g = model->by_host[i];

            cluster_need_add(&model->loads[h].all, &model->needs[g]);
            if (model->to[g] != CLUSTER_NONE && model->to[g] != h)
                cluster_need_add(&model->loads[h].leaving, &model->needs[g]);
        }
        add_own_load(model, h);
        model->moves += model->loads[h].moves;
    }
    model->moves = (model->moves + 1) / 2; /* each is told by both hosts */
}

static gint compare_guests(gconstpointer a, gconstpointer b, gpointer user)
{
    const ClusterGuest *guests = user;

    return strcmp(guests[*(const guint *)a].name, guests[*(const guint *)b].name);
}

/* Those that come are added by name, too. */
static void add_arrivals(ClusterModel *model)
{
    const ClusterView *view = model->view;
    g_autoptr(GArray) coming = g_array_new(FALSE, FALSE, sizeof(guint));

    for (guint g = 0; g < view->n_guests; g++)
        if (model->to[g] != CLUSTER_NONE && model->to[g] != model->host[g])
            g_array_append_val(coming, g);
    g_array_sort_with_data(coming, compare_guests, view->guests);
    for (guint i = 0; i < coming->len; i++) {
        guint g = g_array_index(coming, guint, i);

        arrive(model, model->to[g], &model->needs[g]);
    }
}

/* ---- indexes ---- */

static void index_guests(ClusterModel *model)
{
    const ClusterView *view = model->view;
    g_autofree guint *next = g_new(guint, view->n_hosts + 1);

    for (guint g = 0; g < view->n_guests; g++)
        model->first[view->guests[g].host + 1]++;
    for (guint h = 0; h < view->n_hosts; h++)
        model->first[h + 1] += model->first[h];
    memcpy(next, model->first, sizeof(guint) * (view->n_hosts + 1));
    for (guint g = 0; g < view->n_guests; g++)
        model->by_host[next[view->guests[g].host]++] = g;
    for (guint h = 0; h < view->n_hosts; h++)
        g_qsort_with_data(&model->by_host[model->first[h]],
                          (gint)(model->first[h + 1] - model->first[h]), sizeof(guint),
                          compare_guests, view->guests);
}

/* A rule that names a guest twice, or one that is not there, is read without that. */
static void index_rules(ClusterModel *model)
{
    const ClusterView *view = model->view;
    g_autofree guint *next = NULL;

    for (guint r = 0; r < view->n_rules; r++)
        for (guint i = 0; i < view->rules[r].n_guests; i++)
            if (view->rules[r].guests[i] < view->n_guests)
                model->first_rule[view->rules[r].guests[i] + 1]++;
    for (guint g = 0; g < view->n_guests; g++)
        model->first_rule[g + 1] += model->first_rule[g];
    model->rules_of = g_new(guint, model->first_rule[view->n_guests] + 1);
    next = g_memdup2(model->first_rule, sizeof(guint) * (view->n_guests + 1));
    for (guint r = 0; r < view->n_rules; r++)
        for (guint i = 0; i < view->rules[r].n_guests; i++)
            if (view->rules[r].guests[i] < view->n_guests)
                model->rules_of[next[view->rules[r].guests[i]]++] = r;
}

static guint find_root(guint *parents, guint g)
{
    while (parents[g] != g) {
        parents[g] = parents[parents[g]];
        g = parents[g];
    }
    return g;
}

static void join(ClusterModel *model, guint a, guint b)
{
    const ClusterGuest *guests = model->view->guests;

    a = find_root(model->together, a);
    b = find_root(model->together, b);
    if (a == b)
        return;
    if (strcmp(guests[a].name, guests[b].name) < 0)
        model->together[b] = a;
    else
        model->together[a] = b;
}

static void index_together(ClusterModel *model)
{
    const ClusterView *view = model->view;
    g_autofree guint *next = NULL;

    for (guint g = 0; g < view->n_guests; g++)
        model->together[g] = g;
    for (guint r = 0; r < view->n_rules; r++) {
        const ClusterRule *rule = &view->rules[r];

        if (rule->kind != CLUSTER_RULE_TOGETHER || !rule->strict)
            continue;
        for (guint i = 1; i < rule->n_guests; i++)
            if (rule->guests[0] < view->n_guests && rule->guests[i] < view->n_guests)
                join(model, rule->guests[0], rule->guests[i]);
    }
    for (guint g = 0; g < view->n_guests; g++) {
        model->together[g] = find_root(model->together, g);
        model->first_member[model->together[g] + 1]++;
    }
    for (guint g = 0; g < view->n_guests; g++)
        model->first_member[g + 1] += model->first_member[g];
    next = g_memdup2(model->first_member, sizeof(guint) * (view->n_guests + 1));
    for (guint i = 0; i < view->n_guests; i++) {
        guint g = model->by_host[i];

        model->members[next[model->together[g]]++] = g;
    }
}

ClusterModel *cluster_model_new(const ClusterView *view, const ClusterLimits *limits)
{
    ClusterModel *model = g_new0(ClusterModel, 1);

    *model = (ClusterModel){.view = view,
                            .limits = limits,
                            .cpu_share = limits->destination_cpu,
                            .link_share = limits->destination_link,
                            .needs = g_new0(ClusterNeed, view->n_guests + 1),
                            .loads = g_new0(ClusterHostLoad, view->n_hosts + 1),
                            .host = g_new0(guint, view->n_guests + 1),
                            .to = g_new0(guint, view->n_guests + 1),
                            .by_host = g_new0(guint, view->n_guests + 1),
                            .first = g_new0(guint, view->n_hosts + 2),
                            .first_rule = g_new0(guint, view->n_guests + 2),
                            .together = g_new0(guint, view->n_guests + 1),
                            .members = g_new0(guint, view->n_guests + 1),
                            .first_member = g_new0(guint, view->n_guests + 2),
                            .hot = g_new0(gboolean, view->n_hosts + 1),
                            .marks = g_new0(guint, view->n_hosts + 1)};
    for (guint g = 0; g < view->n_guests; g++) {
        model->needs[g] = make_need(model, &view->guests[g]);
        model->host[g] = view->guests[g].host;
        model->to[g] = view->guests[g].to < view->n_hosts ? view->guests[g].to : CLUSTER_NONE;
    }
    index_guests(model);
    index_rules(model);
    index_together(model);
    sum_up(model);
    add_arrivals(model);
    return model;
}

void cluster_model_free(ClusterModel *model)
{
    if (!model)
        return;
    g_free(model->needs);
    g_free(model->loads);
    g_free(model->host);
    g_free(model->to);
    g_free(model->by_host);
    g_free(model->first);
    g_free(model->rules_of);
    g_free(model->first_rule);
    g_free(model->together);
    g_free(model->members);
    g_free(model->first_member);
    g_free(model->hot);
    g_free(model->marks);
    g_free(model);
}

/* ---- loads ---- */

static ClusterLoad make_load(const ClusterHost *host, double cpu, double link, double memory)
{
    double usable = MAX(host->memory_bytes - host->memory_reserve_bytes, 1);

    return (ClusterLoad){.cpu = MAX(cpu, 0) / host->cpus,
                         .link =
                             host->link_bytes_per_s > 0 ? MAX(link, 0) / host->link_bytes_per_s : 0,
                         .memory = MAX(memory, 0) / usable};
}

ClusterLoad cluster_model_now(const ClusterModel *model, guint h, const ClusterNeed *less,
                              const ClusterNeed *more)
{
    const ClusterHostLoad *load = &model->loads[h];
    double cpu = load->all.cpu - load->leaving.cpu;
    double link = load->all.link - load->leaving.link;
    double memory = load->memory_used - load->leaving.resident;

    if (less) {
        cpu -= less->cpu;
        link -= less->link;
        memory -= less->resident;
    }
    if (more) {
        cpu += more->cpu;
        link += more->link;
        memory += more->resident;
    }
    return make_load(&model->view->hosts[h], cpu, link, memory);
}

ClusterLoad cluster_model_expected(const ClusterModel *model, guint h, const ClusterNeed *less,
                                   const ClusterNeed *more)
{
    const ClusterHostLoad *load = &model->loads[h];
    ClusterNeed all = load->all;
    double memory = load->memory_used;

    if (less) {
        need_subtract(&all, less);
        memory -= less->resident;
    }
    if (more) {
        cluster_need_add(&all, more);
        memory += more->resident;
    }
    return make_load(&model->view->hosts[h], all.cpu_mean + sqrt(MAX(all.cpu_variance, 0)),
                     all.link_mean + sqrt(MAX(all.link_variance, 0)), memory);
}

/* ---- changes ---- */

void cluster_model_apply(ClusterModel *model, const ClusterUnit *unit, guint to)
{
    cluster_need_add(&model->loads[unit->host].leaving, &unit->need);
    arrive(model, to, &unit->need);
    for (guint i = 0; i < unit->n; i++)
        model->to[unit->guests[i]] = to;
    model->loads[unit->host].moves++;
    model->loads[to].moves++;
    model->loads[unit->host].moves_lately += unit->n;
    model->loads[to].moves_lately += unit->n;
    model->moves++;
}

void cluster_model_complete(ClusterModel *model, const ClusterUnit *unit, guint to)
{
    ClusterHostLoad *source = &model->loads[unit->host];

    arrive(model, to, &unit->need);
    need_subtract(&source->all, &unit->need);
    source->memory_used -= unit->need.resident;
    source->memory_free += unit->need.resident;
    for (guint i = 0; i < unit->n; i++)
        model->host[unit->guests[i]] = to;
}

#include "policy/cluster_hotspots.h"

#include <math.h>

#include "base/error.h"

/* A share of all that a series varies by, below which it counts as constant: no slope is fitted to noise. */
#define LEAST_VARIANCE 1e-12
/* The newest readings that are forecast from. */
#define FORECAST_FROM 12
/* Of a host's CPUs, how much of what it uses may be there for a moment only. */
#define LASTING_SLACK 0.1

static const struct {
    const char *name;
    gboolean below; /* suffers where the reading is below the threshold */
} kinds[CLUSTER_HOT_KINDS] = {
    [CLUSTER_HOT_CPU_WAIT] = {"cpu-wait", FALSE}, [CLUSTER_HOT_NETWORK] = {"network", TRUE},
    [CLUSTER_HOT_SWAPPED] = {"swapped", FALSE},   [CLUSTER_HOT_CPU] = {"cpu", FALSE},
    [CLUSTER_HOT_LINK] = {"link", FALSE},         [CLUSTER_HOT_SWAP_OUT] = {"swap-out", FALSE},
    [CLUSTER_HOT_MEMORY] = {"memory", FALSE},
};

const char *cluster_hot_kind_name(ClusterHotKind kind)
{
    return kind < CLUSTER_HOT_KINDS ? kinds[kind].name : "unknown";
}

ClusterThresholds cluster_thresholds_default(void)
{
    return (ClusterThresholds){.k = 3,
                               .n = 5,
                               .cpu = 0.85,
                               .cpu_early = 0.7,
                               .link = 0.8,
                               .swap_out = 1 << 20,
                               .memory_pressure = 0.1};
}

gboolean cluster_thresholds_check(const ClusterThresholds *thresholds, GError **error)
{
    const struct {
        const char *name;
        double value, most;
    } fields[] = {{"cpu", thresholds->cpu, 1},
                  {"link", thresholds->link, 1},
                  {"swap-out", thresholds->swap_out, 1e15},
                  {"memory-pressure", thresholds->memory_pressure, 1}};

    for (guint i = 0; i < G_N_ELEMENTS(fields); i++)
        if (!(fields[i].value > 0 && fields[i].value <= fields[i].most)) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "threshold %s: takes a number above 0 and up to %g", fields[i].name,
                      fields[i].most);
            return FALSE;
        }
    if (!(thresholds->cpu_early >= 0 && thresholds->cpu_early <= thresholds->cpu)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "threshold cpu-early: takes a number from 0 (off) to %g, the threshold cpu",
                  thresholds->cpu);
        return FALSE;
    }
    if (thresholds->k < 1 || thresholds->k > thresholds->n || thresholds->n > CLUSTER_SAMPLES) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "thresholds: samples: takes \"K of N\" with 1 to N, and N up to %d",
                  CLUSTER_SAMPLES);
        return FALSE;
    }
    return TRUE;
}

/* Pairs of readings that follow each other, both known: next = mean_next + slope * (this - mean_this). */
double cluster_series_forecast(const ClusterSeries *series)
{
    double sum_x = 0, sum_y = 0, var = 0, cov = 0, last = cluster_series_last(series), next;
    guint pairs = 0, first = series->length > FORECAST_FROM ? series->length - FORECAST_FROM : 0;

    for (guint i = first; i + 1 < series->length; i++) {
        double x = cluster_series_get(series, i), y = cluster_series_get(series, i + 1);

        if (x < 0 || y < 0)
            continue;
        sum_x += x;
        sum_y += y;
        pairs++;
    }
    if (last < 0 || pairs < 2)
        return last;
    sum_x /= pairs;
    sum_y /= pairs;
    for (guint i = first; i + 1 < series->length; i++) {
        double x = cluster_series_get(series, i), y = cluster_series_get(series, i + 1);

        if (x < 0 || y < 0)
            continue;
        var += (x - sum_x) * (x - sum_x);
        cov += (x - sum_x) * (y - sum_y);
    }
    if (var <= LEAST_VARIANCE * (1 + sum_x * sum_x))
        return last;
    next = sum_y + CLAMP(cov / var, -1, 1) * (last - sum_x);
    return MAX(next, 0);
}

/* ---- one figure ---- */

typedef struct {
    const ClusterSeries *series;
    double unit; /* the threshold is a share of it */
    double threshold;
    ClusterHotKind kind;
    guint host, guest;
    gboolean early;
} Figure;

static gboolean is_beyond(ClusterHotKind kind, double value, double threshold)
{
    return value >= 0 && (kinds[kind].below ? value < threshold : value > threshold);
}

/* What is not urgent is above the limit on the whole, too. */
static gboolean is_early(const ClusterSeries *series, double limit)
{
    return series->length == CLUSTER_SAMPLES &&
           cluster_series_mean(series, CLUSTER_SAMPLES) > limit;
}

/* How many of the newest are beyond, of all that are kept in a row, and the newest one. */
static gboolean look(const Figure *figure, const ClusterThresholds *thresholds, ClusterHotspot *ret)
{
    const ClusterSeries *series = figure->series;
    double limit = figure->threshold * figure->unit;
    gboolean in_a_row = TRUE;

    if (!is_beyond(figure->kind, cluster_series_last(series), limit))
        return FALSE;
    *ret = (ClusterHotspot){.kind = figure->kind,
                            .host = figure->host,
                            .guest = figure->guest,
                            .value = cluster_series_last(series) / figure->unit,
                            .threshold = figure->threshold};
    for (guint back = 0; back < series->length; back++) {
        double value = cluster_series_get(series, series->length - 1u - back);
        gboolean beyond = is_beyond(figure->kind, value, limit);

        if (beyond && back < thresholds->n)
            ret->above++;
        in_a_row = in_a_row && beyond;
        if (in_a_row)
            ret->since++;
    }
    if (ret->above < thresholds->k || (figure->early && !is_early(series, limit)))
        return FALSE;
    ret->forecast = cluster_series_forecast(series) / figure->unit;
    return is_beyond(figure->kind, ret->forecast, figure->threshold);
}

static gboolean note(const Figure *figure, const ClusterThresholds *thresholds, GArray *hotspots)
{
    ClusterHotspot hotspot;

    /* Also where it is NaN. */
    if (!(figure->threshold > 0 && figure->unit > 0) || !look(figure, thresholds, &hotspot))
        return FALSE;
    hotspot.early = figure->early;
    g_array_append_val(hotspots, hotspot);
    return TRUE;
}

/* ---- what a guest was promised ---- */

/* What it gets, where something waited at that time; as much as promised where nothing did. */
static ClusterSeries starved_network(const ClusterGuest *guest)
{
    ClusterSeries starved = {0};
    guint length = MIN(guest->network.length, guest->backlog.length);

    for (guint i = 0; i < length; i++) {
        guint back = length - i;
        double network = cluster_series_get(&guest->network, guest->network.length - back);
        double backlog = cluster_series_get(&guest->backlog, guest->backlog.length - back);

        cluster_series_add(&starved, backlog > 0    ? network
                                     : backlog >= 0 ? guest->sla.network
                                                    : CLUSTER_UNKNOWN);
    }
    return starved;
}

/* Most guests have nothing in their queues. */
static gboolean is_starved_now(const ClusterGuest *guest)
{
    return cluster_series_last(&guest->backlog) > 0 &&
           is_beyond(CLUSTER_HOT_NETWORK, cluster_series_last(&guest->network), guest->sla.network);
}

/* What of a guest's newest reading is there for a moment only. */
static double momentary(const ClusterGuest *guest, guint n)
{
    double last = cluster_series_last(&guest->cpu), median = cluster_series_median(&guest->cpu, n);

    return last > 0 ? MAX(last - median, 0) : 0;
}

/* Of each host's newest reading, CPUs without what guests use for a moment only: spikes of one guest after the other keep a host
 * busy, and moving any of them helps nobody. */
static double *find_lasting(const ClusterView *view, guint n)
{
    double *lasting = g_new(double, view->n_hosts + 1);

    for (guint i = 0; i < view->n_hosts; i++)
        lasting[i] = cluster_series_last(&view->hosts[i].cpu);
    for (guint i = 0; i < view->n_guests; i++)
        if (view->guests[i].host < view->n_hosts)
            lasting[view->guests[i].host] -= momentary(&view->guests[i], n);
    return lasting;
}

static gboolean lasts(const ClusterHost *host, double lasting, double share)
{
    return lasting >
           MIN(share * host->cpus, cluster_series_last(&host->cpu)) - LASTING_SLACK * host->cpus;
}

static void look_at_guest(const ClusterView *view, guint i, const ClusterThresholds *thresholds,
                          double lasting, GArray *hotspots)
{
    const ClusterGuest *guest = &view->guests[i];
    const Figure wait = {
        &guest->cpu_wait, 1, guest->sla.cpu_wait, CLUSTER_HOT_CPU_WAIT, guest->host, i, FALSE};
    /* Any byte is too much. */
    const Figure swapped = {&guest->swapped, 1, 0.5, CLUSTER_HOT_SWAPPED, guest->host, i, FALSE};

    if (lasts(&view->hosts[guest->host], lasting, thresholds->cpu))
        note(&wait, thresholds, hotspots);
    if (guest->sla.network > 0 && is_starved_now(guest)) {
        ClusterSeries starved = starved_network(guest);
        const Figure network = {
            &starved, 1, guest->sla.network, CLUSTER_HOT_NETWORK, guest->host, i, FALSE};

        note(&network, thresholds, hotspots);
    }
    if (guest->sla.no_swap)
        note(&swapped, thresholds, hotspots);
}

static void look_at_host(const ClusterView *view, guint i, const ClusterThresholds *thresholds,
                         double lasting, GArray *hotspots)
{
    const ClusterHost *host = &view->hosts[i];
    const Figure figures[] = {
        {&host->cpu, host->cpus, thresholds->cpu, CLUSTER_HOT_CPU, i, CLUSTER_NONE, FALSE},
        {&host->network, host->link_bytes_per_s, thresholds->link, CLUSTER_HOT_LINK, i,
         CLUSTER_NONE, FALSE},
        {&host->swap_out, 1, thresholds->swap_out, CLUSTER_HOT_SWAP_OUT, i, CLUSTER_NONE, FALSE},
        {&host->memory_pressure, 1, thresholds->memory_pressure, CLUSTER_HOT_MEMORY, i,
         CLUSTER_NONE, FALSE},
    };

    const Figure early = {&host->cpu,   host->cpus, thresholds->cpu_early, CLUSTER_HOT_CPU, i,
                          CLUSTER_NONE, TRUE};
    guint before = hotspots->len;

    for (guint f = 0; f < G_N_ELEMENTS(figures); f++)
        if (figures[f].kind != CLUSTER_HOT_CPU || lasts(host, lasting, thresholds->cpu))
            note(&figures[f], thresholds, hotspots);
    if (hotspots->len == before && lasts(host, lasting, thresholds->cpu_early))
        note(&early, thresholds, hotspots);
}

/* By hosts, then the host before its guests, these by their names. */
static gint compare_hotspots(gconstpointer a, gconstpointer b, gpointer user)
{
    const ClusterHotspot *left = a, *right = b;
    const ClusterView *view = user;

    if (left->host != right->host)
        return left->host < right->host ? -1 : 1;
    if ((left->guest == CLUSTER_NONE) != (right->guest == CLUSTER_NONE))
        return left->guest == CLUSTER_NONE ? -1 : 1;
    if (left->guest != right->guest)
        return g_strcmp0(view->guests[left->guest].name, view->guests[right->guest].name);
    return (gint)left->kind - (gint)right->kind;
}

void cluster_find_hotspots(const ClusterView *view, const ClusterThresholds *thresholds,
                           GArray *hotspots)
{
    g_autofree double *lasting = find_lasting(view, thresholds->n);

    for (guint i = 0; i < view->n_hosts; i++)
        if (view->hosts[i].usable)
            look_at_host(view, i, thresholds, lasting[i], hotspots);
    for (guint i = 0; i < view->n_guests; i++)
        if (view->guests[i].host < view->n_hosts && view->hosts[view->guests[i].host].usable)
            look_at_guest(view, i, thresholds, lasting[view->guests[i].host], hotspots);
    g_array_sort_with_data(hotspots, compare_hotspots, (gpointer)view);
}

/* ---- for people ---- */

static char *percent(double share)
{
    return g_strdup_printf("%.3g %%", 100 * share);
}

/* Bytes or bytes/s, in MB. */
static char *mega(double bytes)
{
    return g_strdup_printf("%.3g MB", bytes / 1e6);
}

static char *describe_what(const ClusterView *view, const ClusterHotspot *h, const char *value,
                           const char *limit)
{
    const char *host = view->hosts[h->host].name;
    const char *guest = h->guest != CLUSTER_NONE ? view->guests[h->guest].name : "";

    switch (h->kind) {
    case CLUSTER_HOT_CPU_WAIT:
        return g_strdup_printf(
            "guest %s on %s waits for a CPU %s of its time, at most %s is promised", guest, host,
            value, limit);
    case CLUSTER_HOT_NETWORK:
        return g_strdup_printf(
            "guest %s on %s has packets waiting and gets %s/s of network, %s/s is promised", guest,
            host, value, limit);
    case CLUSTER_HOT_SWAPPED:
        return g_strdup_printf("guest %s on %s has %s swapped out, none is promised", guest, host,
                               value);
    case CLUSTER_HOT_CPU:
        return g_strdup_printf("host %s uses %s of its CPUs, more than %s", host, value, limit);
    case CLUSTER_HOT_LINK:
        return g_strdup_printf("host %s uses %s of its link, more than %s", host, value, limit);
    case CLUSTER_HOT_SWAP_OUT:
        return g_strdup_printf("host %s swaps out %s/s, more than %s/s", host, value, limit);
    case CLUSTER_HOT_MEMORY:
        return g_strdup_printf("host %s waits for memory %s of the time, more than %s", host, value,
                               limit);
    case CLUSTER_HOT_KINDS:
        break;
    }
    g_return_val_if_reached(NULL);
}

char *cluster_hotspot_describe(const ClusterView *view, const ClusterThresholds *thresholds,
                               const ClusterHotspot *hotspot)
{
    gboolean bytes = hotspot->kind == CLUSTER_HOT_NETWORK || hotspot->kind == CLUSTER_HOT_SWAPPED ||
                     hotspot->kind == CLUSTER_HOT_SWAP_OUT;
    char *(*format)(double) = bytes ? mega : percent;
    g_autofree char *value = format(hotspot->value);
    g_autofree char *limit = format(hotspot->threshold);
    g_autofree char *forecast = format(hotspot->forecast);
    g_autofree char *what = describe_what(view, hotspot, value, limit);

    return g_strdup_printf("%s; so in %u of %u readings, %s expected next", what, hotspot->above,
                           thresholds->n, forecast);
}

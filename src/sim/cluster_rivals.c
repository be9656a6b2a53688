#include "sim/cluster_rivals.h"

#include <math.h>

/* ---- what all of them look at ---- */

typedef struct {
    double cpu, net, memory; /* CPUs, bytes/s, bytes in use */
    gboolean leaving, usable;
} Load;

typedef struct {
    const ClusterView *view;
    Load *hosts;
    guint *by_host, *first; /* guests of host h */
    GArray *moves;
} Rival;

static void rival_init(Rival *rival, const ClusterView *view, guint readings, GArray *moves)
{
    g_autofree guint *next = g_new0(guint, view->n_hosts + 1);

    *rival = (Rival){.view = view,
                     .hosts = g_new0(Load, view->n_hosts + 1),
                     .by_host = g_new0(guint, view->n_guests + 1),
                     .first = g_new0(guint, view->n_hosts + 2),
                     .moves = moves};
    for (guint h = 0; h < view->n_hosts; h++) {
        const ClusterHost *host = &view->hosts[h];

        rival->hosts[h].cpu = MAX(cluster_series_mean(&host->cpu, readings), 0);
        rival->hosts[h].net = MAX(cluster_series_mean(&host->network, readings), 0);
        rival->hosts[h].memory = host->memory_bytes - cluster_series_last(&host->memory_available);
        rival->hosts[h].usable = host->usable;
    }
    for (guint g = 0; g < view->n_guests; g++) {
        rival->first[view->guests[g].host + 1]++;
        if (view->guests[g].to != CLUSTER_NONE)
            rival->hosts[view->guests[g].host].leaving = TRUE;
    }
    for (guint h = 0; h < view->n_hosts; h++) {
        rival->first[h + 1] += rival->first[h];
        next[h] = rival->first[h];
    }
    for (guint g = 0; g < view->n_guests; g++)
        rival->by_host[next[view->guests[g].host]++] = g;
}

static void rival_clear(Rival *rival)
{
    g_free(rival->hosts);
    g_free(rival->by_host);
    g_free(rival->first);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rival, rival_clear)

static double guest_memory(const ClusterGuest *guest)
{
    return guest->resident_bytes >= 0 ? guest->resident_bytes : guest->memory_bytes;
}

static void shift(Rival *rival, guint g, guint to, double cpu, double net)
{
    const ClusterGuest *guest = &rival->view->guests[g];
    Load *from = &rival->hosts[guest->host], *there = &rival->hosts[to];

    from->cpu -= cpu;
    from->net -= net;
    from->memory -= guest_memory(guest);
    there->cpu += cpu;
    there->net += net;
    there->memory += guest_memory(guest);
}

static void take(Rival *rival, guint g, guint to)
{
    ClusterPolicyMove move = {g, to};

    g_array_append_val(rival->moves, move);
}

static gboolean has_memory(const Rival *rival, guint g, guint h)
{
    const ClusterHost *host = &rival->view->hosts[h];

    return rival->hosts[h].memory + guest_memory(&rival->view->guests[g]) <=
           host->memory_bytes - host->memory_reserve_bytes;
}

/* ---- thresholds ---- */

#define HIGH_CPU 0.8
#define HIGH_READINGS 12 /* two minutes */

static gboolean threshold_place(Rival *rival, guint g)
{
    const ClusterView *view = rival->view;
    double cpu = MAX(cluster_series_mean(&view->guests[g].cpu, HIGH_READINGS), 0);
    double least = HIGH_CPU;
    guint best = CLUSTER_NONE;

    for (guint h = 0; h < view->n_hosts; h++) {
        double share = rival->hosts[h].cpu / view->hosts[h].cpus;
        double after = (rival->hosts[h].cpu + cpu) / view->hosts[h].cpus;

        if (h != view->guests[g].host && rival->hosts[h].usable && after < HIGH_CPU &&
            share < least && has_memory(rival, g, h)) {
            least = share;
            best = h;
        }
    }
    if (best == CLUSTER_NONE)
        return FALSE;
    take(rival, g, best);
    shift(rival, g, best, cpu, 0);
    return TRUE;
}

void cluster_rival_threshold(const ClusterView *view, GArray *moves)
{
    g_auto(Rival) rival = {0};

    rival_init(&rival, view, HIGH_READINGS, moves);
    for (guint h = 0; h < view->n_hosts; h++) {
        double most = INFINITY;

        if (rival.hosts[h].leaving || !rival.hosts[h].usable ||
            rival.hosts[h].cpu <= HIGH_CPU * view->hosts[h].cpus ||
            view->hosts[h].cpu.length < HIGH_READINGS)
            continue;
        /* The largest one, then the next smaller one. */
        for (;;) {
            guint largest = CLUSTER_NONE;
            double use = -1;

            for (guint i = rival.first[h]; i < rival.first[h + 1]; i++) {
                double cpu =
                    cluster_series_mean(&view->guests[rival.by_host[i]].cpu, HIGH_READINGS);

                if (cpu < most && cpu > use) {
                    use = cpu;
                    largest = rival.by_host[i];
                }
            }
            if (largest == CLUSTER_NONE || threshold_place(&rival, largest))
                break;
            most = use;
        }
    }
}

/* ---- Proxmox ---- */

#define PROXMOX_THRESHOLD 0.3
#define PROXMOX_MARGIN 0.1
#define PROXMOX_ROUNDS 3

static double node_load(const ClusterHost *host, const Load *load)
{
    return (load->cpu / host->cpus + load->memory / host->memory_bytes) / 2;
}

/* From the sum and the sum of squares. */
static double imbalance(double sum, double squares, guint n)
{
    double mean = sum / n, variance = squares / n - mean * mean;

    if (n < 2 || mean <= 0)
        return 0;
    return sqrt(MAX(variance, 0)) / mean / sqrt(n - 1.0);
}

void cluster_rival_proxmox(const ClusterView *view, guint *rounds, GArray *moves)
{
    g_auto(Rival) rival = {0};
    double sum = 0, squares = 0, now, best = INFINITY;
    guint n = 0;
    ClusterPolicyMove move = {CLUSTER_NONE, CLUSTER_NONE};

    rival_init(&rival, view, 1, moves);
    for (guint h = 0; h < view->n_hosts; h++) {
        double load = node_load(&view->hosts[h], &rival.hosts[h]);

        if (rival.hosts[h].leaving)
            return; /* none while any is under way */
        if (!rival.hosts[h].usable)
            continue;
        sum += load;
        squares += load * load;
        n++;
    }
    now = imbalance(sum, squares, n);
    *rounds = now > PROXMOX_THRESHOLD ? *rounds + 1 : 0;
    if (*rounds < PROXMOX_ROUNDS)
        return;
    *rounds = 0;
    for (guint g = 0; g < view->n_guests; g++) {
        const ClusterGuest *guest = &view->guests[g];
        double cpu = MAX(cluster_series_last(&guest->cpu), 0);

        for (guint h = 0; h < view->n_hosts; h++) {
            Load from = rival.hosts[guest->host], to = rival.hosts[h];
            double old_from = node_load(&view->hosts[guest->host], &from);
            double old_to = node_load(&view->hosts[h], &to), new_from, new_to, after;

            if (h == guest->host || !to.usable || !has_memory(&rival, g, h))
                continue;
            from.cpu -= cpu;
            from.memory -= guest_memory(guest);
            to.cpu += cpu;
            to.memory += guest_memory(guest);
            new_from = node_load(&view->hosts[guest->host], &from);
            new_to = node_load(&view->hosts[h], &to);
            after = imbalance(sum - old_from - old_to + new_from + new_to,
                              squares - old_from * old_from - old_to * old_to +
                                  new_from * new_from + new_to * new_to,
                              n);
            if (after < best) {
                best = after;
                move = (ClusterPolicyMove){g, h};
            }
        }
    }
    if (move.guest != CLUSTER_NONE && best <= now * (1 - PROXMOX_MARGIN))
        take(&rival, move.guest, move.to);
}

/* ---- Sandpiper ---- */

#define SANDPIPER_THRESHOLD 0.75
#define SANDPIPER_K 3
#define SANDPIPER_N 5
#define PROFILE_READINGS 12

typedef struct {
    guint index;
    double key;
} Ranked;

static gint compare_descending(gconstpointer a, gconstpointer b)
{
    const Ranked *left = a, *right = b;

    if (left->key != right->key)
        return left->key > right->key ? -1 : 1;
    return left->index < right->index ? -1 : left->index > right->index;
}

static double rest(double share)
{
    return MAX(1 - share, 0.01);
}

static double host_volume(const Rival *rival, guint h)
{
    const ClusterHost *host = &rival->view->hosts[h];
    const Load *load = &rival->hosts[h];

    return 1 / (rest(load->cpu / host->cpus) * rest(load->net / host->link_bytes_per_s) *
                rest(load->memory / host->memory_bytes));
}

/* Peaks, as its profiles have them. */
static double peak(const ClusterSeries *series)
{
    guint first = series->length > PROFILE_READINGS ? series->length - PROFILE_READINGS : 0;
    double most = 0;

    for (guint i = first; i < series->length; i++)
        most = MAX(most, cluster_series_get(series, i));
    return most;
}

static double guest_rank(const Rival *rival, guint g)
{
    const ClusterGuest *guest = &rival->view->guests[g];
    const ClusterHost *host = &rival->view->hosts[guest->host];
    double volume = 1 / (rest(cluster_series_last(&guest->cpu) / host->cpus) *
                         rest(cluster_series_last(&guest->network) / host->link_bytes_per_s) *
                         rest(guest_memory(guest) / host->memory_bytes));

    return volume / guest_memory(guest);
}

static gboolean lasts(const ClusterSeries *series, double limit)
{
    guint above = 0;

    for (guint back = 0; back < MIN(series->length, SANDPIPER_N); back++)
        above += cluster_series_get(series, series->length - 1u - back) > limit ? 1 : 0;
    return above >= SANDPIPER_K && cluster_series_forecast(series) > limit;
}

static gboolean is_hot(const ClusterHost *host)
{
    return lasts(&host->cpu, SANDPIPER_THRESHOLD * host->cpus) ||
           lasts(&host->network, SANDPIPER_THRESHOLD * host->link_bytes_per_s) ||
           cluster_series_last(&host->swap_out) > 0;
}

static gboolean is_over(const Rival *rival, guint h)
{
    const ClusterHost *host = &rival->view->hosts[h];
    const Load *load = &rival->hosts[h];

    return load->cpu > SANDPIPER_THRESHOLD * host->cpus ||
           load->net > SANDPIPER_THRESHOLD * host->link_bytes_per_s ||
           load->memory > host->memory_bytes;
}

/* With *in* there and *out* (may be CLUSTER_NONE) gone. */
static gboolean stays_below(const Rival *rival, guint h, guint in, guint out)
{
    const ClusterHost *host = &rival->view->hosts[h];
    const ClusterGuest *guest = &rival->view->guests[in];
    Load load = rival->hosts[h];

    load.cpu += peak(&guest->cpu);
    load.net += peak(&guest->network);
    load.memory += guest_memory(guest);
    if (out != CLUSTER_NONE) {
        load.cpu -= cluster_series_last(&rival->view->guests[out].cpu);
        load.net -= cluster_series_last(&rival->view->guests[out].network);
        load.memory -= guest_memory(&rival->view->guests[out]);
    }
    return load.usable && load.cpu <= SANDPIPER_THRESHOLD * host->cpus &&
           load.net <= SANDPIPER_THRESHOLD * host->link_bytes_per_s &&
           load.memory <= host->memory_bytes - host->memory_reserve_bytes;
}

static GArray *rank_hosts(const Rival *rival)
{
    GArray *ranked = g_array_new(FALSE, FALSE, sizeof(Ranked));

    for (guint h = 0; h < rival->view->n_hosts; h++) {
        Ranked entry = {h, host_volume(rival, h)};

        g_array_append_val(ranked, entry);
    }
    g_array_sort(ranked, compare_descending);
    return ranked;
}

static GArray *rank_guests(const Rival *rival, guint h)
{
    GArray *ranked = g_array_new(FALSE, FALSE, sizeof(Ranked));

    for (guint i = rival->first[h]; i < rival->first[h + 1]; i++) {
        Ranked entry = {rival->by_host[i], guest_rank(rival, rival->by_host[i])};

        if (rival->view->guests[entry.index].to == CLUSTER_NONE)
            g_array_append_val(ranked, entry);
    }
    g_array_sort(ranked, compare_descending);
    return ranked;
}

static gboolean sandpiper_move(Rival *rival, guint g)
{
    g_autoptr(GArray) hosts = rank_hosts(rival);

    for (guint i = hosts->len; i-- > 0;) {
        guint h = g_array_index(hosts, Ranked, i).index;

        if (h == rival->view->guests[g].host || !stays_below(rival, h, g, CLUSTER_NONE))
            continue;
        take(rival, g, h);
        shift(rival, g, h, cluster_series_last(&rival->view->guests[g].cpu),
              cluster_series_last(&rival->view->guests[g].network));
        return TRUE;
    }
    return FALSE;
}

/* The guest of highest rank with the one of least rank of the host with the least volume, where both fit. */
static void sandpiper_swap(Rival *rival, guint g)
{
    g_autoptr(GArray) hosts = rank_hosts(rival);
    guint from = rival->view->guests[g].host;

    for (guint i = hosts->len; i-- > 0;) {
        guint h = g_array_index(hosts, Ranked, i).index, other;
        g_autoptr(GArray) guests = rank_guests(rival, h);

        if (h == from || guests->len == 0)
            continue;
        other = g_array_index(guests, Ranked, guests->len - 1).index;
        if (!stays_below(rival, h, g, other) || !stays_below(rival, from, other, g))
            continue;
        take(rival, g, h);
        take(rival, other, from);
        shift(rival, g, h, cluster_series_last(&rival->view->guests[g].cpu),
              cluster_series_last(&rival->view->guests[g].network));
        return;
    }
}

void cluster_rival_sandpiper(const ClusterView *view, GArray *moves)
{
    g_auto(Rival) rival = {0};
    g_autoptr(GArray) hosts = NULL;

    rival_init(&rival, view, 1, moves);
    hosts = rank_hosts(&rival);
    for (guint i = 0; i < hosts->len; i++) {
        guint h = g_array_index(hosts, Ranked, i).index, before = moves->len;
        g_autoptr(GArray) guests = NULL;

        if (rival.hosts[h].leaving || !rival.hosts[h].usable || !is_hot(&view->hosts[h]))
            continue;
        guests = rank_guests(&rival, h);
        for (guint g = 0; g < guests->len && is_over(&rival, h); g++)
            sandpiper_move(&rival, g_array_index(guests, Ranked, g).index);
        if (moves->len == before && guests->len > 0 && is_over(&rival, h))
            sandpiper_swap(&rival, g_array_index(guests, Ranked, 0).index);
    }
}

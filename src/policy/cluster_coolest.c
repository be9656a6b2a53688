#include "policy/cluster_coolest.h"

#include <math.h>
#include <string.h>

/* Where hosts lack now this, now that, the tree cannot tell early; then the search ends here. */
#define MOST_STEPS 1024

typedef struct {
    double pressure;
    const char *name;
    guint host;
} Place;

static gint compare_places(gconstpointer a, gconstpointer b, gpointer user)
{
    const Place *left = a, *right = b;

    if (left->pressure != right->pressure)
        return left->pressure < right->pressure ? -1 : 1;
    return strcmp(left->name, right->name);
}

static void sort_hosts(ClusterCoolest *coolest, const ClusterModel *model)
{
    g_autofree Place *places = g_new(Place, coolest->n + 1);

    for (guint h = 0; h < coolest->n; h++) {
        ClusterLoad load = {0};

        if (model->loads[h].known)
            load = cluster_model_expected(model, h, NULL, NULL);
        places[h] = (Place){cluster_load_pressure(&load), model->view->hosts[h].name, h};
    }
    g_qsort_with_data(places, (gint)coolest->n, sizeof(*places), compare_places, NULL);
    for (guint i = 0; i < coolest->n; i++) {
        coolest->order[i] = places[i].host;
        coolest->place[places[i].host] = i;
    }
}

static ClusterRoom look(const ClusterModel *model, guint h)
{
    const ClusterHost *host = &model->view->hosts[h];
    const ClusterHostLoad *load = &model->loads[h];
    const ClusterLimits *limits = model->limits;
    double usable = host->memory_bytes - host->memory_reserve_bytes, link = host->link_bytes_per_s;
    ClusterLoad expected;

    if (!load->known || host->drained || !host->accepts || model->hot[h] ||
        (!model->ordered && load->moves >= limits->moves_per_host))
        return (ClusterRoom){.cpu = -1, .link = -1, .memory = -1, .promise = -1};
    expected = cluster_model_expected(model, h, NULL, NULL);
    return (ClusterRoom){.cpu = (model->cpu_share - expected.cpu) * host->cpus,
                         .link = link > 0 ? (model->link_share - expected.link) * link : INFINITY,
                         .memory = load->memory_free,
                         .promise = usable * limits->memory_overcommit - load->all.memory};
}

static void join(ClusterCoolest *coolest, guint node)
{
    const ClusterRoom *a = &coolest->rooms[2 * node], *b = a + 1;

    coolest->rooms[node] = (ClusterRoom){.cpu = MAX(a->cpu, b->cpu),
                                         .link = MAX(a->link, b->link),
                                         .memory = MAX(a->memory, b->memory),
                                         .promise = MAX(a->promise, b->promise)};
}

ClusterCoolest *cluster_coolest_new(const ClusterModel *model)
{
    ClusterCoolest *coolest = g_new0(ClusterCoolest, 1);

    coolest->n = model->view->n_hosts;
    coolest->leaves = 1;
    while (coolest->leaves < coolest->n)
        coolest->leaves *= 2;
    coolest->order = g_new(guint, coolest->n + 1);
    coolest->place = g_new(guint, coolest->n + 1);
    coolest->rooms = g_new(ClusterRoom, 2 * (gsize)coolest->leaves);
    sort_hosts(coolest, model);
    for (guint i = 0; i < coolest->leaves; i++)
        coolest->rooms[coolest->leaves + i] =
            i < coolest->n ? look(model, coolest->order[i])
                           : (ClusterRoom){.cpu = -1, .link = -1, .memory = -1, .promise = -1};
    for (guint node = coolest->leaves - 1; node > 0; node--)
        join(coolest, node);
    return coolest;
}

void cluster_coolest_free(ClusterCoolest *coolest)
{
    if (!coolest)
        return;
    g_free(coolest->order);
    g_free(coolest->place);
    g_free(coolest->rooms);
    g_free(coolest);
}

void cluster_coolest_update(ClusterCoolest *coolest, const ClusterModel *model, guint host)
{
    guint node = coolest->leaves + coolest->place[host];

    coolest->rooms[node] = look(model, host);
    for (node /= 2; node > 0; node /= 2)
        join(coolest, node);
}

static gboolean fits(const ClusterRoom *room, const ClusterNeed *need)
{
    return room->cpu >= need->cpu_mean && room->link >= need->link_mean &&
           room->memory >= need->resident && room->promise >= need->memory;
}

guint cluster_coolest_next(const ClusterCoolest *coolest, guint from, const ClusterNeed *need)
{
    guint node;

    if (from >= coolest->n)
        return coolest->n;
    /* Down to the left, else on to the right: past nodes that have too little of anything. */
    node = coolest->leaves + from;
    for (guint step = 0; step < MOST_STEPS; step++) {
        if (fits(&coolest->rooms[node], need)) {
            if (node >= coolest->leaves)
                return node - coolest->leaves;
            node *= 2;
            continue;
        }
        while (node & 1)
            node /= 2;
        if (node == 0)
            return coolest->n;
        node++;
    }
    return coolest->n;
}

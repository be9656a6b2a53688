#include "sim/cluster_world.h"

#include <math.h>
#include <string.h>

#include "sim/cluster_demand.h"
#include "sim/cluster_recording.h"

#define GIB 1073741824.0
#define MINUTE_MS 60000.0
#define HOUR_MS (60 * MINUTE_MS)
#define STEP_S (CLUSTER_STEP_MS / 1000)
/* What runs on each host beside its guests. */
#define OWN_CPU 0.3
#define OWN_MEMORY (2 * GIB)
#define RESERVE (2 * GIB)
/* Share of its runnable time that a vCPU waits on a host that is just full; that falls off steeply below. */
#define FULL_WAIT 0.25
#define WAIT_POWER 12
/* A move: of what links have free, bytes to be sent again, CPUs at each end, pause. */
#define MOVE_LINK_SHARE 0.5
#define MOVE_LEAST_RATE 20e6
#define MOVE_MOST_RATE 1e9
#define MOVE_AGAIN 1.15
#define MOVE_AGAIN_INTENSE 2.5
#define MOVE_CPU 0.5
#define PAUSE_S 0.2
#define PAUSE_INTENSE_S 1.5
#define SPOIL_MS (10 * MINUTE_MS)
#define COOL_DOWN_MS (15 * MINUTE_MS)
#define DAY_MS (24 * HOUR_MS)
#define SWAP_TOLERATED 1e6
#define LOSS_MS (30 * MINUTE_MS)
#define SLA_WAIT 0.05
#define LEFT_HOSTS 4

/* What a guest, or a host, was seen to use; a sum, or a mean, of some steps. */
typedef struct {
    double cpu, cpu_wait, network, backlog, swapped;           /* of a guest */
    double memory_available, memory_pressure, swap_out, waits; /* of a host, with cpu and network */
} ClusterReading;

typedef struct {
    ClusterDemandGuest demand;
    ClusterDemand now;
    gboolean intense; /* writes its memory all the time */
    double move_left; /* bytes */
    double moved[4];  /* times of the last moves, the newest first */
    struct {
        guint host;
        double ms;
    } left[LEFT_HOSTS];
    double swapped;
    ClusterReading sum; /* of the steps since the last reading */
} SimGuest;

typedef struct {
    double moves_ms[16]; /* when it took part in moves, the newest first */
    double move_cpu, move_link;
    double cpu, link, memory; /* demanded */
    gboolean lost;
    ClusterReading sum;
} SimHost;

/* A destination that is watched. */
typedef struct {
    guint host;
    double until_ms;
} Watched;

struct ClusterWorld {
    ClusterWorldOptions options;
    ClusterView view;
    ClusterHost *hosts;
    ClusterGuest *guests;
    SimHost *sim_hosts;
    SimGuest *sim_guests;
    ClusterHistory *cpu_histories, *network_histories;
    char **names;
    GRand *rand;
    guint step, steps;
    GArray *watched;
    ClusterWorldResult result;
};

/* ---- making it ---- */

static void make_hosts(ClusterWorld *world)
{
    for (guint h = 0; h < world->options.hosts; h++) {
        gboolean large = h % 4 == 3;

        world->names[h] = g_strdup_printf("host%05u", h);
        world->hosts[h] = (ClusterHost){.name = world->names[h],
                                        .usable = TRUE,
                                        .accepts = TRUE,
                                        .cpus = large ? 32 : 16,
                                        .memory_bytes = (large ? 128 : 64) * GIB,
                                        .memory_reserve_bytes = RESERVE,
                                        .link_bytes_per_s = 1.25e9};
    }
}

/* Guests are promised more memory than there is where they leak. */
static double overcommit(ClusterTraceKind kind)
{
    return kind == CLUSTER_TRACE_LEAK ? 1.5 : 1;
}

/* At random, by the size of hosts, where there is memory. */
static guint draw_host(ClusterWorld *world, const double *promised, double memory)
{
    guint best = 0;
    double most = -INFINITY;

    for (guint i = 0; i < 40; i++) {
        guint h = (guint)g_rand_int_range(world->rand, 0, (gint32)world->options.hosts);
        double room = (world->hosts[h].memory_bytes - RESERVE - OWN_MEMORY) *
                          overcommit(world->options.kind) -
                      promised[h] - memory;

        if (world->sim_hosts[h].lost)
            continue;
        if (room >= 0)
            return h;
        if (room > most) {
            most = room;
            best = h;
        }
    }
    return best;
}

static void make_guest(ClusterWorld *world, guint g, double *promised)
{
    SimGuest *sim = &world->sim_guests[g];
    ClusterGuest *guest = &world->guests[g];
    char *name = g_strdup_printf("guest%06u", g);

    world->names[world->options.hosts + g] = name;
    cluster_demand_init(&sim->demand, world->options.kind, g, world->rand);
    sim->intense = g_rand_double(world->rand) < 0.1;
    for (guint i = 0; i < LEFT_HOSTS; i++)
        sim->left[i].host = CLUSTER_NONE;
    *guest = (ClusterGuest){.name = name,
                            .to = CLUSTER_NONE,
                            .vcpus = sim->demand.vcpus,
                            .memory_bytes = sim->demand.memory_bytes,
                            .sla = {.cpu_wait = SLA_WAIT, .no_swap = TRUE},
                            .cpu_history = &world->cpu_histories[g],
                            .network_history = &world->network_histories[g],
                            .move_ms = CLUSTER_UNKNOWN,
                            .move_bytes = CLUSTER_UNKNOWN,
                            .move_pause_ms = CLUSTER_UNKNOWN,
                            .moved_at_ms = CLUSTER_UNKNOWN};
    if (g_rand_double(world->rand) < 0.3)
        guest->sla.network = sim->demand.base_network * 2;
    guest->host = draw_host(world, promised, guest->memory_bytes);
    promised[guest->host] += guest->memory_bytes;
}

static void make_from_recording(ClusterWorld *world)
{
    const ClusterRecording *recording = world->options.recording;

    for (guint h = 0; h < world->options.hosts; h++) {
        ClusterHost *host = &world->hosts[h];

        host->cpus = recording->hosts[h].cpus;
        host->memory_bytes = recording->hosts[h].memory;
        host->memory_reserve_bytes = MIN(RESERVE, host->memory_bytes / 8);
        host->link_bytes_per_s = recording->hosts[h].link;
    }
    for (guint g = 0; g < world->options.guests; g++) {
        ClusterGuest *guest = &world->guests[g];

        guest->host = recording->guests[g].host;
        guest->vcpus = recording->guests[g].vcpus;
        guest->memory_bytes = recording->guests[g].memory;
        guest->sla =
            (ClusterSla){recording->guests[g].cpu_wait, recording->guests[g].network, TRUE};
    }
}

ClusterWorld *cluster_world_new(const ClusterWorldOptions *options)
{
    ClusterWorld *world = g_new0(ClusterWorld, 1);
    g_autofree double *promised = NULL;
    guint n_hosts, n_guests;
    double hours = options->hours > 0 ? options->hours : cluster_demand_hours(options->kind);

    world->options = *options;
    if (options->recording) {
        world->options.hosts = options->recording->n_hosts;
        world->options.guests = options->recording->n_guests;
    }
    n_hosts = world->options.hosts;
    n_guests = world->options.guests;
    world->options.reading_steps = MAX(options->reading_steps, 1);
    world->steps = options->recording ? options->recording->steps * options->recording->repeat
                                      : (guint)(hours * HOUR_MS / CLUSTER_STEP_MS);
    world->rand = g_rand_new_with_seed((guint32)options->seed);
    world->hosts = g_new0(ClusterHost, n_hosts + 1);
    world->guests = g_new0(ClusterGuest, n_guests + 1);
    world->sim_hosts = g_new0(SimHost, n_hosts + 1);
    world->sim_guests = g_new0(SimGuest, n_guests + 1);
    world->cpu_histories = g_new0(ClusterHistory, n_guests + 1);
    world->network_histories = g_new0(ClusterHistory, n_guests + 1);
    world->names = g_new0(char *, n_hosts + n_guests + 1);
    world->watched = g_array_new(FALSE, FALSE, sizeof(Watched));
    promised = g_new0(double, n_hosts + 1);
    make_hosts(world);
    for (guint g = 0; g < n_guests; g++)
        make_guest(world, g, promised);
    if (options->recording)
        make_from_recording(world);
    for (guint h = 0; h < n_hosts; h++)
        for (guint i = 0; i < G_N_ELEMENTS(world->sim_hosts[h].moves_ms); i++)
            world->sim_hosts[h].moves_ms[i] = -INFINITY;
    world->view = (ClusterView){
        .hosts = world->hosts, .n_hosts = n_hosts, .guests = world->guests, .n_guests = n_guests};
    return world;
}

void cluster_world_free(ClusterWorld *world)
{
    if (!world)
        return;
    for (guint i = 0; i < world->options.hosts + world->options.guests; i++)
        g_free(world->names[i]);
    g_free(world->names);
    g_free(world->hosts);
    g_free(world->guests);
    g_free(world->sim_hosts);
    g_free(world->sim_guests);
    g_free(world->cpu_histories);
    g_free(world->network_histories);
    g_array_unref(world->watched);
    g_rand_free(world->rand);
    g_free(world);
}

const ClusterView *cluster_world_view(const ClusterWorld *world)
{
    return &world->view;
}

ClusterWorldResult *cluster_world_result(ClusterWorld *world)
{
    return &world->result;
}

/* ---- moves ---- */

static double room_for(const ClusterWorld *world, guint h)
{
    return world->hosts[h].memory_bytes - OWN_MEMORY - world->sim_hosts[h].memory;
}

static void note_move(ClusterWorld *world, guint h)
{
    double *times = world->sim_hosts[h].moves_ms;

    memmove(&times[1], &times[0], sizeof(double) * 15);
    times[0] = world->view.now_ms;
    world->hosts[h].moves++;
}

/* How many moves a guest has made within a cool-down, this one counted. */
static void count_guest(ClusterWorld *world, SimGuest *sim)
{
    guint lately = 1;

    for (guint i = 0; i < 4; i++)
        if (sim->moved[i] > 0 && world->view.now_ms - sim->moved[i] < COOL_DOWN_MS)
            lately++;
    world->result.most_per_guest = MAX(world->result.most_per_guest, lately);
}

gboolean cluster_world_move(ClusterWorld *world, guint g, guint to)
{
    ClusterGuest *guest = &world->guests[g];
    SimGuest *sim = &world->sim_guests[g];

    if (to >= world->options.hosts || guest->to != CLUSTER_NONE || to == guest->host ||
        world->sim_hosts[to].lost || room_for(world, to) < sim->now.memory) {
        world->result.failed++;
        return FALSE;
    }
    count_guest(world, sim);
    guest->to = to;
    guest->mobility = CLUSTER_IN_MOTION;
    sim->move_left = sim->now.memory * (sim->intense ? MOVE_AGAIN_INTENSE : MOVE_AGAIN);
    world->result.moved_bytes += sim->move_left;
    note_move(world, guest->host);
    note_move(world, to);
    /* Taken there already, as QEMU's memory is. */
    world->sim_hosts[to].memory += sim->now.memory;
    world->result.moves++;
    return TRUE;
}

/* A guest that comes back to where it was within a day. */
static gboolean note_left(ClusterWorld *world, SimGuest *sim, guint from, guint to)
{
    gboolean came_back = FALSE;

    for (guint i = 0; i < LEFT_HOSTS; i++)
        if (sim->left[i].host == to && world->view.now_ms - sim->left[i].ms < DAY_MS)
            came_back = TRUE;
    memmove(&sim->left[1], &sim->left[0], sizeof(sim->left[0]) * (LEFT_HOSTS - 1));
    sim->left[0].host = from;
    sim->left[0].ms = world->view.now_ms;
    return came_back;
}

static void finish_move(ClusterWorld *world, guint g)
{
    ClusterGuest *guest = &world->guests[g];
    SimGuest *sim = &world->sim_guests[g];
    Watched watched = {guest->to, world->view.now_ms + SPOIL_MS};
    double pause = sim->intense ? PAUSE_INTENSE_S : PAUSE_S;

    world->hosts[guest->host].moves--;
    world->hosts[guest->to].moves--;
    if (note_left(world, sim, guest->host, guest->to))
        guest->returns++;
    guest->host = guest->to;
    guest->to = CLUSTER_NONE;
    guest->mobility = CLUSTER_CAN_MOVE;
    guest->moved_at_ms = world->view.now_ms;
    memmove(&sim->moved[1], &sim->moved[0], sizeof(double) * 3);
    sim->moved[0] = world->view.now_ms;
    world->result.pause_s += pause;
    world->result.violation_s += pause;
    g_array_append_val(world->watched, watched);
}

static double free_link(const ClusterWorld *world, guint h)
{
    return MAX(world->hosts[h].link_bytes_per_s - world->sim_hosts[h].link, 0) /
           MAX(world->hosts[h].moves, 1);
}

static void go_on_moving(ClusterWorld *world, guint g)
{
    ClusterGuest *guest = &world->guests[g];
    SimGuest *sim = &world->sim_guests[g];
    double rate = MIN(free_link(world, guest->host), free_link(world, guest->to));

    rate = CLAMP(rate * MOVE_LINK_SHARE, MOVE_LEAST_RATE, MOVE_MOST_RATE);
    for (guint end = 0; end < 2; end++) {
        SimHost *host = &world->sim_hosts[end ? guest->to : guest->host];

        host->move_cpu += MOVE_CPU;
        host->move_link += MIN(rate, sim->move_left / STEP_S);
    }
    sim->move_left -= rate * STEP_S;
}

/* ---- a step ---- */

static void demand(ClusterWorld *world)
{
    const ClusterRecording *recording = world->options.recording;

    for (guint h = 0; h < world->options.hosts; h++) {
        SimHost *host = &world->sim_hosts[h];

        host->cpu = OWN_CPU;
        host->link = host->memory = host->move_cpu = host->move_link = 0;
    }
    for (guint g = 0; g < world->options.guests; g++) {
        SimGuest *sim = &world->sim_guests[g];
        const ClusterGuest *guest = &world->guests[g];

        sim->now = recording ? cluster_recording_get(recording, world->step / recording->repeat, g)
                             : cluster_demand_next(&sim->demand, world->options.kind,
                                                   world->view.now_ms, world->rand);
        world->sim_hosts[guest->host].cpu += sim->now.cpu;
        world->sim_hosts[guest->host].link += sim->now.network;
        world->sim_hosts[guest->host].memory += sim->now.memory;
        if (guest->to != CLUSTER_NONE)
            world->sim_hosts[guest->to].memory += sim->now.memory;
    }
}

/* Share of its runnable time that a vCPU waits. */
static double waiting(double demanded, double cpus)
{
    double full = MIN(demanded / cpus, 1), queue = FULL_WAIT * pow(full, WAIT_POWER);

    return queue + (1 - queue) * MAX(1 - cpus / demanded, 0);
}

static ClusterReading mean_of(const ClusterReading *sum, guint n)
{
    return (ClusterReading){.cpu = sum->cpu / n,
                            .cpu_wait = sum->cpu_wait / n,
                            .network = sum->network / n,
                            .backlog = sum->backlog / n,
                            .swapped = sum->swapped / n,
                            .memory_available = sum->memory_available / n,
                            .memory_pressure = sum->memory_pressure / n,
                            .swap_out = sum->swap_out / n,
                            .waits = sum->waits / n};
}

gboolean cluster_world_has_reading(const ClusterWorld *world)
{
    return world->step % world->options.reading_steps == 0;
}

/* A step of a guest, and whether its SLA was missed in it. */
static void watch_guest(ClusterWorld *world, guint g)
{
    ClusterGuest *guest = &world->guests[g];
    SimGuest *sim = &world->sim_guests[g];
    const ClusterHost *host = &world->hosts[guest->host];
    const SimHost *there = &world->sim_hosts[guest->host];
    double cpu = there->cpu + there->move_cpu, link = there->link + there->move_link;
    double short_of = MAX(there->memory + OWN_MEMORY - host->memory_bytes, 0);
    double wait = waiting(cpu, host->cpus) * sim->now.cpu / guest->vcpus;
    double network = sim->now.network * MIN(host->link_bytes_per_s / MAX(link, 1), 1);
    gboolean violated;

    sim->swapped = short_of * sim->now.memory / MAX(there->memory, 1);
    guest->resident_bytes = sim->now.memory;
    sim->sum.cpu += sim->now.cpu * MIN(host->cpus / cpu, 1);
    sim->sum.cpu_wait += wait;
    sim->sum.network += network;
    sim->sum.backlog += network < sim->now.network * 0.99 ? 1e5 : 0;
    sim->sum.swapped += sim->swapped > SWAP_TOLERATED ? sim->swapped : 0;
    guest->move_bytes = sim->now.memory * (sim->intense ? MOVE_AGAIN_INTENSE : MOVE_AGAIN);
    guest->move_pause_ms = (sim->intense ? PAUSE_INTENSE_S : PAUSE_S) * 1000;
    violated =
        wait > guest->sla.cpu_wait ||
        (guest->sla.network > 0 && network < MIN(sim->now.network, guest->sla.network) * 0.99) ||
        sim->swapped > SWAP_TOLERATED;
    world->result.violation_s += violated ? STEP_S : 0;
}

static void read_guest(ClusterWorld *world, guint g)
{
    ClusterGuest *guest = &world->guests[g];
    ClusterReading *sum = &world->sim_guests[g].sum;
    ClusterReading mean = mean_of(sum, world->options.reading_steps);

    *sum = (ClusterReading){0};
    cluster_series_add(&guest->cpu, mean.cpu);
    cluster_series_add(&guest->cpu_wait, mean.cpu_wait);
    cluster_series_add(&guest->network, mean.network);
    cluster_series_add(&guest->backlog, mean.backlog);
    cluster_series_add(&guest->swapped, mean.swapped);
    cluster_history_add(&world->cpu_histories[g], world->view.now_ms,
                        cluster_guest_demand(guest, 1));
    cluster_history_add(&world->network_histories[g], world->view.now_ms, mean.network);
}

static void watch_host(ClusterWorld *world, guint h)
{
    ClusterHost *host = &world->hosts[h];
    SimHost *sim = &world->sim_hosts[h];
    double used = sim->memory + OWN_MEMORY, short_of = MAX(used - host->memory_bytes, 0);

    host->usable = !sim->lost;
    sim->sum.cpu += MIN(sim->cpu, host->cpus);
    sim->sum.waits += waiting(sim->cpu, host->cpus);
    sim->sum.network += MIN(sim->link, host->link_bytes_per_s);
    sim->sum.memory_available += MAX(host->memory_bytes - used, 0);
    sim->sum.memory_pressure += MIN(short_of / host->memory_bytes * 10, 1);
    sim->sum.swap_out += short_of / 100;
    host->moves_lately = 0;
    for (guint i = 0; i < G_N_ELEMENTS(sim->moves_ms); i++)
        if (world->view.now_ms - sim->moves_ms[i] < HOUR_MS)
            host->moves_lately++;
}

static void read_host(ClusterWorld *world, guint h)
{
    ClusterHost *host = &world->hosts[h];
    ClusterReading *sum = &world->sim_hosts[h].sum;
    ClusterReading mean = mean_of(sum, world->options.reading_steps);

    *sum = (ClusterReading){0};
    cluster_series_add(&host->cpu, mean.cpu);
    cluster_series_add(&host->cpu_pressure, mean.waits);
    cluster_series_add(&host->network, mean.network);
    cluster_series_add(&host->memory_available, mean.memory_available);
    cluster_series_add(&host->memory_pressure, mean.memory_pressure);
    cluster_series_add(&host->swap_out, mean.swap_out);
}

/* A tenth of the hosts end; their guests start elsewhere. */
static void lose_hosts(ClusterWorld *world)
{
    g_autofree double *promised = g_new0(double, world->options.hosts + 1);

    for (guint h = 0; h < world->options.hosts; h += 10)
        world->sim_hosts[h].lost = TRUE;
    for (guint g = 0; g < world->options.guests; g++)
        promised[world->guests[g].host] += world->guests[g].memory_bytes;
    for (guint g = 0; g < world->options.guests; g++) {
        ClusterGuest *guest = &world->guests[g];

        if (guest->to != CLUSTER_NONE &&
            (world->sim_hosts[guest->host].lost || world->sim_hosts[guest->to].lost)) {
            world->hosts[guest->host].moves--;
            world->hosts[guest->to].moves--;
            guest->to = CLUSTER_NONE;
            guest->mobility = CLUSTER_CAN_MOVE;
        }
        if (!world->sim_hosts[guest->host].lost)
            continue;
        guest->host = draw_host(world, promised, guest->memory_bytes);
        promised[guest->host] += guest->memory_bytes;
    }
}

static gboolean is_hot(const GArray *hotspots, guint host)
{
    for (guint i = 0; i < hotspots->len; i++) {
        const ClusterHotspot *h = &g_array_index(hotspots, ClusterHotspot, i);

        if (h->host == host && h->guest == CLUSTER_NONE)
            return TRUE;
    }
    return FALSE;
}

static void watch_destinations(ClusterWorld *world)
{
    ClusterThresholds thresholds = cluster_thresholds_default();
    g_autoptr(GArray) hotspots = NULL;

    thresholds.cpu_early = 0;
    if (world->watched->len == 0)
        return;
    hotspots = g_array_new(FALSE, FALSE, sizeof(ClusterHotspot));
    cluster_find_hotspots(&world->view, &thresholds, hotspots);
    for (guint i = 0; i < world->watched->len;) {
        const Watched *watched = &g_array_index(world->watched, Watched, i);

        if (is_hot(hotspots, watched->host)) {
            world->result.spoiled++;
            g_array_remove_index_fast(world->watched, i);
        } else if (world->view.now_ms >= watched->until_ms) {
            g_array_remove_index_fast(world->watched, i);
        } else {
            i++;
        }
    }
}

static void take_readings(ClusterWorld *world)
{
    for (guint g = 0; g < world->options.guests; g++)
        read_guest(world, g);
    for (guint h = 0; h < world->options.hosts; h++)
        read_host(world, h);
}

gboolean cluster_world_step(ClusterWorld *world)
{
    if (world->step >= world->steps)
        return FALSE;
    world->view.now_ms = (world->step + 1) * CLUSTER_STEP_MS;
    if (world->options.kind == CLUSTER_TRACE_LOSS &&
        fabs(world->view.now_ms - LOSS_MS) < CLUSTER_STEP_MS / 2)
        lose_hosts(world);
    demand(world);
    for (guint g = 0; g < world->options.guests; g++)
        if (world->guests[g].to != CLUSTER_NONE)
            go_on_moving(world, g);
    for (guint g = 0; g < world->options.guests; g++)
        watch_guest(world, g);
    for (guint h = 0; h < world->options.hosts; h++)
        watch_host(world, h);
    world->step++;
    if (cluster_world_has_reading(world))
        take_readings(world);
    for (guint g = 0; g < world->options.guests; g++)
        if (world->guests[g].to != CLUSTER_NONE && world->sim_guests[g].move_left <= 0)
            finish_move(world, g);
    watch_destinations(world);
    return TRUE;
}

/* ---- a recording ---- */

char *cluster_world_record_header(const ClusterWorld *world)
{
    return cluster_recording_header_line(&world->view);
}

char *cluster_world_record_step(const ClusterWorld *world)
{
    g_autofree ClusterDemand *demands = g_new(ClusterDemand, world->options.guests + 1);

    for (guint g = 0; g < world->options.guests; g++)
        demands[g] = world->sim_guests[g].now;
    return cluster_recording_step_line(demands, world->options.guests);
}

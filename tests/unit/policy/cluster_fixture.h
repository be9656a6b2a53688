/* A small cluster whose figures stand still, for tests of what decides over it. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "policy/cluster_placement.h"

#define GIB 1073741824.0
#define MOST_HOSTS 64
#define MOST_GUESTS 256

typedef struct {
    ClusterView view;
    ClusterHost hosts[MOST_HOSTS];
    ClusterGuest guests[MOST_GUESTS];
    ClusterRule rules[8];
    char names[MOST_HOSTS + MOST_GUESTS][16];
    ClusterThresholds thresholds;
    ClusterLimits limits;
} Fixture;

static inline void fill(ClusterSeries *series, double value)
{
    memset(series, 0, sizeof(*series));
    for (guint i = 0; i < CLUSTER_SAMPLES; i++)
        cluster_series_add(series, value);
}

/* 16 CPUs, 64 GiB, 1.25 GB/s; idle. */
static inline guint add_host(Fixture *f)
{
    guint h = f->view.n_hosts++;
    ClusterHost *host = &f->hosts[h];

    g_snprintf(f->names[h], sizeof(f->names[h]), "h%u", h);
    *host = (ClusterHost){.name = f->names[h],
                          .usable = TRUE,
                          .accepts = TRUE,
                          .cpus = 16,
                          .memory_bytes = 64 * GIB,
                          .memory_reserve_bytes = 2 * GIB,
                          .link_bytes_per_s = 1.25e9};
    fill(&host->cpu, 0);
    fill(&host->network, 0);
    fill(&host->memory_available, 64 * GIB);
    fill(&host->memory_pressure, 0);
    fill(&host->swap_out, 0);
    return h;
}

static inline void add_to(ClusterSeries *series, double value)
{
    for (guint i = 0; i < series->length; i++)
        series->values[i] += (float)value;
}

static inline guint add_guest(Fixture *f, guint host, double cpu, double memory_gib)
{
    guint g = f->view.n_guests++;
    ClusterGuest *guest = &f->guests[g];
    char *name = f->names[MOST_HOSTS + g];

    g_snprintf(name, sizeof(f->names[0]), "g%03u", g);
    *guest = (ClusterGuest){.name = name,
                            .host = host,
                            .to = CLUSTER_NONE,
                            .memory_bytes = memory_gib * GIB,
                            .resident_bytes = memory_gib * GIB,
                            .vcpus = (guint)cpu + 1,
                            .move_ms = 2000,
                            .move_bytes = memory_gib * GIB,
                            .move_pause_ms = 100,
                            .moved_at_ms = CLUSTER_UNKNOWN};
    fill(&guest->cpu, cpu);
    fill(&guest->cpu_wait, 0);
    fill(&guest->network, 1e6);
    fill(&guest->backlog, 0);
    fill(&guest->swapped, 0);
    add_to(&f->hosts[host].cpu, cpu);
    add_to(&f->hosts[host].network, 1e6);
    add_to(&f->hosts[host].memory_available, -memory_gib * GIB);
    return g;
}

static inline Fixture *fixture_new(guint hosts)
{
    Fixture *f = g_new0(Fixture, 1);

    f->view =
        (ClusterView){.now_ms = 3600000, .hosts = f->hosts, .guests = f->guests, .rules = f->rules};
    f->thresholds = cluster_thresholds_default();
    f->limits = cluster_limits_default();
    for (guint h = 0; h < hosts; h++)
        add_host(f);
    return f;
}

static inline GArray *hotspots_of(const Fixture *f)
{
    GArray *hotspots = g_array_new(FALSE, FALSE, sizeof(ClusterHotspot));

    cluster_find_hotspots(&f->view, &f->thresholds, hotspots);
    return hotspots;
}

static inline ClusterPlan *plan_of(const Fixture *f)
{
    g_autoptr(GArray) hotspots = hotspots_of(f);

    return cluster_plan_make(&f->view, &f->thresholds, &f->limits, hotspots);
}

static inline const ClusterMove *move_of(const ClusterPlan *plan, guint i)
{
    assert_true(i < plan->moves->len);
    return &g_array_index(plan->moves, ClusterMove, i);
}

static inline const ClusterAnswer *answer_of(const ClusterPlan *plan, guint i)
{
    assert_true(i < plan->answers->len);
    return &g_array_index(plan->answers, ClusterAnswer, i);
}

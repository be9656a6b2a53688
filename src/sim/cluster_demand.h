/* What guests of a simulated cluster demand, step by step (private to the simulator). */
#pragma once

#include "sim/cluster_world.h"

typedef struct {
    double cpu;     /* CPUs */
    double network; /* bytes/s */
    double memory;  /* bytes */
} ClusterDemand;

/* A guest of a trace; what it is like, and where it is in it. */
typedef struct {
    guint vcpus;
    double memory_bytes;
    double base_cpu, base_network,
        base_memory; /* shares of its vCPUs; bytes/s; share of its memory */
    double amplitude, phase_h;
    double leak_per_h; /* share of its memory */
    double noise;
    double busy_until_ms, rests_until_ms;
    double busy_rate, busy_ms; /* bursts an hour, and how long */
    gboolean special; /* the hot guest, one that leaks, one that flaps; one that has a spike now */
} ClusterDemandGuest;

/* Draws a guest. */
void cluster_demand_init(ClusterDemandGuest *guest, ClusterTraceKind kind, guint index,
                         GRand *rand);

/* Draws its next step. */
ClusterDemand cluster_demand_next(ClusterDemandGuest *guest, ClusterTraceKind kind, double now_ms,
                                  GRand *rand);

/* How long a trace of a kind is, in hours. */
double cluster_demand_hours(ClusterTraceKind kind);

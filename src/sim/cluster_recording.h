/*
 * Recordings of a cluster, to be played again
 *
 * JSON lines, version 2.  The first tells hosts and guests, the others what guests demanded in a step of 5 s (in
 * version 1: of 10 s):
 *
 *     {"cluster_trace":2,"hosts":[[cpus,memory,link],…],"guests":[[host,vcpus,memory,cpu_wait,network],…]}
 *     {"cpu":[CPUs,…],"network":[bytes/s,…],"memory":[bytes,…]}
 *
 * cpu_wait and network are the guest's SLA.  What is out of order is refused, with the line's number; unknown keys are passed over.
 */
#pragma once

#include <stddef.h>

#include "sim/cluster_demand.h"

#define CLUSTER_RECORDING_MOST_HOSTS 20000
#define CLUSTER_RECORDING_MOST_GUESTS 200000
#define CLUSTER_RECORDING_MOST_READINGS (64u << 20) /* guests times steps */

struct ClusterRecording {
    guint n_hosts, n_guests, steps;
    guint repeat; /* steps of the world (CLUSTER_STEP_MS) that one of it lasts */
    struct {
        double cpus, memory, link;
    } * hosts;
    struct {
        guint host, vcpus;
        double memory, cpu_wait, network;
    } * guests;
    GArray *readings; /* of ClusterDemand, n_guests a step */
};

/* NULL with *error* (VMFERRY_ERROR_INVALID). */
ClusterRecording *cluster_recording_parse(const char *text, size_t length, GError **error);
void cluster_recording_free(ClusterRecording *recording);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ClusterRecording, cluster_recording_free)

ClusterDemand cluster_recording_get(const ClusterRecording *recording, guint step, guint guest);

char *cluster_recording_header_line(const ClusterView *view);
char *cluster_recording_step_line(const ClusterDemand *demands, guint n);

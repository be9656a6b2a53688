/*
 * What decides in a simulated cluster: ours, and others to compare with, behind one interface
 *
 * Others are made from their descriptions, no code of theirs:
 *
 *   threshold   A host whose CPUs are above 80 % on average over two minutes gives its largest guest that fits to
 *               the coolest host that stays below that with it: thresholds with a duration, as oVirt's scheduling policies have them
 *               (Red Hat Virtualization, REST API guide, "Scheduling policy elements").
 *   proxmox     Proxmox VE 9's dynamic cluster resource scheduler: load of a node is the mean of its CPU's and memory's share;
 *               imbalance is their coefficient of variation, divided by the largest that it can have for so many nodes. Above
 *               0.3 in three rounds in a row, the one move that makes it least is made, if that is better by a tenth at
 *               least; none while any is under way (pve-ha-manager, proxmox-resource-scheduling).
 *   sandpiper   Wood et al., "Black-box and Gray-box Strategies for Virtual Machine Migration", NSDI 2007: a hot spot is CPU,
 *               network or memory above 75 % in 3 of 5 readings and in the forecast; hosts by volume
 *               1/((1-cpu)(1-net)(1-mem)), their guests by volume per memory, each to the host with the least volume that stays below the threshold
 *               with it; else a swap with that host's guest of least volume per memory.
 *
 * As all of them would otherwise repeat what is under way, none moves from a host that a guest is leaving.
 */
#pragma once

#include "sim/cluster_world.h"

#define CLUSTER_POLICY_READING_MS 10000.0

typedef enum {
    CLUSTER_POLICY_ENGINE,
    CLUSTER_POLICY_THRESHOLD,
    CLUSTER_POLICY_PROXMOX,
    CLUSTER_POLICY_SANDPIPER,
    CLUSTER_POLICY_SANDPIPER_QUICK, /* with readings as short as the engine's */
    CLUSTER_POLICY_NONE,            /* does nothing */
    CLUSTER_POLICIES
} ClusterPolicyKind;

const char *cluster_policy_name(ClusterPolicyKind kind);
gboolean cluster_policy_from_name(const char *name, ClusterPolicyKind *ret);

typedef struct {
    guint guest, to;
} ClusterPolicyMove;

typedef struct ClusterPolicy ClusterPolicy;

ClusterPolicy *cluster_policy_new(ClusterPolicyKind kind, const ClusterWorldOptions *options);
void cluster_policy_free(ClusterPolicy *policy);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ClusterPolicy, cluster_policy_free)

/* Gets each explanation of the engine's; may be NULL. */
void cluster_policy_set_explain(ClusterPolicy *policy,
                                void (*explain)(double now_ms, const char *text));

/* Appends to *moves* (of ClusterPolicyMove) what is to be begun now. */
void cluster_policy_decide(ClusterPolicy *policy, const ClusterView *view, GArray *moves);

/* Plays a whole trace. */
ClusterWorldResult cluster_play(const ClusterWorldOptions *options, ClusterPolicyKind kind,
                                void (*explain)(double now_ms, const char *text));

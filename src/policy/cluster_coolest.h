/*
 * The coolest hosts that have room for something (private to placement)
 *
 * Theory of operation: hosts in the order of their pressure, names where that is equal, as the leaves of a binary tree
 * whose inner nodes know the most room of each kind below them.  The next host with enough room is found
 * without looking at those that have none, however many there are.  Hosts whose load changes keep their place in the
 * order for as long as the tree lives.
 */
#pragma once

#include "policy/cluster_model.h"

typedef struct {
    double cpu, link;       /* until it is as full as a destination may be; −1: takes nothing */
    double memory, promise; /* bytes that are free; that may be promised */
} ClusterRoom;

typedef struct {
    guint n, leaves;    /* hosts; a power of 2 */
    guint *order;       /* hosts, the coolest first */
    guint *place;       /* of each host, in that */
    ClusterRoom *rooms; /* rooms[1] is the root, node i has 2 i and 2 i + 1 below it */
} ClusterCoolest;

ClusterCoolest *cluster_coolest_new(const ClusterModel *model);
void cluster_coolest_free(ClusterCoolest *coolest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ClusterCoolest, cluster_coolest_free)

/* The host's load has changed. */
void cluster_coolest_update(ClusterCoolest *coolest, const ClusterModel *model, guint host);

/* The first place from *from* on whose host may have room for this; coolest->n where there is none.  May, since
 * bursts add up by squares: cluster_unit_check() has the last word. */
guint cluster_coolest_next(const ClusterCoolest *coolest, guint from, const ClusterNeed *need);

/* Others' rules (private to cluster_policy.c); see cluster_policy.h. */
#pragma once

#include "sim/cluster_policy.h"

void cluster_rival_threshold(const ClusterView *view, GArray *moves);

/* *rounds*: in a row, so far; kept by the caller. */
void cluster_rival_proxmox(const ClusterView *view, guint *rounds, GArray *moves);

void cluster_rival_sandpiper(const ClusterView *view, GArray *moves);

/*
 * Rules that contradict each other
 *
 * Theory of operation: strict rules alone can (preferred ones only cost).  Found are, with both rules named:
 *
 *   - guests that must be together (also over several rules) and apart;
 *   - a guest, or guests that must be together, bound to hosts of which none is common;
 *   - more guests that must be apart than hosts that they are bound to.
 *
 * And, alone: a rule without guests or hosts, or with more guests apart than there are hosts.  That is not all that
 * can be impossible (that question is a graph colouring), but all that two rules can do to each other.
 */
#pragma once

#include "policy/cluster.h"

typedef struct {
    guint a, b;  /* indexes of the rules; b CLUSTER_NONE: a is impossible by itself */
    guint guest; /* one that they disagree on, or CLUSTER_NONE */
} ClusterConflict;

/* Appends to *conflicts* (of ClusterConflict), each pair once. */
void cluster_rules_find_conflicts(const ClusterView *view, GArray *conflicts);

/* "rules web-apart and web-together contradict each other: both bind guest web1".  Free with g_free(). */
char *cluster_conflict_describe(const ClusterView *view, const ClusterConflict *conflict);

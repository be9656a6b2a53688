/*
 * Which of several engines acts: asking etcd
 *
 * Theory of operation: a thread with a connection of its own (so that nothing waits behind the store's reads) does, a few
 * times in each lease (leadership.h):
 *
 *     keep our lease alive ─► read the key ─► there is none: get a lease, make the key
 *
 * An engine that stands by does the same but for the first step, so it leads at most one interval after etcd has removed the
 * key of one that is gone.  One that ends gives its lease back, and the next one leads at once.
 *
 * Threads: any may ask what is known; nothing here waits for etcd but the thread.
 */
#pragma once

#include <glib.h>

/* etcd's own limits of what is useful. */
#define LEADER_SHORTEST_LEASE_S 2
#define LEADER_LONGEST_LEASE_S 600

typedef struct Leader Leader;

/* *address*: as migrate/etcd.h wants it.  *key*: the one that is made; *name*: who we are, for others. */
Leader *leader_new(const char *address, const char *key, const char *name, guint lease_ms,
                   GError **error);

/* Gives the lease back, for a second at most. */
void leader_free(Leader *leader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Leader, leader_free)

typedef struct {
    gint64 term;   /* of ours, 0: we do not lead; it may be over without our knowledge */
    guint left_ms; /* for so long it is certain; 0: it is not */
    char *name;    /* of whom leads, or NULL */
    char *problem; /* why it cannot be told, or NULL */
} LeaderState;

void leader_get(Leader *leader, LeaderState *ret);
void leader_state_clear(LeaderState *state);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(LeaderState, leader_state_clear)

/* A write was refused, or somebody waits for news: look now. */
void leader_look(Leader *leader);

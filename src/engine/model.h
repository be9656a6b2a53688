/*
 * What the engine knows of its hosts and guests
 *
 * Theory of operation: pure, but for what it keeps.  The poller hands in what an agent said (model_take_look())
 * or that it said nothing (model_take_failure()); each sample is held against the ones before it and against what
 * other hosts say, and a host whose word cannot be trusted is given a *problem*: it is not usable, nothing is
 * decided on its figures, and nothing is moved to it or from it, until fresh and sensible ones come.
 * model_make_view() lays all out as a ClusterView for the policy.  Looks of reading_ms make one reading, their mean: what
 * lasts is told by readings, so they are as long as the policy was measured with, however often agents are asked.
 *
 *     agent ──► Load ──► Model: samples, problems ──► EngineView ──► planner
 *
 * What makes a host unusable: no figures for MODEL_STALE_MS, or figures that stand still; an absurd figure;
 * an agent of another version; a clock that is MODEL_SKEW_S off; guests that have more memory resident than the
 * host has; a guest that another host has too, with the same right; an agent that is on the list twice.
 *
 * Guests are told apart by their id, which is theirs wherever they go.  Of two hosts that have a guest of
 * one id, the one with the higher term is right (docs/api.md).
 *
 * Not thread-safe: whoever shares one has a lock.  Times are in ms of one clock that does not jump and began in 1970, so
 * that hours of the day are the same ones after a restart (engine_now_ms()).
 */
#pragma once

#include "engine/daily.h"
#include "engine/load.h"
#include "engine/rules.h"

#define MODEL_STALE_MS 10000.0
#define MODEL_SKEW_S 30.0
/* Of a reading; vmferry-sim has the same. */
#define MODEL_READING_MS 5000.0
/* A sample over more than that: the agent was suspended, or stopped. */
#define MODEL_LONGEST_INTERVAL_MS 30000.0

#define MODEL_HOST_FIGURES 6
#define MODEL_GUEST_FIGURES 5

/* What looks have told since the last reading. */
typedef struct {
    double sum;
    guint n;     /* of those that are known */
    double last; /* the newest look; CLUSTER_UNKNOWN */
} ModelMean;

typedef struct {
    char *name;     /* unique */
    char *address;  /* of its agent's API */
    char *moves_to; /* where other agents reach its agent; NULL: not known yet */
    char *problem;  /* why it is not usable; NULL: it is */
    char *failure;  /* the last thing that went wrong; NULL: the last look went well */
    Load *load;     /* the last good one, or NULL */
    double seen_ms; /* when that came; CLUSTER_UNKNOWN: never */
    gboolean drained;
    double reading_due_ms; /* when the present one ends */
    ModelMean means[MODEL_HOST_FIGURES];
    ClusterSeries cpu, cpu_pressure, network, memory_available, memory_pressure, swap_out;
} ModelHost;

typedef struct {
    char *name, *id;
    double term;
    guint host;
    char *role, *state;
    guint vcpus;
    double memory_bytes;
    double resident_bytes;
    ModelMean means[MODEL_GUEST_FIGURES];
    ClusterSeries cpu, cpu_wait, network, backlog, swapped;
    Daily daily;
    char *activity_id; /* of a move of it that its agent knows of; NULL: none */
    char *activity_to; /* where that goes, as its user named it */
    char *stuck;       /* why it cannot move now; NULL: it can */
    char *frozen;      /* why nothing is done with it by itself; NULL: something may be */
    /* It was on another host in an earlier look: */
    guint came_from; /* or CLUSTER_NONE; whoever has seen to it sets it to that */
    double came_from_term;
    gboolean looked; /* in the newest look at its host */
} ModelGuest;

typedef struct {
    GPtrArray *hosts;  /* of ModelHost, in the order of the settings */
    GPtrArray *guests; /* of ModelGuest, in no order */
    GHashTable *by_id; /* of ModelGuest */
    GHashTable
        *gone; /* id → where a guest was that is not there any more, and may show up elsewhere */
    GHashTable *daily; /* id → Daily: what is known of guests that are not there now */
    char *version;     /* our own */
    double reading_ms; /* 0: each look is a reading */
} Model;

/* *version*: of the agents that we understand ("0.1.0": any 0.1). */
Model *model_new(const char *version);
void model_free(Model *model);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Model, model_free)

/* Its index. */
guint model_add_host(Model *model, const char *name, const char *address, const char *moves_to);

/* CLUSTER_NONE where there is none. */
guint model_find_host(const Model *model, const char *name);

/* The host that agents know as *destination* (HOST or HOST:PORT), or CLUSTER_NONE. */
guint model_find_destination(const Model *model, const char *destination);

/* "hostb" and "hostb:4747" are one destination. */
gboolean model_is_destination(const char *known, const char *given);

/* The one of this name whose host is usable, else any of it; NULL where there is none. */
ModelGuest *model_find_guest(const Model *model, const char *name);
ModelGuest *model_find_guest_by_id(const Model *model, const char *id);

/* What an agent answered to GET /v1/load and GET /v1/guests; *load* is taken. *wall*: our own, in seconds.
 * *guests* may be NULL: activities are as they were. */
void model_take_look(Model *model, guint host, Load *load, json_t *guests, double now_ms,
                     double wall);
void model_take_failure(Model *model, guint host, const char *text);

/* What was known of the guest of this id, before it is seen; *daily* is copied. */
void model_remember(Model *model, const char *id, const Daily *daily);
/* A copy of what is known of all guests, there or not: id → Daily. */
GHashTable *model_list_daily(const Model *model);
/* Forgets what is known of guests that have not been there since *oldest_ms*. */
void model_forget(Model *model, double oldest_ms);

/* Finds the hosts' problems anew: what changes as time goes by, and what hosts say of each other. */
void model_check(Model *model, double now_ms);

/* What else a decision needs to know of one guest. */
typedef struct {
    ClusterSla sla;
    const char *frozen; /* why; NULL: it is not */
    double moved_at_ms; /* or CLUSTER_UNKNOWN */
    guint returns;
    double move_ms, move_bytes, move_pause_ms; /* or CLUSTER_UNKNOWN */
    guint to;                                  /* where we move it to just now, or CLUSTER_NONE */
    const guint *closed;                       /* hosts that have refused it */
    guint n_closed;
} ModelGuestFacts;

typedef struct {
    double memory_reserve;  /* share of a host's memory that guests may not take */
    const GPtrArray *rules; /* of Rule */
    gboolean thaws;         /* what is frozen counts as if it was not: a user has asked */
    /* Fills in what is known; all fields are preset. */
    void (*ask_guest)(const ModelGuest *guest, ModelGuestFacts *ret, gpointer user);
    void (*ask_host)(guint host, guint *ret_moves, guint *ret_moves_lately, gpointer user);
    gpointer user;
} ModelContext;

/* A view with all that it refers to; the model must not change as long as it is used. */
typedef struct {
    ClusterView cluster;
    const ModelGuest **guests; /* of the view's guests, by index */
    GPtrArray *owned;
} EngineView;

EngineView *model_make_view(const Model *model, const ModelContext *context, double now_ms);

/* For whoever must act within seconds: the newest look at each counts as a reading of its own, on top. */
void engine_view_add_looks(EngineView *view, const Model *model);
/* The same of what a host's guests have on its link. */
double model_get_newest_network(const ModelHost *host);

void engine_view_free(EngineView *view);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EngineView, engine_view_free)

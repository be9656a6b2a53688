/*
 * What an agent tells of its host: the answer to GET /v1/load
 *
 * Theory of operation: bytes of another program, so every figure is checked by itself before anything is
 * decided on it.  A figure that is missing or null is not known (CLUSTER_UNKNOWN) and everything else goes
 * on without it.  A figure that cannot be (negative, not a number, a share above one, more CPU used than
 * there is) makes the whole sample absurd: an agent that is wrong about one figure is not believed in the
 * others.  Times are as the agent tells them; whether they make sense is seen from one sample to the next
 * (model.h).
 */
#pragma once

#include "base/json.h"
#include "policy/cluster.h"

#define LOAD_MAX_GUESTS 4096u
#define LOAD_MAX_LINKS 256u
#define LOAD_MAX_PROBLEMS 64u
#define LOAD_MAX_TEXT 256u

/* All figures in the units of policy/cluster.h; CLUSTER_UNKNOWN where the agent does not know. */
typedef struct {
    char *name, *id; /* id may be NULL */
    double term;
    char *role, *state; /* may be NULL */
    guint vcpus;
    double memory_bytes, resident_bytes, swapped_bytes;
    double cpu_used, cpu_wait;
    double network; /* both ways */
    double backlog;
} LoadGuest;

typedef struct {
    char *host, *version;
    char *agent_id, *boot_id; /* may be NULL */
    double time_ms;           /* since the host's boot */
    double wall;              /* seconds since 1970 */
    double interval_ms;
    double cpus, cpu_used, run_queue;
    double cpu_pressure, memory_pressure, io_pressure; /* PSI some */
    double memory_bytes, memory_available_bytes;
    double swap_out;
    double link_speed;     /* of the slowest of those whose speed is known */
    double network;        /* the busiest way of the busiest link */
    double guests_network; /* the same, but for moves and protection */
    double moves_cpu;
    char *problems;    /* of the agent's own, "; " between them; NULL: none */
    GPtrArray *guests; /* of LoadGuest */
} Load;

/* NULL with *error*, which names the figure; free with load_free(). */
Load *load_parse(json_t *object, GError **error);
void load_free(Load *load);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Load, load_free)

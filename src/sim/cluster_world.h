/*
 * A cluster in simulated time: hosts, guests, what they demand, what they get, and moves between them
 *
 * Theory of operation: time goes in steps of CLUSTER_STEP_MS; every reading_steps of them make a reading.  In a step each guest demands CPU,
 * network and memory as its trace says (cluster_trace.h).  A host's CPUs and link are shared in proportion where more
 * is demanded than there is; vCPUs wait some before that, as the host fills up; memory beyond what the host has is
 * swapped out.  The readings that an agent would make of that are kept in a ClusterView, which a policy is given; the policy
 * answers with moves (cluster_policy.h), and the world performs them: bytes at a share of what both links have free, CPU at both
 * hosts, and a pause.
 *
 * A guest-second in which a guest's SLA is not met is counted, whatever its cause; a pause counts, too.  Where a
 * destination becomes a hot spot within ten minutes after a move, the move was spoiled.
 *
 * All policies see the same demands: these come from the seed alone.
 */
#pragma once

#include "policy/cluster_placement.h"

#define CLUSTER_STEP_MS 5000.0

typedef enum {
    CLUSTER_TRACE_DIURNAL,     /* days and nights, most guests in phase */
    CLUSTER_TRACE_BURSTS,      /* guests that are busy for some minutes now and then */
    CLUSTER_TRACE_FLAPPING,    /* guests that are busy every other minute */
    CLUSTER_TRACE_HOT_GUEST,   /* one guest becomes busy and stays so */
    CLUSTER_TRACE_LEAK,        /* guests whose memory grows until their hosts swap */
    CLUSTER_TRACE_OSCILLATION, /* two halves that are busy in turns, 12 hours each */
    CLUSTER_TRACE_LOSS,        /* hosts end; their guests start elsewhere at random */
    CLUSTER_TRACE_SPIKES,      /* nothing but spikes of 10 s */
    CLUSTER_TRACE_IDLE,        /* uneven, and nobody suffers */
    CLUSTER_TRACES,
    CLUSTER_TRACE_RECORDED = CLUSTER_TRACES
} ClusterTraceKind;

/* "diurnal", …; FALSE where there is none of that name. */
const char *cluster_trace_name(ClusterTraceKind kind);
gboolean cluster_trace_from_name(const char *name, ClusterTraceKind *ret);

typedef struct ClusterRecording ClusterRecording;

typedef struct {
    ClusterTraceKind kind;
    const ClusterRecording *recording; /* borrowed; for CLUSTER_TRACE_RECORDED */
    guint hosts, guests;
    double hours; /* 0: as long as the trace is made for */
    guint64 seed;
    guint reading_steps; /* in a reading: its mean; 0: 1 */
} ClusterWorldOptions;

typedef struct {
    double violation_s;  /* guest-seconds */
    guint moves, failed; /* begun; that could not be: no room, in motion already */
    guint spoiled;
    guint most_per_guest; /* moves of one guest within a cool-down of 15 minutes */
    double pause_s;
    double moved_bytes;
    double decide_ms_most, decide_ms_sum; /* of the CPU, for one decision; for all */
    guint decisions;
} ClusterWorldResult;

typedef struct ClusterWorld ClusterWorld;

ClusterWorld *cluster_world_new(const ClusterWorldOptions *options);
void cluster_world_free(ClusterWorld *world);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ClusterWorld, cluster_world_free)

/* One step; FALSE where the trace has ended. */
gboolean cluster_world_step(ClusterWorld *world);

/* Has the last step ended a reading? */
gboolean cluster_world_has_reading(const ClusterWorld *world);

/* What agents tell, as of the last reading. */
const ClusterView *cluster_world_view(const ClusterWorld *world);

/* Begins a move; FALSE where it is not possible (which is counted). */
gboolean cluster_world_move(ClusterWorld *world, guint guest, guint to);

/* As of the last step.  The caller adds what its decisions took. */
ClusterWorldResult *cluster_world_result(ClusterWorld *world);

/* Lines of a recording of it (cluster_recording.h), without their ends; to be freed. */
char *cluster_world_record_header(const ClusterWorld *world);
char *cluster_world_record_step(const ClusterWorld *world);

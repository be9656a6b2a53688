/* Recordings of a cluster: what is taken is in bounds, and plays without harm. */
#include <math.h>
#include <stdlib.h>

#include "sim/cluster_recording.h"

#define MOST_PLAYED 4096 /* guests and hosts times steps: the rest is more of the same */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const ClusterRecording *recording)
{
    if (recording->n_hosts == 0 || recording->n_hosts > CLUSTER_RECORDING_MOST_HOSTS ||
        recording->n_guests == 0 || recording->n_guests > CLUSTER_RECORDING_MOST_GUESTS ||
        recording->readings->len != (guint64)recording->steps * recording->n_guests)
        abort();
    for (guint h = 0; h < recording->n_hosts; h++)
        if (!(recording->hosts[h].cpus > 0 && recording->hosts[h].memory > 0 &&
              recording->hosts[h].link > 0))
            abort();
    for (guint g = 0; g < recording->n_guests; g++)
        if (recording->guests[g].host >= recording->n_hosts || recording->guests[g].vcpus < 1)
            abort();
    for (guint i = 0; i < recording->readings->len; i++) {
        const ClusterDemand *demand = &g_array_index(recording->readings, ClusterDemand, i);

        if (!(demand->cpu >= 0 && demand->network >= 0 && demand->memory >= 0))
            abort();
    }
}

static void play(const ClusterRecording *recording)
{
    const ClusterWorldOptions options = {.kind = CLUSTER_TRACE_RECORDED, .recording = recording};
    g_autoptr(ClusterWorld) world = cluster_world_new(&options);

    while (cluster_world_step(world))
        ;
    if (!isfinite(cluster_world_result(world)->violation_s))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(ClusterRecording) recording = cluster_recording_parse((const char *)data, size, NULL);

    if (!recording)
        return 0;
    check(recording);
    if ((guint64)recording->steps * (recording->n_guests + recording->n_hosts) <= MOST_PLAYED)
        play(recording);
    return 0;
}

#include "policy/cluster.h"

#include <float.h>

/* Written so that NaN fails, too. */
static float known_or_unknown(double value)
{
    return value >= 0 && value <= FLT_MAX ? (float)value : (float)CLUSTER_UNKNOWN;
}

void cluster_series_add(ClusterSeries *series, double value)
{
    guint at = (series->first + series->length) % CLUSTER_SAMPLES;

    series->values[at] = known_or_unknown(value);
    if (series->length < CLUSTER_SAMPLES)
        series->length++;
    else
        series->first = (uint8_t)((series->first + 1u) % CLUSTER_SAMPLES);
}

double cluster_series_get(const ClusterSeries *series, guint i)
{
    return series->values[(series->first + i) % CLUSTER_SAMPLES];
}

double cluster_series_last(const ClusterSeries *series)
{
    return series->length > 0 ? cluster_series_get(series, series->length - 1u) : CLUSTER_UNKNOWN;
}

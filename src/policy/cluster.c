#include "policy/cluster.h"

#include <float.h>
#include <math.h>

#define HOUR_MS 3600000.0
/* Readings that the mean of an hour counts as, at most: what comes new is worth at least so much of it. */
#define HOUR_READINGS 800
/* What a day is worth that is over. */
#define NEW_DAY_READINGS 80
#define NEW_DAY_RISE 0.5F

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

double cluster_series_mean(const ClusterSeries *series, guint n)
{
    guint first = series->length > n ? series->length - n : 0;
    double sum = 0;
    guint known = 0;

    for (guint i = first; i < series->length; i++) {
        double value = cluster_series_get(series, i);

        if (value >= 0) {
            sum += value;
            known++;
        }
    }
    return known > 0 ? sum / known : CLUSTER_UNKNOWN;
}

double cluster_series_median(const ClusterSeries *series, guint n)
{
    guint first = series->length > n ? series->length - n : 0, known = 0;
    double sorted[CLUSTER_SAMPLES];

    for (guint i = first; i < series->length; i++) {
        double value = cluster_series_get(series, i);
        guint at = known;

        if (value < 0)
            continue;
        for (; at > 0 && sorted[at - 1] > value; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = value;
        known++;
    }
    return known > 0 ? sorted[(known - 1) / 2] : CLUSTER_UNKNOWN;
}

double cluster_guest_demand(const ClusterGuest *guest, guint n)
{
    double used = cluster_series_mean(&guest->cpu, n);
    double waited = cluster_series_mean(&guest->cpu_wait, n);

    if (used < 0)
        return CLUSTER_UNKNOWN;
    return MIN(used + MAX(waited, 0) * guest->vcpus, MAX(guest->vcpus, used));
}

/* The day before fades, and is not forgotten. */
static void begin_hour(ClusterHistory *history, guint slot)
{
    history->count[slot] = MIN(history->count[slot], NEW_DAY_READINGS);
}

void cluster_history_add(ClusterHistory *history, double now_ms, double value)
{
    double hours = floor(now_ms / HOUR_MS);
    guint slot;
    float reading = known_or_unknown(value), off, share;

    if (reading < 0 || !(hours >= 0 && hours < G_MAXUINT32))
        return;
    slot = (guint)fmod(hours, CLUSTER_HISTORY_HOURS);
    if ((uint32_t)hours != history->hour && history->count[slot] > 0)
        begin_hour(history, slot);
    history->hour = (uint32_t)hours;
    if (history->count[slot] < HOUR_READINGS)
        history->count[slot]++;
    share = 1.0F / history->count[slot];
    off = reading - history->mean[slot];
    history->mean[slot] += off * share;
    history->variance[slot] = (1 - share) * (history->variance[slot] + share * off * off);
}

/* Where nobody has seen the coming hour yet, it may rise as the last two did: one alone may have been a step, and
 * those have come to their end. */
static double guess_mean(const ClusterHistory *history, guint this_slot)
{
    guint before = (this_slot + CLUSTER_HISTORY_HOURS - 1) % CLUSTER_HISTORY_HOURS;
    guint earlier = (this_slot + CLUSTER_HISTORY_HOURS - 2) % CLUSTER_HISTORY_HOURS;
    double mean = history->mean[this_slot], rise;

    if (history->count[this_slot] == 0 || history->count[before] == 0 ||
        history->count[earlier] == 0)
        return mean;
    rise = MIN(mean - history->mean[before], history->mean[before] - history->mean[earlier]);
    return mean + MAX(rise, 0);
}

gboolean cluster_history_expect(const ClusterHistory *history, double now_ms, double ahead_ms,
                                double *ret_mean, double *ret_deviation)
{
    double first = floor(now_ms / HOUR_MS), last = floor((now_ms + ahead_ms) / HOUR_MS);
    double sum = 0, readings = 0;
    guint first_slot;

    if (!(first >= 0 && last < first + CLUSTER_HISTORY_HOURS))
        return FALSE;
    first_slot = (guint)fmod(first, CLUSTER_HISTORY_HOURS);
    *ret_mean = *ret_deviation = 0;
    for (guint hour = 0; hour <= (guint)(last - first); hour++) {
        guint slot = (first_slot + hour) % CLUSTER_HISTORY_HOURS;
        double mean =
            history->count[slot] > 0 ? history->mean[slot] : guess_mean(history, first_slot);

        *ret_mean = MAX(*ret_mean, mean);
    }
    for (guint slot = 0; slot < CLUSTER_HISTORY_HOURS; slot++) {
        sum += history->variance[slot] * history->count[slot];
        readings += history->count[slot];
    }
    *ret_deviation = readings > 0 ? sqrt(sum / readings) : 0;
    return readings > 0;
}

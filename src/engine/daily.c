#include "engine/daily.h"

#define MOST_READINGS G_MAXUINT16
/* CPUs, or bytes/s. */
#define MOST_FIGURE 1e15

static json_t *hours_to_json(const ClusterHistory *history)
{
    json_t *hours = json_array();

    for (guint i = 0; i < CLUSTER_HISTORY_HOURS; i++)
        json_array_append_new(hours, history->count[i] == 0
                                         ? json_null()
                                         : json_pack("[i, f, f]", (int)history->count[i],
                                                     (double)history->mean[i],
                                                     (double)history->variance[i]));
    return json_pack("{s:I, s:o}", "hour", (json_int_t)history->hour, "hours", hours);
}

json_t *daily_to_json(const Daily *daily)
{
    return json_pack("{s:o, s:o}", "cpu", hours_to_json(&daily->cpu), "network",
                     hours_to_json(&daily->network));
}

static gboolean read_figure(json_t *value, double most, float *ret)
{
    double figure = json_is_number(value) ? json_number_value(value) : -1;

    *ret = (float)figure;
    return figure >= 0 && figure <= most;
}

/* FALSE: nothing is known of that hour. */
static gboolean read_hour(json_t *value, ClusterHistory *history, guint i)
{
    json_int_t readings = json_integer_value(json_array_get(value, 0));
    float mean, variance;

    if (json_array_size(value) != 3 || readings <= 0 || readings > MOST_READINGS ||
        !read_figure(json_array_get(value, 1), MOST_FIGURE, &mean) ||
        !read_figure(json_array_get(value, 2), MOST_FIGURE * MOST_FIGURE, &variance))
        return FALSE;
    history->count[i] = (uint16_t)readings;
    history->mean[i] = mean;
    history->variance[i] = variance;
    return TRUE;
}

static gboolean read_history(json_t *object, ClusterHistory *ret)
{
    json_t *hours = json_object_get(object, "hours");
    json_int_t hour = json_integer_value(json_object_get(object, "hour"));
    gboolean known = FALSE;

    *ret = (ClusterHistory){0};
    if (hour <= 0 || hour > G_MAXUINT32 || json_array_size(hours) != CLUSTER_HISTORY_HOURS)
        return FALSE;
    ret->hour = (uint32_t)hour;
    for (guint i = 0; i < CLUSTER_HISTORY_HOURS; i++)
        if (read_hour(json_array_get(hours, i), ret, i))
            known = TRUE;
    return known;
}

gboolean daily_from_json(json_t *object, Daily *ret)
{
    gboolean cpu = read_history(json_object_get(object, "cpu"), &ret->cpu);

    return read_history(json_object_get(object, "network"), &ret->network) || cpu;
}

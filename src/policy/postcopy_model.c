#include "policy/postcopy_model.h"

#include <math.h>

/* Like the work set's: pages written once in 2^24 ms or less are in the coldest. */
#define BUCKETS 48
#define COLDEST_EXPONENT (-24)
/* A round trip, and the work at both ends. */
#define ANSWER_MS 0.3
/* Pushed pages that are on the link, or in its buffers, ahead of an answer. */
#define AHEAD_BYTES 65536.0

typedef struct {
    double bytes; /* of pending pages: a group is pushed as a whole */
    double rate;  /* of first touches while all of them are missing, per ms */
} Bucket;

double postcopy_model_fault_ms(double bytes_per_ms)
{
    return ANSWER_MS + AHEAD_BYTES / bytes_per_ms;
}

static guint bucket_of(double rate)
{
    int exponent;

    frexp(rate, &exponent);
    return (guint)CLAMP(exponent - COLDEST_EXPONENT, 0, BUCKETS - 1);
}

/* Returns the wire bytes of all that is pending. */
static double fill_buckets(Bucket buckets[BUCKETS], const ConvergenceGroup *groups, guint count)
{
    double bytes = 0;

    for (guint i = 0; i < count; i++) {
        const ConvergenceGroup *group = &groups[i];
        double per_page = MAX(group->first_send_per_page, group->resend_per_page);
        double hot = MIN(group->pending, group->active);
        Bucket *bucket;

        bytes += group->pending * per_page;
        if (group->active == 0 || group->dirty_per_ms <= 0)
            continue;
        bucket = &buckets[bucket_of((double)group->dirty_per_ms / group->active)];
        bucket->bytes += group->pending * per_page;
        bucket->rate += (double)group->dirty_per_ms * hot / group->active;
    }
    return bytes;
}

/* The mean of x / (1 + x) from *low* to *high*. */
static double mean_lost(double low, double high)
{
    if (high - low < 1e-6)
        return high / (1 + high);
    return 1 - log((1 + high) / (1 + low)) / (high - low);
}

PostcopyForecast postcopy_model_forecast(const ConvergenceGroup *groups, guint count,
                                         double bytes_per_ms)
{
    Bucket buckets[BUCKETS] = {0};
    PostcopyForecast forecast = {0};
    double fault_ms = postcopy_model_fault_ms(bytes_per_ms), rate = 0;

    forecast.push_ms = fill_buckets(buckets, groups, count) / bytes_per_ms;
    /* From cold to hot: *rate* is that of all colder ones. */
    for (guint i = 0; i < BUCKETS; i++) {
        double with = rate + buckets[i].rate;

        forecast.lost_ms +=
            buckets[i].bytes / bytes_per_ms * mean_lost(rate * fault_ms, with * fault_ms);
        rate = with;
    }
    return forecast;
}

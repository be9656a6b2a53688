#include "policy/work_set_model.h"

#include <math.h>

#include "policy/convergence_deferral.h"

/* The coldest bucket: a page is written once in 2^24 ms or less. */
#define COLDEST_EXPONENT (-24)
#define SOLVER_STEPS 12
#define MOST_ROUNDS 64

double work_set_group_bytes(const ConvergenceGroup *group)
{
    uint32_t unsent = MIN(group->unsent, group->pending);

    return (double)unsent * group->first_send_per_page +
           (double)(group->pending - unsent) * group->resend_per_page;
}

static guint bucket_of(double rate)
{
    int exponent;

    frexp(rate, &exponent);
    return (guint)CLAMP(exponent - COLDEST_EXPONENT, 0, WORK_SET_BUCKETS - 1);
}

static void add_group(WorkSetModel *model, const ConvergenceGroup *group)
{
    double bytes = work_set_group_bytes(group);
    double hot = MIN(group->pending, group->active);
    double share = group->pending > 0 ? hot / group->pending : 0;
    WorkSetBucket *bucket;
    double rate;

    if (group->active == 0 || group->dirty_per_ms <= 0) {
        model->cold += bytes;
        return;
    }
    rate = (double)group->dirty_per_ms / group->active;
    bucket = &model->buckets[bucket_of(rate)];
    bucket->active += (double)group->active * group->resend_per_page;
    bucket->pending += bytes * share;
    bucket->rate_bytes += rate * group->active * group->resend_per_page;
    model->cold += bytes * (1 - share);
}

WorkSetModel work_set_model_make(const ConvergenceGroup *groups, guint count, double defer_rate)
{
    WorkSetModel model = {0};

    for (guint i = 0; i < count; i++)
        if (groups[i].dirty_per_ms <= 0 || convergence_score(&groups[i], i) < defer_rate)
            add_group(&model, &groups[i]);
    for (guint i = 0; i < WORK_SET_BUCKETS; i++)
        if (model.buckets[i].active > 0)
            model.buckets[i].rate = model.buckets[i].rate_bytes / model.buckets[i].active;
    return model;
}

double work_set_model_pending(const WorkSetModel *model)
{
    double bytes = model->cold;

    for (guint i = 0; i < WORK_SET_BUCKETS; i++)
        bytes += model->buckets[i].pending;
    return bytes;
}

double work_set_model_dirtied(const WorkSetModel *model, double run_share, double ms)
{
    double bytes = 0;

    for (guint i = 0; i < WORK_SET_BUCKETS; i++) {
        const WorkSetBucket *bucket = &model->buckets[i];

        bytes += bucket->active * -expm1(-bucket->rate * run_share * ms);
    }
    return bytes;
}

/* What a bucket sends whose turn comes *start* ms into the round: what is pending, and what of its
 * clean active pages is written before its turn (each stays clean with exp(-r start)), since a page
 * is collected right before it is read.  *ret_clean*: what stays clean, and out of the round. */
static double bucket_turn(const WorkSetBucket *bucket, double rate, double start, double *ret_clean)
{
    *ret_clean = MAX(bucket->active - bucket->pending, 0) * exp(-rate * start);
    return bucket->pending + MAX(bucket->active - bucket->pending, 0) - *ret_clean;
}

/* Mean probability that a page is dirty at *last* (the round's end) that is read at a time u, which
 * is anywhere between *start* and *end*:
 *
 *     1 - mean of exp(-r (last - u)) = 1 - exp(-r (last - end)) (1 - exp(-L)) / L,  L = r (end -
 *     start)
 *
 * where L is next to nothing, the limit of (1 - exp(-L)) / L, 1. */
static double dirty_after(double rate, double start, double end, double last)
{
    double length = rate * (end - start);

    if (length < 1e-6)
        return -expm1(-rate * (last - start));
    return 1 - exp(-rate * (last - end)) * -expm1(-length) / length;
}

/* First the turns, since what one bucket sends delays all hotter ones; then, with the round's
 * length known, what each leaves: of what it sent, what was written after its turn; of what stayed
 * clean, what was written by the end. */
double work_set_model_round(WorkSetModel *model, double run_share, double bytes_per_ms)
{
    double starts[WORK_SET_BUCKETS], ends[WORK_SET_BUCKETS], clean[WORK_SET_BUCKETS];
    double now = model->cold / bytes_per_ms;

    for (guint i = 0; i < WORK_SET_BUCKETS; i++) {
        const WorkSetBucket *bucket = &model->buckets[i];

        starts[i] = now;
        if (bucket->active > 0)
            now += bucket_turn(bucket, bucket->rate * run_share, now, &clean[i]) / bytes_per_ms;
        ends[i] = now;
    }
    for (guint i = 0; i < WORK_SET_BUCKETS; i++) {
        WorkSetBucket *bucket = &model->buckets[i];
        double rate = bucket->rate * run_share;

        if (bucket->active <= 0)
            continue;
        /* Of *active*, not of what was sent: what comes back costs a resend, and what was pending
         * may have cost a first sending. */
        bucket->pending =
            MAX(bucket->active - clean[i], 0) * dirty_after(rate, starts[i], ends[i], now) +
            clean[i] * -expm1(-rate * (now - starts[i]));
    }
    model->cold = 0;
    return now;
}

double work_set_model_after(WorkSetModel model, double run_share, double bytes_per_ms, double ms)
{
    double before = work_set_model_pending(&model), after = before;

    for (guint i = 0; i < MOST_ROUNDS && ms > 0; i++) {
        double length = work_set_model_round(&model, run_share, bytes_per_ms);

        before = after;
        after = work_set_model_pending(&model);
        if (length >= ms)
            return before + (after - before) * ms / length;
        ms -= length;
    }
    return after;
}

static double left_share(WorkSetModel model, double run_share, double bytes_per_ms)
{
    double before = work_set_model_pending(&model);

    work_set_model_round(&model, run_share, bytes_per_ms);
    return before > 0 ? work_set_model_pending(&model) / before : 0;
}

double work_set_model_run_share(const WorkSetModel *model, double share, double bytes_per_ms)
{
    double least = CONVERGENCE_LEAST_RUN_SHARE, most = 1;

    if (left_share(*model, most, bytes_per_ms) <= share)
        return most;
    if (left_share(*model, least, bytes_per_ms) > share)
        return least;
    for (guint i = 0; i < SOLVER_STEPS; i++) {
        double middle = sqrt(least * most);

        if (left_share(*model, middle, bytes_per_ms) <= share)
            least = middle;
        else
            most = middle;
    }
    return least;
}

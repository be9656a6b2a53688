#include "policy/connection_count.h"

static void begin_measuring(ConnectionCount *count, double settle_ms)
{
    count->settle_ms = settle_ms;
    count->busy_ms = count->busy_bytes = 0;
}

void connection_count_init(ConnectionCount *count, guint most)
{
    *count = (ConnectionCount){.most = CLAMP(most, 1, CONNECTION_COUNT_MOST),
                               .count = 1,
                               .pause_ms = CONNECTION_COUNT_FIRST_PAUSE_MS};
}

static double get_settle_ms(const ConnectionSample *sample)
{
    return MAX(CONNECTION_COUNT_SETTLE_MS,
               CONNECTION_COUNT_SETTLE_ROUND_TRIPS * sample->round_trip_ms);
}

static void put_off(ConnectionCount *count, double now_ms)
{
    count->next_try_ms = now_ms + count->pause_ms;
    count->pause_ms = MIN(2 * count->pause_ms, CONNECTION_COUNT_LONGEST_PAUSE_MS);
}

static void begin_try(ConnectionCount *count, guint number, double rate,
                      const ConnectionSample *sample)
{
    count->before = count->count;
    count->before_rate = rate;
    count->count = number;
    begin_measuring(count, get_settle_ms(sample));
}

static gboolean is_at_limit(const ConnectionSample *sample, double rate)
{
    return sample->limit_bytes_per_ms > 0 &&
           rate >= CONNECTION_COUNT_LIMIT_SHARE * sample->limit_bytes_per_ms;
}

/* The line is full, and what is sent waits on the way. */
static gboolean has_queue(const ConnectionSample *sample)
{
    return sample->shortest_round_trip_ms > 0 &&
           sample->round_trip_ms > CONNECTION_COUNT_QUEUE_FACTOR * sample->shortest_round_trip_ms +
                                       CONNECTION_COUNT_QUEUE_MS;
}

static gboolean carries_what_there_is(const ConnectionSample *sample, double rate)
{
    gboolean is_clean = sample->shortest_round_trip_ms < CONNECTION_COUNT_SHORT_WAY_MS &&
                        sample->lost_share < CONNECTION_COUNT_CLEAN_SHARE;

    return (sample->measures_way || is_clean) && rate < CONNECTION_COUNT_CORE_BYTES_PER_MS;
}

static void consider(ConnectionCount *count, const ConnectionSample *sample, double rate)
{
    begin_measuring(count, 0);
    if (sample->now_ms < count->next_try_ms || is_at_limit(sample, rate))
        return;
    if (has_queue(sample)) {
        if (count->count > 1)
            begin_try(count, count->count / 2, rate, sample);
        return;
    }
    if (count->count < count->most && !carries_what_there_is(sample, rate))
        begin_try(count, MIN(2 * count->count, count->most), rate, sample);
}

static gboolean is_worth_it(const ConnectionCount *count, double rate)
{
    double ideal = (double)count->count / count->before - 1;

    if (count->count < count->before)
        return rate >= CONNECTION_COUNT_FEWER_WORTH * count->before_rate;
    return rate >= (1 + CONNECTION_COUNT_WORTH * ideal) * count->before_rate;
}

static void judge(ConnectionCount *count, const ConnectionSample *sample, double rate)
{
    if (is_worth_it(count, rate)) {
        count->before = 0;
        count->pause_ms = CONNECTION_COUNT_FIRST_PAUSE_MS;
        consider(count, sample, rate);
        return;
    }
    count->count = count->before;
    count->before = 0;
    put_off(count, sample->now_ms);
    begin_measuring(count, get_settle_ms(sample));
}

static void measure(ConnectionCount *count, const ConnectionSample *sample)
{
    double ms = sample->now_ms - count->last.now_ms;

    if (!sample->waits || !count->last.waits || ms <= 0)
        return;
    if (count->settle_ms > 0) {
        count->settle_ms -= ms;
        return;
    }
    count->busy_ms += ms;
    if (sample->carried_bytes > count->last.carried_bytes)
        count->busy_bytes += (double)(sample->carried_bytes - count->last.carried_bytes);
}

guint connection_count_note(ConnectionCount *count, const ConnectionSample *sample)
{
    double least_ms = MAX(CONNECTION_COUNT_MEASURE_MS,
                          CONNECTION_COUNT_MEASURE_ROUND_TRIPS * sample->round_trip_ms);

    if (!count->started)
        begin_measuring(count, get_settle_ms(sample));
    else
        measure(count, sample);
    count->started = TRUE;
    count->last = *sample;
    if (count->busy_ms >= least_ms) {
        double rate = count->busy_bytes / count->busy_ms;

        if (count->before > 0)
            judge(count, sample, rate);
        else
            consider(count, sample, rate);
    }
    return count->count;
}

void connection_count_note_change(ConnectionCount *count)
{
    count->started = FALSE;
}

void connection_count_note_failure(ConnectionCount *count, guint possible)
{
    count->count = MIN(count->count, MAX(possible, 1));
    count->before = 0;
    put_off(count, count->last.now_ms);
    begin_measuring(count, get_settle_ms(&count->last));
}

#include "migrate/path_rate.h"

#define NEW_WEIGHT 0.3

void path_rate_start(PathRate *rate, double now_ms, uint64_t sent_bytes, uint64_t backlog_bytes)
{
    rate->last_ms = now_ms;
    rate->last_carried = sent_bytes - MIN(backlog_bytes, sent_bytes);
    rate->last_backlog = backlog_bytes;
    rate->started = TRUE;
}

void path_rate_note(PathRate *rate, double now_ms, uint64_t sent_bytes, uint64_t backlog_bytes)
{
    double elapsed = now_ms - rate->last_ms;
    uint64_t carried = sent_bytes - MIN(backlog_bytes, sent_bytes);
    double now_rate;

    if (!rate->started || elapsed < PATH_RATE_WINDOW_MS)
        return;
    /* What is confirmed can't be taken back; a backlog read a little late might say so. */
    now_rate = carried > rate->last_carried ? (double)(carried - rate->last_carried) / elapsed : 0;
    rate->busy = rate->last_backlog > 0 && backlog_bytes > 0;
    if (!rate->busy)
        rate->bytes_per_ms = MAX(rate->bytes_per_ms, now_rate);
    else if (rate->bytes_per_ms <= 0)
        rate->bytes_per_ms = now_rate;
    else
        rate->bytes_per_ms += NEW_WEIGHT * (now_rate - rate->bytes_per_ms);
    if (rate->limit > 0)
        rate->bytes_per_ms = MIN(rate->bytes_per_ms, rate->limit);
    path_rate_start(rate, now_ms, sent_bytes, backlog_bytes);
}

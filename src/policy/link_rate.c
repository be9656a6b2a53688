#include "policy/link_rate.h"

#include <math.h>

#define NEW_WEIGHT 0.3

void link_rate_start(LinkRate *rate, double now_ms, uint64_t sent_bytes, uint64_t backlog_bytes)
{
    if (!rate->started)
        rate->windows = 0;
    rate->last_ms = now_ms;
    rate->last_carried = sent_bytes - MIN(backlog_bytes, sent_bytes);
    rate->last_backlog = backlog_bytes;
    rate->started = TRUE;
}

void link_rate_set_limit(LinkRate *rate, double limit)
{
    rate->limit = limit;
    if (limit > 0)
        rate->bytes_per_ms = MIN(rate->bytes_per_ms, limit);
}

static gboolean is_busy(const LinkRate *rate, double now_rate, uint64_t carried, uint64_t backlog)
{
    double least = LINK_RATE_BACKLOG_SHARE * (double)carried;

    if (rate->limit > 0 && now_rate >= LINK_RATE_LIMIT_SHARE * rate->limit)
        return TRUE;
    return rate->last_backlog > 0 && backlog > 0 && (double)rate->last_backlog >= least &&
           (double)backlog >= least;
}

double link_rate_count_pages_ahead(const LinkRate *rate, double bytes_per_page)
{
    if (rate->bytes_per_ms <= 0)
        return INFINITY;
    return LINK_RATE_AHEAD_MS * rate->bytes_per_ms /
           MAX(bytes_per_page, LINK_RATE_LEAST_PAGE_BYTES);
}

gboolean link_rate_is_clear(const LinkRate *rate)
{
    return rate->busy || rate->windows > 1;
}

gboolean link_rate_is_limited(const LinkRate *rate)
{
    return rate->limit > 0 && rate->bytes_per_ms >= LINK_RATE_LIMIT_SHARE * rate->limit;
}

void link_rate_note(LinkRate *rate, double now_ms, uint64_t sent_bytes, uint64_t backlog_bytes)
{
    double elapsed = now_ms - rate->last_ms;
    uint64_t confirmed = sent_bytes - MIN(backlog_bytes, sent_bytes);
    uint64_t carried;
    double now_rate;

    if (!rate->started || elapsed < LINK_RATE_WINDOW_MS)
        return;
    /* What is confirmed can't be taken back; a backlog read a little late might say so. */
    carried = confirmed > rate->last_carried ? confirmed - rate->last_carried : 0;
    now_rate = (double)carried / elapsed;
    rate->busy = is_busy(rate, now_rate, carried, backlog_bytes);
    rate->windows++;
    if (!rate->busy)
        rate->bytes_per_ms = MAX(rate->bytes_per_ms, now_rate);
    else if (rate->bytes_per_ms <= 0)
        rate->bytes_per_ms = now_rate;
    else
        rate->bytes_per_ms += NEW_WEIGHT * (now_rate - rate->bytes_per_ms);
    if (rate->limit > 0)
        rate->bytes_per_ms = MIN(rate->bytes_per_ms, rate->limit);
    link_rate_start(rate, now_ms, sent_bytes, backlog_bytes);
}

/*
 * What the link carries, measured while sending
 *
 * Theory of operation: what was sent less what the peer's kernel has not
 * confirmed is what the link has carried, and socket buffers do not hide how
 * slow it is.  Where there is a backlog at both ends of a window, and more than
 * a frame that was just handed over, the link was busy all the time: what it
 * carried then is its rate.  Without one the sender was the limit, and what
 * was carried is a lower bound.  Pure: fed with counters.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define LINK_RATE_WINDOW_MS 20.0
/* What is waiting counts as a backlog from this share of what a window carries on. */
#define LINK_RATE_BACKLOG_SHARE 0.25
/* What is read ahead is old when it is sent, and has to be sent between a decision to stop and the
 * pause. */
#define LINK_RATE_AHEAD_MS 50.0
/* The least that a page is expected to cost, since the next ones may shrink less. */
#define LINK_RATE_LEAST_PAGE_BYTES 512.0
/* A link that carries this share of the limit is limited by that. */
#define LINK_RATE_LIMIT_SHARE 0.9

typedef struct {
    double bytes_per_ms; /* smoothed; 0: not known */
    double limit;        /* it is never more; 0: none */
    gboolean busy;       /* the last window was */
    double last_ms;
    uint64_t last_carried, last_backlog;
    gboolean started;
    guint windows; /* seen */
} LinkRate;

/* Begins at these readings: what came before says nothing. */
void link_rate_start(LinkRate *rate, double now_ms, uint64_t sent_bytes, uint64_t backlog_bytes);

/* The limit is another one from now on (0: none).  What was carried under one that was lower says
 * little: the rate is taken for what it was, and follows as it is measured. */
void link_rate_set_limit(LinkRate *rate, double limit);

/* FALSE: so far no window is over that began while something was sent, so the link may be what
 * limits though there was no backlog at its begin. */
gboolean link_rate_is_clear(const LinkRate *rate);

/* The user's limit, which may be another one at any time, is what limits. */
gboolean link_rate_is_limited(const LinkRate *rate);

/* How many pages the link takes LINK_RATE_AHEAD_MS for, at *bytes_per_page* on the wire: no more
 * should be read ahead of it.  INFINITY: as far as is known, any number. */
double link_rate_count_pages_ahead(const LinkRate *rate, double bytes_per_page);

/* Both counters since the start, and the time of the reading. */
void link_rate_note(LinkRate *rate, double now_ms, uint64_t sent_bytes, uint64_t backlog_bytes);

/*
 * One direction of the relay: packets from a tap, through the model, to another tap
 *
 * Theory of operation: taps hand out and take whole frames, with check sums and of the link's size:
 * a tap says that it has no offloads, so the kernel does the segmenting before.  All time is the
 * caller's, so that what is read together has come together.  IP packets go through the model; other
 * frames (ARP) are matters of a local network, which a long way does not carry: they pass at once,
 * and only a break stops them.
 */
#pragma once

#include <jansson.h>

#include "flight.h"

typedef struct {
    int from, to; /* non-blocking taps, not owned */
    LinkModel model;
    LinkFlight *flight;
    guint64 packets[LINK_FATES], bytes[LINK_FATES]; /* by fate, as they were offered */
    guint64 delivered, delivered_bytes;
    guint64 broken_late;          /* of those that should arrive: in a break by then */
    guint64 no_buffer, not_taken; /* by us, by the receiving tap */
    guint64 twice, held, other, told;
    guint64 late_ns, latest_ns; /* sum, longest: delivered after their time */
} Way;

void way_init(Way *way, int from, int to, guint64 seed, guint direction, guint buffers);
void way_clear(Way *way);

/* Reads what has come, at most a few hundred packets; returns how many. */
guint way_read(Way *way, guint64 now_ns);

/* Delivers what should have arrived by now; returns how many. */
guint way_deliver(Way *way, guint64 now_ns);

/* When the next one arrives; G_MAXUINT64: none under way. */
guint64 way_next_ns(const Way *way);

/* Other settings from now on, for packets that wait for the line, too. */
void way_set(Way *way, const LinkSettings *settings, guint64 now_ns);

json_t *way_stats(const Way *way, guint64 now_ns);

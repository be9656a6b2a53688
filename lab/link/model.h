/*
 * What a long way does to packets
 *
 * Theory of operation: one direction of a link, as a pure function of the packets that are offered
 * to it: "a packet of n bytes at time t" gives "lost, for that reason" or "arrives at t'".  No clock,
 * no socket, no memory of the bytes; the relay around it owns those.
 *
 *     offered ─ break? ─ MTU? ─ queue full? ─ line (rate) ─ lost? ─ delay, jitter, reorder ─ arrives
 *
 * - The line serves bytes at its rate, constant or of a trace.  A packet has its place in all the
 *   work that the line ever does ("until byte 10,000 of it"), so a rate that changes while packets
 *   wait only changes when their places come: link_model_set() gives their new times.
 * - What is lost on the way has taken its share of the line, and of the queue, as in the world.
 * - Bytes are those of Ethernet frames, without preamble and check sequence, as tc(8) counts.
 * - Jitter keeps the order (a packet does not overtake, it arrives with the one before it); what is
 *   "reordered" is held back longer, and others overtake it.
 * - Chance: each decision is a hash of (seed, number of the packet, what is decided).  So a seed
 *   gives the same decisions for the same packets, and changing one parameter leaves the decisions
 *   on all others as they are.
 */
#pragma once

#include "trace.h"

/* Ethernet's header: what a frame is longer than its IP packet. */
#define LINK_HEADER_BYTES 14

typedef struct {
    guint64 rate;                /* bytes per second; 0: no limit */
    LinkTrace *trace;            /* in place of rate; NULL: none */
    guint64 delay_ns, jitter_ns; /* jitter <= delay: uniform in delay -/+ jitter */
    double loss;                 /* share of packets, 0..1 */
    double burst;                /* packets lost in a row, on average (Gilbert); <= 1: each alone */
    double reorder;              /* share that is held back */
    guint64 reorder_by_ns;
    double duplicate;
    guint64 queue_bytes, queue_ns; /* what may wait, how long; 0: no limit of this kind */
    guint mtu;                     /* largest IP packet; 0: any */
    gboolean frag_needed;          /* the sender of a larger one is told */
    guint64 break_from_ns, break_ns, break_every_ns; /* break_ns 0: never; every 0: once */
} LinkSettings;

/* Takes a reference to the trace, drops that of what was there. */
void link_settings_copy(LinkSettings *to, const LinkSettings *from);
void link_settings_clear(LinkSettings *settings);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(LinkSettings, link_settings_clear)

typedef enum {
    LINK_ARRIVES,
    LINK_LOST,
    LINK_QUEUE_FULL,
    LINK_TOO_BIG,
    LINK_BROKEN,
    LINK_FATES
} LinkFate;

const char *link_fate_name(LinkFate fate);

typedef struct {
    guint64 arrives_ns;
    guint64 extra_ns; /* from the end of the line on */
    LinkWork end;     /* its place in the line's work */
    gboolean held;    /* reordered */
    gboolean twice;
} LinkPacket;

typedef struct {
    LinkSettings settings;
    guint64 seed;
    guint64 packets;  /* offered so far: the number of the next one */
    gboolean losing;  /* Gilbert's bad state */
    guint64 order_ns; /* no packet in order arrives before */
    guint64 since_ns; /* the line has had this rate since then, */
    LinkWork base;    /* and had done as much before */
    LinkWork booked;  /* the end of the last packet in it */
} LinkModel;

/* *seed* for both directions of a link; *direction* (0, 1) tells them apart. */
void link_model_init(LinkModel *model, guint64 seed, guint direction);
void link_model_clear(LinkModel *model);

/* What happens to the next packet.  *now_ns* never goes back.  *ret* is filled for LINK_ARRIVES.
 * A packet that arrives in a break is lost, too: ask link_model_is_broken(ret->arrives_ns) then, as
 * the break may not be known yet. */
LinkFate link_model_offer(LinkModel *model, guint64 now_ns, guint bytes, LinkPacket *ret);

gboolean link_model_is_broken(const LinkModel *model, guint64 time_ns);

/* Bytes that wait in front of the line or are in it, 0 without a rate. */
guint64 link_model_waiting(const LinkModel *model, guint64 now_ns);

/* The rate at that time; 0: no limit. */
guint64 link_model_rate(const LinkModel *model, guint64 now_ns);

/* Other settings from now on.  Of all packets that have not arrived, in the order in which they were
 * offered, those that still wait for the line get new times of arrival. */
void link_model_set(LinkModel *model, guint64 now_ns, const LinkSettings *settings,
                    LinkPacket *const *packets, guint count);

/*
 * Network interfaces, as rtnetlink(7) tells them
 *
 * Pure: what the kernel answers to RTM_GETLINK and RTM_GETQDISC becomes a list of interfaces with
 * counters.  All lengths are checked, as for bytes of strangers.
 */
#pragma once

#include <glib.h>
#include <net/if.h>
#include <stddef.h>
#include <stdint.h>

#include "collect/figure.h"

typedef enum {
    LINK_OTHER,     /* loopback, bridges, and others that carry what is counted elsewhere */
    LINK_PHYSICAL,  /* a card */
    LINK_LEADS_OUT, /* what a container has in its place: veth, macvlan, ipvlan */
    LINK_TAP
} LinkKind;

typedef struct {
    char name[IFNAMSIZ];
    guint index;
    LinkKind kind;
    gboolean up;
    uint64_t received_bytes, sent_bytes;
    uint64_t dropped;       /* both ways, by the interface and by its queues' rules */
    uint64_t backlog_bytes; /* that wait in its queue to be sent */
    double limit;           /* bytes/s that its queue's rule (tbf) lets out; FIGURE_UNKNOWN: none */
    double speed;           /* bytes/s, the smaller one of limit and hardware; FIGURE_UNKNOWN */
} Link;

/* Adds what a datagram tells to *links* (of Link): new interfaces, and the queues of those that are there.
 * *ret_done*: that was the last one.  FALSE where it cannot be read, or is an error. */
gboolean link_messages_parse(const void *data, size_t length, GArray *links, gboolean *ret_done);

/* The one of this name, or NULL. */
const Link *links_find(const GArray *links, const char *name);

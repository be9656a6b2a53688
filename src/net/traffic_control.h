/*
 * The kernel's traffic control, as far as a tap interface is plugged with it (tap_plug.h)
 *
 * Theory of operation: requests of rtnetlink(7) through libnl, each answered before its function
 * returns; all of one socket are made in the network namespace in which it was made.  Errors say
 * which request failed, and of what kind (EXISTS, NOT_FOUND, PERMISSION); one that the kernel has no
 * module for is UNSUPPORTED, and names the module.
 *
 * A socket is used by one thread at a time.
 */
#pragma once

#include <glib.h>
#include <netlink/socket.h>
#include <stdint.h>

typedef struct nl_sock TrafficSocket;

TrafficSocket *traffic_connect(GError **error);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TrafficSocket, nl_socket_free)

/* An interface, as far as it matters here. */
typedef struct {
    int index;
    char *name;
    char *kind;         /* "ifb"; NULL: none */
    char *alias;        /* NULL: none */
    uint64_t under_way; /* packets that an ifb interface has taken and not given out */
} TrafficLink;

void traffic_link_free(TrafficLink *link);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TrafficLink, traffic_link_free)

/* NOT_FOUND where there is none of that name. */
TrafficLink *traffic_find_link(TrafficSocket *socket, const char *name, GError **error);

/* Of TrafficLink: those of a kind. */
GPtrArray *traffic_list_links(TrafficSocket *socket, const char *kind, GError **error);

/* An interface of the kind ifb: what is redirected to it comes back as received by the interface from
 * which it came, once its queueing discipline lets it go.  It is down at first. */
gboolean traffic_make_ifb(TrafficSocket *socket, const char *name, GError **error);
gboolean traffic_set_alias(TrafficSocket *socket, int index, const char *alias, GError **error);
/* The interface becomes up, without addresses of its own. */
gboolean traffic_set_up(TrafficSocket *socket, int index, GError **error);
gboolean traffic_remove_link(TrafficSocket *socket, int index, GError **error);

/* A plug (net/sched/sch_plug.c) in the place of the interface's queueing discipline, whatever that is:
 * what comes from now on is kept, up to so many bytes, and what the other one has is dropped.  Returns
 * its handle, 0 on failure. */
uint32_t traffic_put_plug(TrafficSocket *socket, int index, uint32_t limit_bytes, GError **error);

typedef enum {
    TRAFFIC_PLUG_CUT,     /* what comes is kept apart from what is there: a new epoch */
    TRAFFIC_PLUG_RELEASE, /* what was there at the last cut goes */
    TRAFFIC_PLUG_PASS,    /* all goes, and what comes */
} TrafficPlugCommand;

/* *handle*: of traffic_put_plug(). */
gboolean traffic_command_plug(TrafficSocket *socket, int index, uint32_t handle,
                              TrafficPlugCommand command, GError **error);

/* How many packets its queueing discipline has. */
gboolean traffic_count_queued(TrafficSocket *socket, int index, uint32_t *ret, GError **error);

/* What an interface receives can be classified from now on.  EXISTS where it can be already. */
gboolean traffic_add_ingress(TrafficSocket *socket, int index, GError **error);
/* With all filters. */
gboolean traffic_remove_ingress(TrafficSocket *socket, int index, GError **error);

/* All that the interface receives goes to another one instead.  TRUE also where there is such a filter. */
gboolean traffic_add_redirect(TrafficSocket *socket, int index, int to, GError **error);

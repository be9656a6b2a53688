/*
 * Packets under way in one direction
 *
 * Theory of operation: a fixed number of buffers, each with a packet's bytes and what the model said
 * of it, and a heap by time of arrival (then by order of sending).  A model's time may change while
 * a packet waits (link_flight_set()); the heap is then made anew.  The buffers' memory is reserved at
 * once and touched as needed, the last used one first.
 */
#pragma once

#include "model.h"

/* A whole frame of LINK_LARGEST_MTU, and what makes FlightPacket a round size. */
#define LINK_FRAME_MOST 2032

typedef struct {
    LinkPacket model;
    guint64 number; /* in the order of sending */
    guint length;
    guint8 frame[LINK_FRAME_MOST];
} FlightPacket;

typedef struct LinkFlight LinkFlight;

/* Room for so many packets; never NULL. */
LinkFlight *link_flight_new(guint most);
void link_flight_free(LinkFlight *flight);

/* A buffer for the next packet, the same one until it is added; NULL: all are under way. */
FlightPacket *link_flight_next(LinkFlight *flight);

/* What link_flight_next() gave is filled, and goes. */
void link_flight_add(LinkFlight *flight);

/* The one that arrives first; NULL: none.  It stays until link_flight_pop(). */
FlightPacket *link_flight_first(LinkFlight *flight);
void link_flight_pop(LinkFlight *flight);

guint link_flight_count(const LinkFlight *flight);

/* link_model_set() for the packets under way. */
void link_flight_set(LinkFlight *flight, LinkModel *model, guint64 now_ns,
                     const LinkSettings *settings);

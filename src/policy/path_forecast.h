/*
 * What a measured way means for moves over it
 *
 * Theory of operation: a probe's first part is the connection's own beginning (it doubles its rate
 * from round trip to round trip), so what the way carries is what it has carried in the second half
 * of the time.  A move sends the guest's memory at that rate; its pause is what the switchover
 * waits for: the device state's way there, READY back, START there.  That is a quiet guest's:
 * what a busy one writes meanwhile comes on top (estimate.h).  Pure.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct {
    double ms;              /* since the begin */
    uint64_t carried_bytes; /* until then: sent, and confirmed by the peer's kernel */
} PathSample;

/* Bytes a second; 0: the samples (in the order of time) do not tell. */
double path_forecast_rate(const PathSample *samples, guint count);

/* A quiet guest of so much memory, all of it sent once as it is; INFINITY without a rate. */
double path_forecast_move_ms(double memory_bytes, double bytes_per_second, double round_trip_ms);
double path_forecast_pause_ms(double bytes_per_second, double round_trip_ms);

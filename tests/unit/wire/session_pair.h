/*
 * Both ends of a session over loopback, in plain text, with a second channel for one class
 */
#pragma once

#include "wire/session.h"

typedef struct {
    Session *client, *server;
} SessionPair;

/* *traffic* has a channel of its own; TRAFFIC_CONTROL: no class has. */
void session_pair_open(SessionPair *pair, TrafficClass traffic);
void session_pair_close(SessionPair *pair);

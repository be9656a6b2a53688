/*
 * The rate limit of a move, which may be changed while it runs
 *
 * Theory of operation: whoever started the move sets it, from any thread.  The session that the
 * move is *attached* to is told at once, so that a sender that waits for its turn under the old
 * limit notices (within a tenth of a second, channel_send.c); all else that goes by the limit (the
 * judgement of the link, what a store gets of it) asks move_rate_get() between two batches.
 *
 * Threads: any.
 */
#pragma once

#include "wire/session.h"

typedef struct MoveRate MoveRate;

/* Bytes per second; 0: no limit. */
MoveRate *move_rate_new(uint64_t bytes_per_second);
/* Nothing may be attached.  NULL-safe. */
void move_rate_free(MoveRate *rate);

uint64_t move_rate_get(MoveRate *rate);
/* Returns what it was. */
uint64_t move_rate_set(MoveRate *rate, uint64_t bytes_per_second);

/* From now on *session* (borrowed, until it is detached or another one takes its place; NULL: none)
 * has this limit. */
void move_rate_attach(MoveRate *rate, Session *session);

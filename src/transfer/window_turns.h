/*
 * One window, packed by several threads in turn
 *
 * Theory of operation: what is packed in a window (page/pack_window.h) must be unpacked in the same order,
 * and frames are sent in the order in which their batches were pushed.  So who pushes a batch takes a
 * *turn* for it; the thread that packs it waits until all earlier turns are over, and ends its own.  Every
 * turn that was taken must be ended, used or not.  Threads take up batches in the order of the pushes, so
 * that the one whose turn it is never waits for a thread.
 *
 * Threads: turns are taken by one; the rest by any.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct WindowTurns WindowTurns;

/* *log* as with pack_window_new(). */
WindowTurns *window_turns_new(guint log);
/* NULL-safe; all turns must be over. */
void window_turns_free(WindowTurns *turns);

/* Never 0. */
uint64_t window_turns_take(WindowTurns *turns);

/* As pack_window_pack(), when its turn has come, which ends then.  *ret_ms*: without the wait. */
size_t window_turns_pack(WindowTurns *turns, uint64_t turn, int level, const void *in,
                         size_t length, void *out, gboolean *ret_begins, double *ret_ms);

/* Ends a turn without use. */
void window_turns_pass(WindowTurns *turns, uint64_t turn);

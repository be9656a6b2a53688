/*
 * Frames received ahead of their use
 *
 * Theory of operation: a thread of its own receives frames from a channel into
 * a bounded ring of slots, so that the network and decryption go on while the
 * VMM is still being launched and while pages are being written.  Frames come
 * out in the order in which they were sent.  When all slots are taken, or
 * frames of FRAME_QUEUE_MOST_BYTES wait in them, the thread waits, and TCP slows
 * the sender.
 *
 * The end of the connection is an entry of its own behind the last frame: what
 * was received before it is seen first.
 */
#pragma once

#include <glib.h>

#include "wire/channel.h"

/* What a 1 Gbit/s link carries while a VMM starts (a quarter of a second). */
#define FRAME_QUEUE_MOST_BYTES ((size_t)32 << 20)

typedef struct FrameQueue FrameQueue;

typedef struct {
    Frame frame; /* payload lies in the buffer */
    uint8_t *buffer;
    size_t capacity;
} FrameSlot;

/* Starts receiving with *slots* slots; no other thread may receive on the
 * channel until frame_queue_free(). */
FrameQueue *frame_queue_start(Channel *channel, guint slots, GError **error);

/* The next frame; NULL with *error*: TIMEOUT, or why the channel failed.  Give
 * the slot back with frame_queue_release(), from any thread. */
FrameSlot *frame_queue_pop(FrameQueue *queue, int timeout_ms, GError **error);
void frame_queue_release(FrameQueue *queue, FrameSlot *slot);

/* Stops receiving; all slots must have been given back.  NULL-safe. */
void frame_queue_free(FrameQueue *queue);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FrameQueue, frame_queue_free)

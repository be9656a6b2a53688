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
 * Further channels for bulk (wire/session.h) are received by threads of their own, into the same ring,
 * each frame when it comes.  Where an order matters the sender puts a BULK_BARRIER on all channels: the
 * one on the first channel says which further ones have it.  The first one's thread waits there until
 * each of those has come up to its own, and those wait behind it for the first one.  So what is in the
 * ring before a barrier was sent before it, and what is behind it behind it, by whichever channel:
 *
 *     first     p1   barrier 1 {2}   COPIES   EPOCH_SEAL   barrier 2 {2}   p4
 *     number 2  (barrier 0)   p2   p3   barrier 1   barrier 2   p5
 *     ring      p1 p2 p3 in any order | COPIES EPOCH_SEAL | p4 p5 in any order
 *
 * A further channel says first where it begins: BULK_BARRIER with the number of the last one before it.
 * One that a barrier leaves out has been given up by the sender: nothing of it counts any more.  The same
 * for one that begins behind an earlier barrier than the first one has come to.
 *
 * The end of the connection is an entry of its own behind the last frame: what
 * was received before it is seen first.
 */
#pragma once

#include <glib.h>

#include "wire/session.h"

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

/* From now on channels may join *session* (whose first one is received) for bulk, and are received, too;
 * it outlives the queue. */
void frame_queue_take_further(FrameQueue *queue, Session *session);

/* The next frame; NULL with *error*: TIMEOUT, or why the channel failed.  Give
 * the slot back with frame_queue_release(), from any thread. */
FrameSlot *frame_queue_pop(FrameQueue *queue, int timeout_ms, GError **error);
void frame_queue_release(FrameQueue *queue, FrameSlot *slot);

/* Stops receiving; all slots must have been given back.  NULL-safe. */
void frame_queue_free(FrameQueue *queue);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FrameQueue, frame_queue_free)

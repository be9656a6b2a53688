/*
 * Epochs: a copy of a guest, from one consistent state to the next
 *
 * Theory of operation: an epoch is a set of memory deltas (page frames, no page
 * named twice), perhaps the device state, and a seal; they are numbered from 0 on.
 * The seal says that the epoch is complete and what it should hold; what was not
 * sealed does not count.  Rounds of pre-copy are epochs without device state, in
 * a guest that runs on; the last epoch of a move has it and was taken of a paused
 * guest.  What a sealed epoch is good for (to be loaded, kept, or answered only)
 * is not said here.
 *
 * Sender: pages are pushed to the PageSender, device state is added here;
 * epoch_sender_seal() sends whatever is left of them and the seal, and the next
 * epoch begins.  The other side confirms each when it is in place, in order; the
 * sender may run ahead of that.
 *
 *     begin ── push pages ── add state? ── seal ──►  number n ... applied n
 *
 * A checkpoint may bring pages ahead, while the guest runs, and those that were written since again,
 * behind a barrier.
 *
 * Receiver: takes page frames, for the PageApplier, pieces of device state and the
 * seal; checks that nothing is missing and seals the sink.
 *
 * The way of guest memory, from one end of a transfer to the other:
 *
 *     source                                        destination
 *
 *     WorkSet      which pages next: pending        PageSink     the guest's memory
 *         │        ones, coldest groups first           ▲
 *         │ batch of spans                              │ write, zero, patch, copy
 *         ▼                                             │
 *     PageSender   a bounded pipeline               PageApplier  several threads: unpack,
 *         │  ▲                                          ▲        check
 *         │  └── PageEncoder, several threads:          │ page frames
 *         │      reads the PageSource (the          EpochReceiver  device state; seal
 *         │      guest's memory); zero?                 ▲
 *         │      unchanged? segments? equal to          │ frames
 *         │      another (PageCopies)? packs        FrameQueue   received ahead, bounded
 *         │ page frames, in order                       ▲
 *         ▼                                             │
 *     Channel  ═════════════════ TLS ═══════════════ Channel
 *         ▲
 *     EpochSender  device state; seal
 *
 * Threads: each from one.
 */
#pragma once

#include <glib.h>

#include "transfer/page_applier.h"
#include "transfer/page_sender.h"
#include "wire/channel.h"

/* A value; borrows what it points to. */
typedef struct {
    Channel *channel;
    PageSender *pages;
    uint32_t number;      /* of the epoch that is being filled */
    uint32_t applied;     /* so many have been confirmed */
    uint64_t state_bytes; /* of device state in this one */
} EpochSender;

EpochSender epoch_sender_make(Channel *channel, PageSender *pages);

/* Sends the device state of this epoch, once. */
gboolean epoch_sender_add_state(EpochSender *sender, GBytes *state, GError **error);

/* What is pushed from now on may be pages again that were pushed in this epoch (EPOCH_BARRIER). */
gboolean epoch_sender_add_barrier(EpochSender *sender, GError **error);

/* Ends this epoch and begins the next; does not wait for it to be applied. */
gboolean epoch_sender_seal(EpochSender *sender, GError **error);

/* Takes an EPOCH_APPLIED frame.  INVALID where it is not of the next sealed epoch. */
gboolean epoch_sender_take_applied(EpochSender *sender, const Frame *frame, GError **error);

/* All that were sealed have been applied. */
gboolean epoch_sender_is_applied(const EpochSender *sender);

typedef struct EpochReceiver EpochReceiver;

/* Borrows both; *applier* writes to *sink*.  NULL both: pages are taken elsewhere, and only what else an
 * epoch has here. */
EpochReceiver *epoch_receiver_new(PageSink *sink, PageApplier *applier);
/* NULL-safe. */
void epoch_receiver_free(EpochReceiver *receiver);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EpochReceiver, epoch_receiver_free)

/* Takes a page frame, as page_applier_push(). */
gboolean epoch_receiver_take_pages(EpochReceiver *receiver, const Frame *frame, gpointer owner,
                                   GError **error);

/* Takes a DEVICE_STATE frame.  INVALID where it does not continue the one before. */
gboolean epoch_receiver_take_state(EpochReceiver *receiver, const Frame *frame, GError **error);

/* What has come of the device state of this epoch, and that of the one before, are not used. */
void epoch_receiver_drop_state(EpochReceiver *receiver);

/* Takes an EPOCH_BARRIER frame: waits until all pages that have come are in the sink. */
gboolean epoch_receiver_take_barrier(EpochReceiver *receiver, GError **error);

/* Takes an EPOCH_SEAL frame: waits until all pages of the epoch are in the sink, and
 * seals it there.  INVALID where it is not the epoch that was begun, or lacks state. */
gboolean epoch_receiver_seal(EpochReceiver *receiver, const Frame *frame, GError **error);

/* Confirms the epoch that was sealed last. */
gboolean epoch_receiver_confirm(EpochReceiver *receiver, Channel *channel, GError **error);

/* The device state of the epoch that was sealed last.  INVALID where there is none in
 * it, or something has come since that was not sealed. */
GBytes *epoch_receiver_get_state(EpochReceiver *receiver, GError **error);

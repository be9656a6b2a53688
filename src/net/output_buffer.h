/*
 * What a guest sends, held back until its epoch is safe (output commit)
 *
 * Theory of operation: the VMM hands over each packet that the guest sends, and sends those that it
 * is given back (vmm_begin_hold()).  A thread reads the packets of all NICs of the guest, notes the
 * epoch that each belongs to, and gives them back, in order for each NIC, when that epoch is
 * released:
 *
 *     guest ──► VMM ══ fd_in ══► │ held: epoch 8 │ 8 │ 7 │ ══ fd_out ══► VMM ──► network
 *                                          cut ┘       └ released
 *
 * The boundary: output_buffer_cut() is called while the guest is paused.  A VMM writes a packet to
 * the socket before the vCPU or the device that sends it goes on, and stops both before it says
 * that the guest is paused; a byte that was written to a Unix socket is in the receiver's queue.
 * So all packets of the epoch are there, and the cut itself reads them before it counts on.  What
 * comes later belongs to a later epoch; a packet that the cut finds in pieces does, too: it is held
 * for longer than it had to be, which is safe.
 *
 * The VMM waits, with the guest, when its socket is full: so the thread always reads.  It never
 * waits for the VMM to take packets back.  Both pile up in memory up to a limit; beyond it packets
 * that come are dropped, as by a switch whose queue is full.
 *
 * When the VMM takes the hold out it ends fd_in.  What is held is given back when it is released,
 * or lost if the VMM takes nothing any more, and then fd_out is shut down for writing: to the VMM
 * the sign that it has everything (vmm_end_hold()).  Both descriptors stay open until
 * output_buffer_free().
 *
 * What a VMM does not hand over (vhost, several queues) the kernel holds at the tap interface
 * (tap_plug.h): cuts and releases are those of its plugs, too, which count none of these packets here,
 * and whose limit is their own.
 *
 * What is no frame ends the NIC: its socket is shut down, so that the guest does not wait, and the
 * VMM drops what the guest sends until the hold is taken out.
 *
 * All functions may be called from any thread, but output_buffer_free() only when no other is.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "net/tap_plug.h"

#define OUTPUT_BUFFER_LIMIT_BYTES (64ull << 20)

typedef enum {
    OUTPUT_BUFFER_HELD,   /* the first packet since the last cut is held */
    OUTPUT_BUFFER_FAILED, /* output_buffer_check() says what */
} OutputBufferEvent;

/* Called in the buffer's thread, which reads nothing meanwhile: be brief.  An event may come just
 * after the cut that made it needless. */
typedef void (*OutputBufferFunc)(OutputBufferEvent event, gpointer user);

typedef struct {
    uint64_t limit_bytes;  /* of all packets with their overhead; 0: OUTPUT_BUFFER_LIMIT_BYTES */
    OutputBufferFunc func; /* NULL: none */
    gpointer user;
} OutputBufferOptions;

/* Packets of all NICs, but for those that plugs hold; but for the first three, since the beginning. */
typedef struct {
    uint64_t held_packets; /* not given back yet, released or not */
    uint64_t held_bytes;
    uint64_t oldest_ns;                        /* since the oldest of them came */
    uint64_t released_packets, released_bytes; /* given back */
    uint64_t dropped_packets;                  /* beyond the limit */
    uint64_t lost_packets;                     /* the VMM took none any more */
} OutputBufferStats;

typedef struct OutputBuffer OutputBuffer;

/* Begins with epoch 1, of nothing. */
OutputBuffer *output_buffer_new(const OutputBufferOptions *options, GError **error);

/* Ends the thread and closes all descriptors; what is held is lost.  NULL-safe. */
void output_buffer_free(OutputBuffer *buffer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(OutputBuffer, output_buffer_free)

/* Holds what comes from *fd_in*, to be given back to *fd_out*; takes both: stream sockets, of two
 * connections (VmmHoldEnds). */
void output_buffer_add_nic(OutputBuffer *buffer, int fd_in, int fd_out);

/* Holds by *tap*, too, which is the caller's to end and free, once the buffer is freed. */
void output_buffer_add_tap(OutputBuffer *buffer, TapPlug *tap);

/* The guest is paused: all that it has sent belongs to the epoch that is returned, or to earlier
 * ones.  Epochs count up by one. */
uint64_t output_buffer_cut(OutputBuffer *buffer);

/* Lets the packets of all epochs up to this one go.  One that has not been cut is not let go. */
void output_buffer_release(OutputBuffer *buffer, uint64_t epoch);

/* From now on everything goes at once, what is held first. */
void output_buffer_pass(OutputBuffer *buffer);

void output_buffer_take_stats(OutputBuffer *buffer, OutputBufferStats *ret);

/* FALSE where the packets of a NIC are not passed on any more because its stream was broken, or a plug
 * has failed. */
gboolean output_buffer_check(OutputBuffer *buffer, GError **error);

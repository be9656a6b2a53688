/*
 * The block tap's sink: a process that takes what a guest writes to its disks
 *
 * Theory of operation: while a disk is tapped (vmm_start_tap()) its VMM writes everything that the
 * guest writes to an NBD server as well, and the guest's request ends only when that has answered.
 * These servers are in a process of their own, a helper (base/helper.h), one for each guest:
 *
 *     QEMU ══ NBD, one connection a disk ══► sink ── a socket ──► this process
 *              answered when it is in the         events in order, read
 *              sink's buffer                      when we like
 *
 * So a guest waits for a copy in memory, not for us, and when we die or hang its disks do not hang
 * with us.  Nothing of the guest depends on the sink: the disk has what was written before the sink
 * is asked.
 *
 * All requests of all disks are numbered in the order in which they came into the buffer.  Each one
 * was written by the guest before its end was told to it: what the guest did after that, on any disk,
 * has a higher number.
 *
 * The buffer has a limit.  While it is full, requests wait for room.  The sink gives up, and closes
 * all connections, when a request waits and we have read nothing for *stall_ms*, or when one waits
 * for *wait_ms*.  The VMM then drops the tap and the guest goes on.  What was answered before is in
 * the stream still, then an END with the reason comes for each disk.  When we end, the sink ends: what
 * was not read is lost, and the guest goes on in the same way.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "disk/tap_stream.h"

#define TAP_EXPORT_NAME "tap"
#define TAP_MAX_DISKS 256u
#define TAP_STALL_MS 1000u
#define TAP_WAIT_MS 3000u
#define TAP_BUFFER_BYTES (64ull << 20)

typedef struct {
    uint64_t bytes;
    const char *address; /* NULL, or that of a former sink that has ended: the VMM takes up the tap
                            with it again (vmm_resync_tap()) */
} TapDisk;

typedef struct {
    pid_t client;          /* the only process that may write; 0: any */
    uint64_t buffer_bytes; /* with some for each request; one that is longer comes in alone */
    guint stall_ms, wait_ms;
    const TapDisk *disks;
    guint count;
} TapSinkOptions;

typedef struct TapSink TapSink;

/* Starts the process; its servers listen when this returns. */
TapSink *tap_sink_start(const TapSinkOptions *options, GError **error);

/* Ends the process, and so all connections.  NULL-safe. */
void tap_sink_free(TapSink *sink);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TapSink, tap_sink_free)

pid_t tap_sink_get_pid(const TapSink *sink);

/* Abstract socket of the disk's server, in the network namespace of the client. */
const char *tap_sink_get_address(const TapSink *sink, guint disk);

/* As tap_reader_next().  One thread at a time. */
int tap_sink_read(TapSink *sink, int timeout_ms, TapEvent *ret, GError **error);

/* Makes the process put a BARRIER with this number behind all that is in its buffer now: all that
 * the guest has been told to have ended.  From any thread. */
gboolean tap_sink_send_barrier(TapSink *sink, uint64_t number, GError **error);

/* Ends the process, and tap_sink_read() in another thread with it: DISCONNECTED. */
void tap_sink_close(TapSink *sink);

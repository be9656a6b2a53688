/*
 * Guests with I/O threads, and the interrupt that QEMU loses
 *
 * Where a disk is served by an iothread, QEMU from some version after 7.2 on
 * (seen with 10.0) can lose the interrupt of a request that is done while
 * `stop` drains the disk: the rings say that it is done, the guest waits for
 * ever, and a further stop and `cont` do not help.  It comes about once in 20
 * to 100 stops of a guest that writes all the time, with nothing attached
 * (lab/stop-cont), and travels with the device state.
 *
 * An interrupt too many harms no virtio guest: it looks into its rings and
 * finds nothing.  So after each `cont` all eventfds of such a QEMU are
 * signalled from outside; the one of the disk's queue is among them, and for
 * all others QEMU finds that there is nothing to do.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <sys/types.h>

/* Whether QEMU of this version ("10.0.2") with these iothreads (the answer to
 * `query-iothreads`) may lose one. */
gboolean qemu_loses_interrupts(const char *version, const json_t *iothreads);

/* Signals all eventfds of a process; how many that were. */
guint qemu_signal_eventfds(pid_t pid);

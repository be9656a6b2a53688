/*
 * What only one QEMU at a time can have, taken from one that will never run its guest again
 *
 * Theory of operation: tap devices, vhost devices, sockets (listening ones, and those that its
 * clients should connect anew with), images, the pid file's lock.  They are descriptors, and a
 * paused QEMU uses none of them but to wait for events.  So each is replaced, by an injected
 * dup3(2), by one end of a pair of sockets that never becomes readable nor writable, and the other
 * end stays open beside it: QEMU's main loop stays quiet, and whatever the descriptor was of is
 * free.
 *
 * What stays: the guest's memory, /dev/kvm and its like, our own QMP connection; the QMP socket too
 * that we have given it, since it has a path of its own.
 *
 * QEMU keeps a mark (a memfd of a certain name) by which it is known to have given up, also after a
 * restart of the agent: it is not resumed any more, and ended by SIGKILL, because its own way to
 * end would remove sockets and the pid file, run a tap's down script, and write to images that are
 * another's by then.
 *
 * Limits: a software TPM serves one QEMU only; what is at the other end of a serial line or a USB
 * device of the host stays with it.
 */
#pragma once

#include "vmm/qemu/driver.h"

/* REFUSED where its guest is not paused.  Can be repeated; on failure some of it is given up. */
gboolean qemu_give_up_resources(QemuVmm *qemu, GError **error);

gboolean qemu_has_given_up(pid_t pid);

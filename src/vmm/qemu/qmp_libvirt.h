/*
 * A QEMU's monitor through libvirt
 *
 * Theory of operation: QEMU's monitor serves one client, and of a guest that libvirt runs that is
 * libvirt's daemon.  It passes commands on (virDomainQemuMonitorCommand), with descriptors
 * (…WithFiles, from 8.2 on), and the events that QEMU sends.  So this is a Qmp (qmp.h), and the QEMU driver
 * is the same.  What ends or begins something for libvirt, too, is libvirt's to do: `cont` is
 * virDomainResume() (which takes locks of its lock manager again), `quit` is virDomainDestroy().
 *
 * A call cannot be taken back, and waits as long as another one has the domain (a save by somebody
 * else: up to 30 s, then BUSY).  So each runs in a thread of a pool, and who has waited long enough leaves it.  There is
 * no out-of-band execution.
 *
 * Events come over the same connection as replies, and may come later than they.  So whether the guest was resumed while we
 * had it paused is told by libvirt's own state, too: it notes why a domain is paused, and for one that is stopped by the
 * monitor, as by us, that is "unknown", which a user's suspend is not.  (Of one that its user had paused before only the event
 * tells.)
 *
 * A daemon that is restarted keeps its guests.  The connection is opened again with the next
 * command; QMP_EVENTS_LOST is delivered then: whoever has paused the guest must not rely on
 * it any more.
 */
#pragma once

#include "vmm/qemu/qmp.h"

/* *address*: vmm/libvirt/address.h.  NOT_FOUND where that daemon has no such domain, or it does not run. */
Qmp *qmp_open_libvirt(const char *address, GError **error);

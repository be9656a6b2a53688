/*
 * A QMP connection through a relay
 *
 * Theory of operation: descriptors travel with QMP only where QEMU itself is at
 * the socket's other end.  A relay (socat, for a QMP over TCP) passes bytes on.
 * Then QEMU is given a descriptor by injection (inject/give_fd.c) instead, and
 * finds it as /proc/self/fd/N.
 */
#pragma once

#include "vmm/qemu/driver.h"

/* TRUE where descriptors do not come through. */
gboolean qemu_is_relayed(Qmp *qmp);

/* Saves the device state into *memory* that way. */
gboolean qemu_save_relayed(QemuVmm *qemu, int memory, VmmSavePurpose purpose, GError **error);

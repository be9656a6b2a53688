/*
 * The QEMU driver
 *
 * Theory of operation: one QemuVmm (driver.h) is one QEMU process and one QMP
 * connection.
 *
 * A move: the source's clean command line (command_line.h) is rewritten at the
 * destination and started with `-incoming defer -S` and the capability
 * late-block-activate, so that it holds no image locks before `cont`.  Its
 * incoming stream is opened at once (incoming.c), which makes its RAM blocks as
 * long as the source's and marks them, and stays open.  RAM is copied by others,
 * by the addresses of qemu_describe() (ram_blocks.h).  The source's device state
 * comes from `xen-save-devices-state` (no Xen involved), which leaves out RAM
 * and, on a paused guest, releases the image locks where it is told so (`live`: for
 * a switchover, not for a checkpoint); the end of the stream is built from it
 * (state/qemu_stream.h).
 *
 * Threads and locks: the operations of one Vmm are serialised by a lock; the
 * QMP client (qmp.h) has a reader thread of its own.
 *
 * What can fail: every text and number that comes from QEMU is checked, since
 * a guest may have taken it over.  Where QEMU ends during an operation, the
 * error has the code VMFERRY_ERROR_DISCONNECTED and the tail of QEMU's standard
 * error.
 *
 * Limits: one QMP client per socket; what is local to a host and not rewritten
 * by a rule (inherited descriptors, sockets in use) is refused.  A state can be
 * saved for a switchover once between two resumes, and no state from a guest that
 * was loaded and never resumed (QEMU 7 aborts on releasing images twice); for a
 * guest found paused the locks on its images tell, so one whose images cannot be
 * locked must be resumed first.  Guest memory in a file that both hosts share through a
 * network is not recognised (on one host it is).  A QEMU whose incoming stream
 * is closed before its end exits: no other process can continue it.
 */
#pragma once

#include "vmm/vmm_driver.h"

extern const VmmDriver qemu_driver;

/* The entries of that table.  A launched QEMU's standard error goes to a log file in
 * the launch's directory, which stays ours; its sockets are in a folder below it
 * that belongs to whoever runs QEMU. */
Vmm *qemu_launch(const VmmLaunch *launch, GError **error);
Vmm *qemu_adopt(pid_t pid, const char *qmp_path, GError **error);
Vmm *qemu_reattach(const VmmIdentity *identity, GError **error);

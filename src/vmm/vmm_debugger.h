/*
 * A machine in a VMM that can look into it
 *
 * Theory of operation: a copy of a guest is loaded into a VMM with a debugger of its own, and stands still there until the
 * debugger's commands let it run.  The VMM is Bochs, and its commands are those of its debugger (help, r, x, u, s, c, b, watch,
 * info, …).  Its disks are read, and not written: what the copy writes is kept apart and gone at the end.  Its network cards
 * are connected to nothing.
 *
 *     vmm_debugger_open()                                      it is made, and empty
 *     vmm_open_incoming(), guest_memory_write(),
 *     vmm_load_device_state() of vmm_debugger_get_vmm()        it is the copy (a neutral state, encoded)
 *     vmm_debugger_send(), vmm_debugger_await(), …             by whoever looks
 *     vmm_debugger_free()                                      it is gone
 *
 * Threads: one at a time.
 */
#pragma once

#include "state/machine_description.h"
#include "state/tree.h"
#include "vmm/vmm.h"

typedef struct VmmDebugger VmmDebugger;

/* *directory* (exists, private, an absolute path without blanks) is where its files are.  UNSUPPORTED with all that
 * cannot be of this machine, each by name. */
VmmDebugger *vmm_debugger_open(const MachineDescription *machine, const char *directory,
                               GError **error);

/* Whether that could be, and go on in this state: as vmm_debugger_open() and vmm_load_device_state() will say, and nothing is
 * made.  BUSY: not at this very moment. */
gboolean vmm_debugger_check(const MachineDescription *machine, const StateNode *state,
                            GError **error);

/* Ends its process and removes its files.  NULL-safe. */
void vmm_debugger_free(VmmDebugger *debugger);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmmDebugger, vmm_debugger_free)

/* Borrowed. */
Vmm *vmm_debugger_get_vmm(const VmmDebugger *debugger);

/* Begins a command: printable ASCII, at most 200 characters (INVALID). */
gboolean vmm_debugger_send(VmmDebugger *debugger, const char *command, GError **error);

/* Waits for its end.  *ret* is what it has said; free with g_free().  TIMEOUT: it may be called again.  INVALID: it has
 * said more than can be kept, and all is lost; it has ended.  DISCONNECTED: the machine has ended by it. */
gboolean vmm_debugger_await(VmmDebugger *debugger, guint timeout_ms, char **ret, GError **error);

/* Asks a command that lets the machine run to end; may be lost, so it is called again until the command has
 * ended. */
void vmm_debugger_interrupt(VmmDebugger *debugger);

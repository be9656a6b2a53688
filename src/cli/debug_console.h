/*
 * A debugger's console at the user's terminal
 *
 * Theory of operation: lines of standard input, or commands of an option, are given to the debugger one by one, and what it
 * says to standard output when each has ended.  Ctrl-C ends a command that lets the machine run, and not the program; SIGTERM,
 * SIGHUP and an output that nobody reads end both.  Signals are blocked and read from a descriptor, so that none comes at a wrong
 * moment.
 */
#pragma once

#include "vmm/vmm_debugger.h"

typedef struct DebugConsole DebugConsole;

/* Before any other thread is made. */
DebugConsole *debug_console_new(GError **error);
void debug_console_free(DebugConsole *console);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DebugConsole, debug_console_free)

/* TRUE where the user has asked to stop: before there is a debugger. */
gboolean debug_console_wants_end(DebugConsole *console);

/* Until the end of the input, or a command that ends it ("q").  FALSE with *error* where the debugger has ended
 * otherwise. */
gboolean debug_console_talk(DebugConsole *console, VmmDebugger *debugger, GError **error);

/* Commands with ";" between them, up to one that ends it. */
gboolean debug_console_execute(DebugConsole *console, VmmDebugger *debugger, const char *commands,
                               GError **error);

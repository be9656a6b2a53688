/*
 * The channel to the agent in a guest, by a command line
 *
 * Theory of operation: qemu-ga's port is a virtio serial port called org.qemu.guest_agent.0, whose character device is a
 * Unix socket on which QEMU listens.  A machine that was just launched has what its command line says.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#define QEMU_AGENT_PORT "org.qemu.guest_agent.0"

/* FALSE (UNSUPPORTED) where there is none that we could connect to.  Pure. */
gboolean qemu_check_agent(char *const *command_line, GError **error);

/* A connected socket; -1 with *error*. */
int qemu_connect_agent(pid_t pid, GError **error);

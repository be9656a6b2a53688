/*
 * The Unix socket of the control API
 *
 * Who may connect may do what the agent may do, so the socket is for its
 * owner and, where there is one, the group "vmferry": mode 0660.
 */
#pragma once

#include <gio/gio.h>

#define CONTROL_SOCKET_GROUP "vmferry"

/* Binds and listens.  A socket left behind is replaced; VMFERRY_ERROR_BUSY
 * where a process answers on it. */
GSocket *control_socket_open(const char *path, GError **error);

/* Making a TCP connection, with a deadline and cancellable. */
#pragma once

#include <gio/gio.h>
#include <stdint.h>

#include "wire/address.h"

/* Returns a connected, non-blocking socket or -1.  *cancel_fd* becomes
 * readable where the user cancels (-1: never).  *most_segment*: the largest segment in either
 * direction, TCP's options included; 0: as the kernels find out. */
int connect_socket(const Address *address, guint most_segment, uint64_t deadline_ns, int cancel_fd,
                   GError **error);

/* Names to addresses, with a deadline and cancellable. */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "wire/address.h"

/* The addresses of the host in *address*: a GPtrArray of struct sockaddr_storage with its port set.
 * *cancel_fd* as in connect_socket(). */
GPtrArray *dns_look_up(const Address *address, uint64_t deadline_ns, int cancel_fd, GError **error);

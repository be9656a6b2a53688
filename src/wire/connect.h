/* Making a TCP connection, with a deadline and cancellable. */
#pragma once

#include <gio/gio.h>
#include <stdint.h>

#include "wire/address.h"

typedef struct {
    const Address *address;
    uint64_t deadline_ns;
    int cancel_fd; /* readable where the user cancels; -1: never */
    /* The largest segment in either direction, TCP's options included; 0: as the kernels find out. */
    guint segment_bytes;
} ConnectRequest;

/* Returns a connected, non-blocking socket or -1. */
int connect_socket(const ConnectRequest *request, GError **error);

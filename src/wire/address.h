/* HOST, HOST:PORT, [V6]:PORT and bare V6 addresses */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct {
    char *host; /* without brackets */
    uint16_t port;
    char *label; /* "host:port", for messages */
} Address;

gboolean address_parse(const char *text, uint16_t default_port, Address *ret, GError **error);
void address_clear(Address *address);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Address, address_clear)

/* TRUE where *text* is an IPv4 or IPv6 address. */
gboolean address_is_ip(const char *text);

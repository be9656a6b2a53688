/* What a router says to the sender of a packet that is too large for its next link. */
#pragma once

#include <glib.h>

/* Ethernet, IP, ICMP, and of the packet its IP header with options and 8 bytes (RFC 792). */
#define LINK_FRAG_NEEDED_MOST (14 + 20 + 8 + 60 + 8)

/* Makes the ICMP frame "fragmentation needed, next MTU is *mtu*" (RFC 1191) for an Ethernet *frame*,
 * as if from its receiver.  Returns its length; 0 where there is nothing to say: no IPv4, no "don't
 * fragment", a later fragment, not whole, or itself an ICMP error. */
guint link_frag_needed(const guint8 *frame, guint length, guint mtu,
                       guint8 ret[LINK_FRAG_NEEDED_MOST]);

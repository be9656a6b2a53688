/*
 * A link's settings as words
 *
 * Pairs of a name and a value, any number of them in one line; what is not named stays as it is:
 *
 *     rate 100mbit          base/rate.h; "unlimited"
 *     trace FILE            in place of a rate; from its start
 *     delay 50ms  jitter 5ms
 *     loss 0.5%  burst 4    packets; in a row, on average
 *     reorder 1%  reorder-by 10ms
 *     duplicate 1%
 *     queue 256k  queue-time 100ms     what may wait for the line; 0: no limit of this kind
 *     mtu 1400              IP packets above are dropped; 0: any
 *     frag-needed on        their sender is told so (ICMP), where they may not be cut
 *     break 5s              from now on; with "break-after 10s" later, with "break-every 30s"
 *                           again and again; "break 0" ends it
 *
 * Each word is checked, and then whether they fit together.
 */
#pragma once

#include "model.h"

/* Limits that keep a relay's memory bounded. */
#define LINK_LONGEST_DELAY_MS 10000
#define LINK_LARGEST_MTU 2000

/* Settings of a link that does nothing to packets but wait at most 100 ms for a rate. */
void link_settings_init(LinkSettings *settings);

/* Changes *settings* by *words* (NULL-terminated).  On FALSE they are as they were. */
gboolean link_settings_apply(LinkSettings *settings, char *const *words, guint64 now_ns,
                             GError **error);

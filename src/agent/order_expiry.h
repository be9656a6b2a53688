/*
 * Orders that come too late
 *
 * Theory of operation: whoever orders a move and then dies, or is stopped and goes on later, may leave an order that is
 * still on its way.  Somebody else, who takes over from them, has to know when it cannot come through any more.  So an
 * order may say until when it counts, by the clock of the host that it is for: GET /v1/status tells its CLOCK_BOOTTIME
 * (`time_ms`, which goes on while the host sleeps) and its boot, and the order says `"expires": {"boot_id", "time_ms"}`.
 * What comes later, or after another boot, is refused.  No two clocks are compared, and nothing has to be remembered.
 *
 * Pure.
 */
#pragma once

#include "base/json.h"

/* FALSE with *error* where the request's *body* has expired (VMFERRY_ERROR_REFUSED), or says so in a way that cannot be
 * read.  *now_ms*: CLOCK_BOOTTIME.  Without `expires` it counts for ever. */
gboolean order_expiry_check(json_t *body, const char *boot_id, uint64_t now_ms, GError **error);

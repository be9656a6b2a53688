/*
 * The other host is told that its copy of a guest was taken over
 *
 * Theory of operation: a guest that was taken over because its destination could not be reached
 * (docs/witness.md) may still have a copy there, which stands still: it has no lease.  It is ended when
 * this host tells it of the higher term.  Whom to tell is on the guest's record (*stale_destination*)
 * until it was; a thread tries again and again, as long as the guest is here.
 */
#pragma once

#include "agent/context.h"

/* Does nothing where there is nobody to be told. */
void takeover_notice_start(AgentContext *context, Guest *guest);

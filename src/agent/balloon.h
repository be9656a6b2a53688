/*
 * What is owed to a guest's balloon
 *
 * A move may have taken a guest's free memory by its balloon
 * (migrate/reclaim.h).  What it is to be given back is in its record until
 * that is done: at its destination, or here where the move came to nothing.
 */
#pragma once

#include "agent/context.h"

/* Writes it down (0: nothing). */
gboolean balloon_note(Guest *guest, uint64_t bytes, GError **error);

/* Lets the balloon go where that is owed.  A failure is an event and stays owed
 * until the agent's next start. */
void balloon_let_go(AgentContext *context, Guest *guest);

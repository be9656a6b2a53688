/*
 * Watching the guests' processes
 *
 * A process that ends is seen at once, through a pidfd in the main loop.  That
 * a guest was paused, resumed or has shut down while its process stays is
 * asked for every WATCH_INTERVAL_MS.  Which guests are asked follows from their
 * role and from what goes on with them (guest_is_watched()): what a move does to
 * a guest is not news, and a guest that is INCOMING has none yet.
 */
#pragma once

#include "agent/context.h"

#define WATCH_INTERVAL_MS 2000

/* Watches the guest's process, from any thread. */
void watch_guest(AgentContext *context, Guest *guest);

/* Gives a claim back; removes the guest if its process ended meanwhile. */
void watch_release(AgentContext *context, Guest *guest);

/* The same at the end of what went on with the guest (registry_release_from_activity()). */
void watch_release_from_activity(AgentContext *context, Guest *guest);

/* For the claim's holder: the guest's process has ended, so the guest is removed.  An event says
 * why. */
void watch_remove_dead(AgentContext *context, Guest *guest);

/* The thread that asks for run states until the agent stops. */
void watch_start_polling(AgentContext *context);

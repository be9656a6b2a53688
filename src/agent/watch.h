/*
 * Watching the guests' processes
 *
 * A process that ends is seen at once, through a pidfd in the main loop.  That
 * a guest was paused, resumed or has shut down while its process stays is
 * asked for every WATCH_INTERVAL_MS.  Only guests that nobody has claimed are
 * asked: what a move does to a guest is no news.
 */
#pragma once

#include "agent/context.h"

#define WATCH_INTERVAL_MS 2000

/* Watches the guest's process, from any thread. */
void watch_guest(AgentContext *context, Guest *guest);

/* Gives a claim back; buries the guest if its process ended meanwhile. */
void watch_release(AgentContext *context, Guest *guest);

/* For the claim's holder: the process is gone, so is the guest.  Tells why. */
void watch_bury(AgentContext *context, Guest *guest);

/* The thread that asks for run states until the agent stops. */
void watch_start_polling(AgentContext *context);

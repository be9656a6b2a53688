/*
 * The neutral state of a guest, as it is now
 *
 * Theory of operation: vmm_look() pauses the guest for some ms, and lets it go on whatever fails.  QEMU does that by itself,
 * whatever becomes of this agent; a Bochs goes on when its agent is back.  One that its user has paused stays paused.
 * The guest is claimed meanwhile, so that nothing else is done with it.
 */
#pragma once

#include "agent/context.h"

/* {"guest": …, "vmm_kind": …, "paused_ms": …, "machine": {…}, "state": {…}} (docs/state-format.md, docs/machine-format.md;
 * without "machine" where it cannot be told). */
json_t *machine_state_get(AgentContext *context, const char *name, GError **error);

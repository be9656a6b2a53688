/*
 * The neutral state of a guest, as it is now
 *
 * Theory of operation: a checkpoint (vmm/vmm_checkpoint.h) of the running guest, whose pause of some ms is the VMM's own:
 * whatever becomes of this agent, the guest goes on.  One that its user has paused stays paused.
 * The guest is claimed meanwhile, so that nothing else is done with it.
 */
#pragma once

#include "agent/context.h"

/* {"guest": …, "vmm_kind": …, "paused_ms": …, "state": {…}} (docs/state-format.md). */
json_t *machine_state_get(AgentContext *context, const char *name, GError **error);

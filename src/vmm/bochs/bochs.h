/*
 * The driver for Bochs: a Vmm over a stock Bochs 2.7
 *
 * Theory of operation: Bochs (process.h) stands at its debugger's prompt or runs.  Paused is "at its
 * prompt": all state can be read and set there, field by field (parameters.h), and its guest's
 * clock, which counts instructions, stands still.  Guest RAM is one region (ram.h) that memory/ reads, writes
 * and tracks.  All vCPUs run in one thread.
 *
 * A guest's command line is the program and lines of its configuration (command_line.h).  What the driver cannot do fails
 * with UNSUPPORTED and names it.  Output of a guest is not held: its cards are connected to nothing.
 *
 * All that an agent which comes back needs is in its folder (record.h, process.h).  A guest that runs goes on
 * running meanwhile, one that is paused stays so: a guard (guard/guard.h) does not let it run, so one whose agent dies in a
 * pause waits for the agent's return.
 *
 * Threads: as vmm.h says; a mutex serialises the operations.
 */
#pragma once

#include "identity/spawn_plan.h"
#include "state/tree.h"
#include "vmm/bochs/machine.h"
#include "vmm/vmm.h"
#include "vmm/vmm_driver.h"

#define BOCHS_KIND "bochs"

extern const VmmDriver bochs_driver;

typedef struct {
    const char *name;      /* guest's name */
    const char *directory; /* where its folder NAME.bochs is made (exists, private) */
    const BochsMachine *machine;
    const char *program;   /* NULL: "bochs-bin" of PATH */
    const SpawnPlan *plan; /* NULL: as we are */
    /* See VmmLaunch. */
    gboolean (*begun)(pid_t pid, gpointer user, GError **error);
    gpointer user;
} BochsLaunch;

/* VmmDriver.check_state: bochs_form_from_state() agrees. */
gboolean bochs_check_state(const StateNode *state, GError **error);

/* Starts one that is paused and has not run yet.  NULL with *error*: nothing of it runs. */
Vmm *bochs_launch(const BochsLaunch *launch, GError **error);

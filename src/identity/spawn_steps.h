/* What the child does before exec(2), one step after the other (spawn_child.c). */
#pragma once

#include "identity/spawn.h"
#include "identity/spawn_plan_private.h"

/* Two pipes: notes to the parent, and leave to go on from it. */
typedef struct {
    int notes[2], leave[2]; /* ends to read from and to write to */
} SpawnPipes;

/* Does all of it and does not return. */
void spawn_child_run(const Spawn *spawn, const SpawnPipes *pipes) G_GNUC_NORETURN;

/* Through the pipe: the pid first, then perhaps a failure. */
typedef struct {
    gint32 step; /* SPAWN_STEP_PID: *value* is the pid */
    gint32 value;
    gint32 error; /* errno */
} SpawnNote;

#define SPAWN_STEP_PID (-1)

/* The step's name in an error; *value* is what it was at ("nofile").  Free
 * with g_free(). */
char *spawn_step_describe(const Spawn *spawn, gint32 step, gint32 value);

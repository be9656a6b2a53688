/*
 * Starting a process by a plan
 *
 * Theory of operation: a child in between forks the process and ends, so that
 * the process is not our child.  Before it executes its program, the process
 * makes itself what the plan says (spawn_child.c): only system calls, since the
 * agent has threads.  A pipe that exec(2) closes tells how it went: first the
 * process's pid, then, only where it failed, the step that did and why.  Between
 * the two it waits for leave through a second pipe, so that whoever starts it
 * can write down its pid: at no time does a process run that nobody knows of.
 *
 * The process begins in a session of its own with no signal blocked; no
 * descriptor is inherited but its standard streams.
 */
#pragma once

#include "identity/spawn_plan.h"

typedef struct {
    const SpawnPlan *plan;
    const char *program; /* path of the file */
    char **argv;
    char **environment;
    const char *working_directory;
    int output; /* becomes standard output and standard error */
    /* Called when the process exists and has done nothing yet; FALSE with
     * *error*: it ends without doing anything.  May be NULL.  If we die before
     * this has returned, the process ends as well. */
    gboolean (*begun)(pid_t pid, gpointer user, GError **error);
    gpointer user;
    int input;  /* becomes standard input; 0: /dev/null does */
    int errors; /* becomes standard error; 0: *output* does */
} Spawn;

/* Returns when the program was executed; a failure names the step. */
gboolean spawn_detached(const Spawn *spawn, pid_t *ret_pid, GError **error);

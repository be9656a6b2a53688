/*
 * Who would start a guest again when its process ends
 *
 * Theory of operation: once a guest has moved, its old process ends; whoever
 * takes that for a failure starts a second copy of the guest.  So before a
 * process is adopted, its parents are examined, upwards from it, until one is
 * found that restarts things, one that does not, or init (which may have
 * started it itself: its child leads a session then); and the unit of its control
 * group is asked for (systemd_unit.h).  What is found is reported, and
 * needs the user's consent.
 *
 * It reads names and texts and proves nothing: a parent that is not
 * known may do anything.  That it is said to be fine where it is not costs no
 * more than not looking.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

/* What a parent's command line says of it. */
typedef enum {
    PARENT_FINE,       /* starts nothing by itself, and who started it does not either */
    PARENT_PASSES,     /* runs one program and ends with it: its own parent counts */
    PARENT_SUPERVISES, /* is known to start things again */
    PARENT_SHELL,      /* depends on what it runs */
    PARENT_UNKNOWN,
} ParentKind;

/* *argv* is never empty. */
ParentKind supervisor_judge_parent(char *const *argv);

/* FALSE where an init of this name (/proc/1/comm) starts nothing again by itself;
 * systemd is asked otherwise (systemd_unit.h). */
gboolean supervisor_init_restarts(const char *name);

/* A sentence's part about what (may) start the process again, or NULL where
 * nothing is known to.  Free with g_free(). */
char *supervisor_find(pid_t pid);

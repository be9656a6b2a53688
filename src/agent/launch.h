/*
 * Guests that start, are adopted and are stopped here
 *
 * All of it blocks and runs in a worker thread of the control API.
 */
#pragma once

#include "agent/context.h"
#include "vmm/vmm_driver.h"

#include <glib.h>

/* Launches a VMM from a plain command line, in *working_directory*, and manages
 * its guest.  *kind*: the VMM that is to run it, where that is not the one whose command line it is; or NULL. */
gboolean launch_run(AgentContext *context, const char *name, char **command_line,
                    const char *working_directory, const char *kind, GError **error);

/* The command line by which a VMM of *kind* makes the machine of another VMM's: that one is started for a moment,
 * without running the guest (launch_plan.c).  Free with g_strfreev(). */
char **launch_plan(AgentContext *context, const char *name, char **command_line,
                   const char *working_directory, const char *kind, GError **error);

typedef struct {
    pid_t pid;
    const char *qmp_path;      /* NULL: find its socket */
    const char *libvirt;       /* name or UUID of the domain, instead of both; or NULL … */
    const char *connect;       /* … and where its daemon is (vmm/libvirt/library.h) */
    gboolean allow_supervisor; /* its user sees to it that it is not started again */
} LaunchAdoption;

/* Adopts a VMM that runs already. */
gboolean launch_adopt(AgentContext *context, const char *name, const LaunchAdoption *adoption,
                      GError **error);

/* VmmLaunch.begun of a Guest (*user*): puts its process on record before that
 * does anything, so that a restarted agent finds it. */
gboolean launch_note_process(const VmmIdentity *identity, gpointer user, GError **error);

/* Ends the guest's VMM. */
gboolean launch_stop(AgentContext *context, const char *name, GError **error);

/* A new record for *name*, of a guest that nobody has managed before (its id is
 * new, its term 1); free with guest_record_free().  Of an adopted guest
 * command line and folder come with its process. */
GuestRecord *launch_make_record(const char *name, GuestRole state, GuestOrigin origin,
                                char **command_line, const char *working_directory);

/* Makes the guest's directory and puts the guest on record for the first time;
 * nothing is left where that fails. */
gboolean launch_give_directory(AgentContext *context, Guest *guest, GError **error);

/* Fills in what is known of a guest once its VMM is there. */
void launch_fill_record(GuestRecord *record, Vmm *vmm);

/* Ends a VMM that must not stay, and frees it; control groups that were made for it go, too. */
void launch_undo(Vmm *vmm);

/* Why this machine could not be moved as it is now, or NULL; free with
 * g_free().  *record*: the guest's.  *ret_description: what it is
 * made of, or NULL where that is not known; free it with
 * vmm_description_free(). */
char *movable_find_obstacle(Vmm *vmm, const GuestRecord *record, VmmDescription **ret_description);

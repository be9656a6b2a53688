/*
 * A guest that is saved into an image
 *
 * Theory of operation: a save is an Activity (activity.h) of the kind "save". It claims its guest, as a move does, and
 * runs save_source_run() in a thread. The image is kept by this agent (peers_dial()) or by that of another host.
 *
 * At the end the guest is OURS and free; or, where it was to be ended and its image is complete, gone.
 */
#pragma once

#include "agent/context.h"
#include "migrate/options.h"

typedef struct {
    const char *target; /* an absolute path, or HOST[:PORT]:PATH of another host */
    const MigrateOptions *options;
    const char *base;    /* of an image beside it; NULL: a full one */
    gboolean replace;    /* a file that is there */
    gboolean ends;       /* the guest */
    gboolean live_disks; /* see SaveJob */
    gboolean pipes;      /* a path of this host may be a FIFO's */
} SaveRequest;

/* Claims the guest and starts the save.  The caller owns a reference. */
Activity *save_start(AgentContext *context, const char *name, const SaveRequest *request,
                     GError **error);

/*
 * Disks for a guest that is restored from an image
 *
 * Theory of operation: a disk that was copied when the guest was saved stays as it is, so that the image can be
 * restored again.  The guest gets a disk of its own, in a folder of this host:
 *
 *     qcow2   an overlay above the copy, which takes what the guest writes: made in no time
 *     raw     a copy of the copy: shares its blocks where the file system can (FICLONE), else is written, without
 *             its holes; from a copy that is above others (an increment's), all that these show is written into one
 *
 * One by reference is used as it is, once it is proven that nobody has written to it since.  The machine's command line
 * is led to the right files by map rules.
 */
#pragma once

#include "agent/context.h"
#include "migrate/image_restore.h"

typedef struct {
    const char *name;   /* of the guest, as it is called here */
    const char *folder; /* for its own disks; NULL: RESTORED in the state directory */
    gboolean trusts;    /* disks by reference are not looked at */
} RestoredDisksRequest;

typedef struct RestoredDisks RestoredDisks;

/* Makes them.  *rules*: of VmmMapRule, those that the guest will be launched with.  Nothing stays where that fails.  REFUSED where a disk has
 * changed, EXISTS where a file is in the way. */
RestoredDisks *restored_disks_make(AgentContext *context, const ImageRestore *restore,
                                   const RestoredDisksRequest *request, const GPtrArray *rules,
                                   GError **error);

/* The command line with its own disks in it, for good; free with g_strfreev(). */
char **restored_disks_apply(const RestoredDisks *disks, char *const *command_line);

/* Its files are the guest's from now on. */
void restored_disks_keep(RestoredDisks *disks);

/* Removes what was made, unless it is kept.  NULL-safe. */
void restored_disks_free(RestoredDisks *disks);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RestoredDisks, restored_disks_free)

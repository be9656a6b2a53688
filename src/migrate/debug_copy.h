/*
 * A saved image's machine goes on in a debugger
 *
 * Theory of operation: what the image has of a guest, of whatever VMM, is brought into the neutral form and loaded into a VMM that
 * can look into it (vmm_debugger.h), in this process, without an agent.  Neither the image nor the disks are
 * written to, and where the guest itself runs on it is not touched.  The state is refused by name, where it is of a moment, or of
 * a machine, that the debugger's VMM cannot be.
 */
#pragma once

#include "image/saved_image.h"
#include "vmm/vmm_debugger.h"

typedef struct {
    const char *path;      /* of the image */
    const char *directory; /* see vmm_debugger_open() */
    GBytes *key;           /* of an image with a keyed digest, or NULL */
    /* What may surprise: a disk has changed since the image was saved.  May be NULL. */
    void (*warn)(const char *text);
} DebugCopyJob;

/* Whether a guest that runs could go on there, by what its agent told of it (GET /v1/guests/NAME/state): so that it is not saved
 * for nothing.  TRUE also where that is not known before. */
gboolean debug_copy_check(json_t *told, GError **error);

VmmDebugger *debug_copy_open(const DebugCopyJob *job, GError **error);

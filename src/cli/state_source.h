/* Where `vmferry state` has states from. */
#pragma once

#include "cli/cli.h"
#include "state/tree.h"

/* The state of *name*: of a file, where it has a "/" or there is one of that name (a saved image, a neutral
 * state as JSON or in its binary form, or what QEMU's xen-save-devices-state wrote), else of the guest of that
 * name.  *key_file*: of an image that was saved with a key; may be NULL.  Free with state_free(). */
StateNode *state_source_read(const CommonOptions *common, const char *name, const char *key_file,
                             GError **error);

/*
 * What is kept of a Bochs in its folder, for an agent that comes back
 *
 *     record    JSON: what cannot be found out again (where RAM and byte arrays are, the command line, the
 *               machine's description)
 *     loaded    the state that was loaded into it, encoded
 *     ran       "1" since its guest was let run
 *
 * Only we write to the folder; it is checked all the same.
 */
#pragma once

#include "vmm/bochs/driver.h"

/* Of a Bochs that is ready, before its guest is let run. */
gboolean bochs_record_write(BochsVmm *bochs, GError **error);

/* What was written there: all but the process, of which *ret_version is the version.  NOT_FOUND where it was never ready.  Free
 * with vmm_free(). */
BochsVmm *bochs_record_read(const char *folder, char **ret_version, GError **error);

gboolean bochs_record_write_loaded(const BochsVmm *bochs, GBytes *state, GError **error);

/* Whether its guest was let run. */
gboolean bochs_record_read_run(const char *folder, gboolean *ret, GError **error);

/* Its guest is about to run. */
gboolean bochs_record_note_run(const BochsVmm *bochs, GError **error);

/* The folder of a Bochs's process (process.h). */
#pragma once

#include <glib.h>

#include "vmm/bochs/machine.h"

/* Makes it with all that is there before the start; what a Bochs that has ended left is removed.
 * EXISTS where one runs there. */
gboolean bochs_folder_make(const char *folder, const BochsMachine *machine, GError **error);

/* Removes it with all that is in it. */
void bochs_folder_remove(const char *folder);

/* Free with g_free(). */
char *bochs_folder_path(const char *folder, const char *name);

/* open(2) of a file there, close-on-exec and without following a link; -1 with *error*. */
int bochs_folder_open(const char *folder, const char *name, int flags, GError **error);

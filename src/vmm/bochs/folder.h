/*
 * The folder of a Bochs's process (process.h)
 *
 * It is ours.  A Bochs that another user runs can read its configuration and what `restore` reads, and write its log,
 * which is its own; FIFOs and standard error it has as open files.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#include "vmm/bochs/machine.h"

/* Makes it with all that is there before the start; what a Bochs that has ended left is removed.
 * EXISTS where one runs there. */
gboolean bochs_folder_make(const char *folder, const BochsMachine *machine, GError **error);

/* Lets this user and group run Bochs there; nothing is done for ourselves. */
gboolean bochs_folder_share(const char *folder, uid_t uid, gid_t gid, GError **error);

/* As file_replace(), of a file that Bochs reads. */
gboolean bochs_folder_write(const char *path, const char *text, GError **error);

/* Removes it with all that is in it. */
void bochs_folder_remove(const char *folder);

/* Free with g_free(). */
char *bochs_folder_path(const char *folder, const char *name);

/* open(2) of a file there, close-on-exec and without following a link; -1 with *error*. */
int bochs_folder_open(const char *folder, const char *name, int flags, GError **error);

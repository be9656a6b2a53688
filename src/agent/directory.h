/*
 * A guest's directory for sockets and logs
 *
 * Each launch gets a new one below the runtime directory, so that a guest that
 * comes back under the same name never meets the files of its past.
 *
 * The directory and the log in it are ours; a folder in it for sockets belongs
 * to whoever runs the guest (vmm/qemu/launch.c), so nothing in there is
 * followed or believed.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

/* Makes one (0700); free the path with g_free(). */
char *guest_directory_create(const char *runtime_dir, GError **error);

/* The same for the time of a move: it is on no record, its name says which process has made it. */
char *guest_directory_create_for_move(const char *runtime_dir, GError **error);

/* Removes those for moves whose makers have ended. */
void guest_directories_clean(const char *runtime_dir);

/* Where what protected guests write is kept until it is theirs for good: made where it is not there.  On a
 * real file system, since it may be much; guests' VMMs, whoever runs them, must get through. */
char *guest_overlays_directory(const char *state_dir, GError **error);

/* Removes it with all that is in it. */
void guest_directory_remove(const char *directory);

/* Removes control groups that were made for a guest which is gone. */
void guest_cgroups_remove(char **folders);

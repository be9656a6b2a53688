/*
 * Guards of processes that serve images
 *
 * Such a process is not our child and outlives us (vmm/vmm_storage.h): what it has open would stay
 * locked.  A guard for each ends it where we die, from before it does anything.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

/* By pid; free with g_hash_table_unref(), once the processes have ended. */
GHashTable *storage_guards_new(void);

/* VmmStorageLaunch.begun; *user* is such a table. */
gboolean storage_guards_begun(pid_t pid, gpointer user, GError **error);

/* The process has ended. */
void storage_guards_drop(GHashTable *guards, pid_t pid);

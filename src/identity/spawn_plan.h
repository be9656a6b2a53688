/*
 * As whom a process is to be started, and under what confinement
 *
 * Theory of operation: a SpawnPlan is a ProcessIdentity with everything looked
 * up on this host: ids for names, descriptors for namespaces and groups.  What
 * cannot be set here is refused when the plan is made, naming it, unless its
 * kind is among those that are allowed to be left out.  spawn.h starts a
 * process by a plan; spawn_plan_check() reads it again when it has settled,
 * and refuses it where it is not what was told.
 *
 * A process that drops its rights by itself begins as us (*starts_as_us*), with
 * the wanted bounding set, and must have become what was told by the time it
 * is checked.
 *
 * What exec(2) makes of capabilities depends on user, file and bounding set; so
 * only what can never come out is refused early, the rest by the check.
 *
 * Control groups that did not exist are made with the plan, and are removed
 * with it unless the process was kept (spawn_plan_keep()).
 */
#pragma once

#include "identity/identity.h"

typedef struct SpawnPlan SpawnPlan;

/* *identity* NULL: as we are ourselves.  *allowed* is a set of Confinement. */
SpawnPlan *spawn_plan_new(const ProcessIdentity *identity, guint allowed, gboolean starts_as_us,
                          GError **error);
void spawn_plan_free(SpawnPlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SpawnPlan, spawn_plan_free)

/* Who the process is when it starts. */
void spawn_plan_get_start_owner(const SpawnPlan *plan, uid_t *ret_uid, gid_t *ret_gid);

/* Reads who *pid* is by now and compares. */
gboolean spawn_plan_check(const SpawnPlan *plan, pid_t pid, GError **error);

/* The process lives: what was made for it stays.  Returns the folders of
 * control groups that were made (NULL: none; free with g_strfreev()). */
char **spawn_plan_keep(SpawnPlan *plan);

/* Control groups: where they are mounted, and what limits they hold. */
#pragma once

#include "identity/identity.h"

/* The folder in which *hierarchy* ("" for version 2, else version 1's
 * controllers) is mounted for us, NULL where it is not.  *root* stands before
 * /proc and is "" but in tests.  Free with g_free(). */
char *identity_cgroup_mount(const char *root, const char *hierarchy);

/* Reads the limits of version 2 that are set in *folder* into *cgroup*. */
void identity_cgroup_read_limits(IdentityCgroup *cgroup, const char *folder);

/* Makes *folder* hold these limits and no others: it is created where it is
 * missing (its parent must be there), and where it is empty the limits are
 * written, with the kernel's default for those that *cgroup* does not name.
 * Where processes are in it or below it already, they must be the same. */
gboolean identity_cgroup_prepare(const IdentityCgroup *cgroup, const char *folder,
                                 gboolean *ret_created, GError **error);

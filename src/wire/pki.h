/*
 * A small certificate authority for users who have none
 */
#pragma once

#include <glib.h>

/* Makes a CA in *directory* (ca.crt, ca.key 0600); refuses to overwrite one.
 * *days*: validity. */
gboolean pki_init(const char *directory, guint days, GError **error);

/* Issues a certificate for *host* (a DNS name or IP address; *extra_names*,
 * NULL-terminated, more of either) signed by the CA in *directory*, into
 * *out_directory*: host.crt, host.key (0600) and a copy of ca.crt, so that
 * this folder is all a host needs. */
gboolean pki_issue(const char *directory, const char *host, const char *const *extra_names,
                   guint days, const char *out_directory, GError **error);

/* The same for who reaches the agents' API over the network and is no host (an engine, a user): the
 * files have the same names, and with this certificate nobody can be taken for another agent. */
gboolean pki_issue_engine(const char *directory, const char *name, guint days,
                          const char *out_directory, GError **error);

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

/* Finding a domain that libvirt runs, and which process that is. */
#pragma once

#include <glib.h>
#include <sys/types.h>

/* By its name or UUID, at *uri* (library.h; may be NULL).  *ret_address*: address.h, free with g_free(); *ret_pid*: of its QEMU.  NOT_FOUND
 * where there is none, or it does not run; UNSUPPORTED where there is no libvirt on this host, or the domain is no QEMU's. */
gboolean libvirt_domain_find(const char *uri, const char *domain, char **ret_address,
                             pid_t *ret_pid, GError **error);

/* TRUE where libvirt has started a QEMU with this command line; *ret_uuid* borrows from it, *ret_name* is to be freed with g_free(). */
gboolean libvirt_domain_is_of(char *const *argv, const char **ret_uuid, char **ret_name);

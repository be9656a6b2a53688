/*
 * A domain of libvirt's, as one text
 *
 * "libvirt:UUID:URI": where the monitor of a guest is that libvirt runs; stands in records where
 * others have the path of a socket.  The URI is the daemon's ("qemu:///system?socket=…").
 */
#pragma once

#include <glib.h>

#define LIBVIRT_ADDRESS_PREFIX "libvirt:"

/* FALSE (INVALID) where a URI is not that of a daemon of this host: a guest of another one is out of reach, and some of libvirt's
 * ways run programs ("qemu+ext") or are no daemon at all ("qemu:///embed"). */
gboolean libvirt_uri_check(const char *uri, GError **error);

/* TRUE where the text begins as one; NULL: it does not. */
gboolean libvirt_address_is(const char *text);

/* Free with g_free(). */
char *libvirt_address_format(const char *uuid, const char *uri);

/* FALSE (INVALID) where it is not one.  Free both with g_free(). */
gboolean libvirt_address_parse(const char *text, char **ret_uuid, char **ret_uri, GError **error);

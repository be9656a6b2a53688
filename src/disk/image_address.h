/* Addresses of images that are no files of a host. */
#pragma once

#include <glib.h>

/* TRUE for an address that means the same image on every host: the protocol is
 * one that goes to a server, and the server is neither this host ("localhost",
 * a loopback address) nor behind a socket of it.  Names are taken to mean the
 * same host everywhere.  Pure. */
gboolean image_address_is_for_all(const char *address);

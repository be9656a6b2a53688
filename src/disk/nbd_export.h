/*
 * A connection to an export of an NBD server on a Unix socket
 *
 * Theory of operation: libnbd's own calls are made on the handle; here is what opening one and
 * errors are about.  A handle takes one call at a time.  libnbd writes nothing to standard error
 * and leaves signals alone.
 */
#pragma once

#include <glib.h>
#include <libnbd.h>

typedef struct nbd_handle NbdHandle;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NbdHandle, nbd_close)

/* *status*: the server is asked to tell what is allocated (nbd_can_meta_context() says whether it
 * will). */
NbdHandle *nbd_export_connect(const char *socket_path, const char *name, gboolean status,
                              GError **error);

/* Fills *error after a call on the handle has failed in this thread: *what* it was doing.
 * DISCONNECTED where the server is gone, NO_SPACE where its storage is full. */
void nbd_export_set_error(NbdHandle *nbd, const char *what, GError **error);

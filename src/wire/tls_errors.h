/* OpenSSL's failures as messages that say what a user can do. */
#pragma once

#include "wire/tls_private.h"

/* Fills *error* from *ssl_error* (of SSL_get_error()), this thread's error
 * queue (emptied) and *errnum* of the socket.  *label* names the peer, *host*
 * the name that its certificate must have (client only, else NULL). */
void tls_set_error(GError **error, SSL *ssl, int ssl_error, int errnum, const char *label,
                   const char *host);

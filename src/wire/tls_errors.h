/* OpenSSL's failures in words that tell a user what to do. */
#pragma once

#include "wire/tls_private.h"

/* Fills *error* from *ssl_error* (of SSL_get_error()), this thread's error
 * queue (emptied) and *errnum* of the socket.  *label* names the peer, *host*
 * what its certificate had to say (client only, else NULL). */
void tls_set_error(GError **error, SSL *ssl, int ssl_error, int errnum, const char *label,
                   const char *host);

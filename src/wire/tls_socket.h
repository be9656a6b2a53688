/*
 * What OpenSSL takes for its socket
 *
 * Reads come from the socket and never wait; what it writes is kept in a
 * buffer.  Used under the session's lock.
 */
#pragma once

#include <stddef.h>

#include "wire/tls_private.h"

typedef struct {
    int fd;              /* borrowed */
    GByteArray *written; /* by OpenSSL, to be sent */
    size_t received;     /* bytes taken from the socket so far */
    int errnum;          /* of the last recv(), 0 where it did not fail */
} TlsSocket;

/* A BIO over it, which must outlive the BIO. */
BIO *tls_socket_make_bio(TlsSocket *tls_socket);

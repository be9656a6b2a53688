/* What the rest of this component needs of OpenSSL; no other component includes this. */
#pragma once

#include <glib.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "wire/tls.h"

G_DEFINE_AUTOPTR_CLEANUP_FUNC(BIO, BIO_free_all)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EVP_PKEY, EVP_PKEY_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(X509, X509_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(X509_NAME, X509_NAME_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GENERAL_NAME, GENERAL_NAME_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GENERAL_NAMES, GENERAL_NAMES_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SSL, SSL_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SSL_CTX, SSL_CTX_free)

/* A new SSL of one of the identity's two contexts. */
SSL *tls_identity_make_ssl(TlsIdentity *identity, gboolean server);

/* The certificate's common name, or its first DNS name; NULL where it has
 * neither or one that hides bytes behind a NUL.  Free with g_free(). */
char *tls_certificate_name(X509 *certificate);

/* OpenSSL's own message for the last error of this thread (which is cleared). */
const char *tls_peer_error(void);

/* The three files of a folder, read as PEM. */
X509 *tls_read_certificate(const char *path, GError **error);
EVP_PKEY *tls_read_key(const char *path, GError **error);

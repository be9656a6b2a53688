/* Making keys and certificates, in memory. */
#pragma once

#include "wire/tls_private.h"

/* Common names longer than this break X.509's own limit. */
#define PKI_MAX_NAME_BYTES 64
#define PKI_MAX_DAYS 36500

/* An ECDSA key on P-256. */
EVP_PKEY *pki_make_key(GError **error);

/* A CA certificate for *key*, signed by itself. */
X509 *pki_make_ca(EVP_PKEY *key, guint days, GError **error);

/* A host's certificate, for both ends of a connection, signed by the CA; it
 * does not outlive the CA's own. */
X509 *pki_make_host(EVP_PKEY *key, const char *host, const char *const *extra_names, guint days,
                    X509 *ca, EVP_PKEY *ca_key, GError **error);

/* The same for who only connects, to the agents' API: no host.  *name* becomes its only name. */
X509 *pki_make_engine(EVP_PKEY *key, const char *name, guint days, X509 *ca, EVP_PKEY *ca_key,
                      GError **error);

/* TRUE for a DNS name or an IP address that may be in a certificate. */
gboolean pki_check_name(const char *name, GError **error);

/*
 * TLS 1.3 with mutual certificates
 *
 * A PKI directory holds ca.crt, host.crt and host.key (PEM), as `vmferry pki`
 * makes them.  Only TLS 1.3 is spoken; a peer without a certificate of the
 * same CA gets no further than the handshake.
 */
#pragma once

#include <glib.h>

typedef struct TlsIdentity TlsIdentity;

/* Loads and checks the three files (permissions of the key, dates, that key
 * and certificate belong together).  They are read again at the next handshake
 * after they have changed; where the new ones don't pass these checks (they are
 * just being replaced, say) the ones before stay in use. */
TlsIdentity *tls_identity_load(const char *directory, GError **error);
TlsIdentity *tls_identity_ref(TlsIdentity *identity);
void tls_identity_unref(TlsIdentity *identity);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TlsIdentity, tls_identity_unref)

/* Reads the files again if they have changed.  *ret_seconds*: how long our
 * certificate and its CA's are still valid, negative once one has expired.
 * FALSE with *error* where the files can't be used; those before still are. */
gboolean tls_identity_check(TlsIdentity *identity, gint64 *ret_seconds, GError **error);

/* Common name of our own certificate. */
const char *tls_identity_get_name(TlsIdentity *identity);

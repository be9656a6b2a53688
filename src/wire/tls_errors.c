#include "wire/tls_errors.h"

#include <errno.h>

#include "base/error.h"

#define ISSUE_HINT "issue a new one with `vmferry pki issue`"
#define CA_HINT "both hosts need certificates of one CA (`vmferry pki issue`)"

/* OpenSSL reports a received alert as this reason plus the alert's number. */
#define IS_ALERT(reason) ((reason) >= SSL_AD_REASON_OFFSET && (reason) < SSL_AD_REASON_OFFSET + 256)

/* TRUE where the peer has shown the very certificate that we have. */
static gboolean is_our_own(SSL *ssl)
{
    const STACK_OF(X509) *shown = SSL_get_peer_cert_chain(ssl);
    X509 *theirs = sk_X509_num(shown) > 0 ? sk_X509_value(shown, 0) : NULL;
    X509 *ours = SSL_get_certificate(ssl);

    return theirs && ours && X509_cmp(theirs, ours) == 0;
}

static void set_name_error(GError **error, SSL *ssl, const char *label, const char *host)
{
    if (is_our_own(ssl))
        error_set(
            error, VMFERRY_ERROR_REFUSED,
            "%s: its certificate is not for \"%s\" but this host's own: it is this host itself, "
            "or has a copy of it (each host needs one of its own, by `vmferry pki issue`)",
            label, host ? host : "this name");
    else
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s: its certificate is not for \"%s\"; use the name it was issued for, or "
                  "issue one that carries this name too (`vmferry pki issue HOST NAME...`)",
                  label, host ? host : "this name");
}

/* We did not like the peer's certificate. */
static void set_verify_error(GError **error, SSL *ssl, const char *label, const char *host)
{
    long result = SSL_get_verify_result(ssl);

    switch (result) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s: its certificate has expired; " ISSUE_HINT " for it", label);
        return;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s: its certificate is not valid yet; are both hosts' clocks right?", label);
        return;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        set_name_error(error, ssl, label, host);
        return;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
    case X509_V_ERR_CERT_CHAIN_TOO_LONG:
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s: its certificate is of another CA than ours; " CA_HINT, label);
        return;
    default:
        error_set(error, VMFERRY_ERROR_REFUSED, "%s: its certificate is not accepted: %s", label,
                  X509_verify_cert_error_string(result));
    }
}

/* The peer did not like something of ours. */
static void set_alert_error(GError **error, int alert, const char *label)
{
    const char *why;

    switch (alert) {
    case SSL_AD_CERTIFICATE_EXPIRED:
        why = "our certificate has expired there; " ISSUE_HINT;
        break;
    case SSL_AD_UNKNOWN_CA:
        why = "our certificate is of another CA than its own; " CA_HINT;
        break;
    case SSL_AD_CERTIFICATE_REQUIRED:
        why = "it demands a certificate and we have none";
        break;
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_ACCESS_DENIED:
        why = "our certificate is not accepted there (valid dates, right CA, both clocks right?)";
        break;
    case SSL_AD_PROTOCOL_VERSION:
        why = "it does not speak TLS 1.3";
        break;
    default:
        why = SSL_alert_desc_string_long(alert);
    }
    error_set(error, VMFERRY_ERROR_REFUSED, "%s refused the connection: %s", label, why);
}

static void set_reason_error(GError **error, SSL *ssl, const char *label, const char *host)
{
    unsigned long code = ERR_peek_last_error();
    int reason = ERR_GET_REASON(code);

    if (ERR_GET_LIB(code) == ERR_LIB_SSL && IS_ALERT(reason)) {
        set_alert_error(error, reason - SSL_AD_REASON_OFFSET, label);
        return;
    }
    switch (ERR_GET_LIB(code) == ERR_LIB_SSL ? reason : 0) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        set_verify_error(error, ssl, label, host);
        return;
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        error_set(error, VMFERRY_ERROR_REFUSED, "%s has no certificate; one of our CA is demanded",
                  label);
        return;
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s: the connection was cut", label);
        return;
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_UNKNOWN_PROTOCOL:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s does not speak TLS (started with --insecure, or no vmferry agent at all?); "
                  "this side demands it",
                  label);
        return;
    case SSL_R_UNSUPPORTED_PROTOCOL:
        error_set(error, VMFERRY_ERROR_REFUSED, "%s does not speak TLS 1.3", label);
        return;
    default:
        error_set(error, VMFERRY_ERROR_FAILED, "%s: TLS failed: %s", label, tls_peer_error());
    }
}

void tls_set_error(GError **error, SSL *ssl, int ssl_error, int errnum, const char *label,
                   const char *host)
{
    if (ssl_error == SSL_ERROR_SSL)
        set_reason_error(error, ssl, label, host);
    else if (ssl_error == SSL_ERROR_ZERO_RETURN || errnum == 0)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s closed the connection", label);
    else if (errnum == ETIMEDOUT)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s does not answer any more", label);
    else
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s: the connection broke: %s", label,
                  g_strerror(errnum));
    ERR_clear_error();
}

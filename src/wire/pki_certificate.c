#include "wire/pki_certificate.h"

#include <openssl/ec.h>
#include <string.h>

#include "base/error.h"
#include "wire/address.h"

#define SERIAL_BITS 159
#define DAY_S 86400L
/* Clocks of hosts differ a little. */
#define BACKDATE_S 3600L
#define MAX_DNS_NAME_BYTES 253

static void set_openssl_error(GError **error, const char *what)
{
    error_set(error, VMFERRY_ERROR_FAILED, "%s: %s", what, tls_peer_error());
}

EVP_PKEY *pki_make_key(GError **error)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");

    if (!key)
        set_openssl_error(error, "making a key");
    return key;
}

/* ---- names ---- */

static gboolean is_dns_name(const char *name)
{
    size_t length = strlen(name);

    if (length == 0 || length > MAX_DNS_NAME_BYTES || strchr(".-", name[0]) || strstr(name, ".."))
        return FALSE;
    for (size_t i = 0; i < length; i++)
        if (!g_ascii_isalnum(name[i]) && !strchr(".-_", name[i]))
            return FALSE;
    return TRUE;
}

gboolean pki_check_name(const char *name, GError **error)
{
    if ((address_is_ip(name) && !strchr(name, '%')) || is_dns_name(name))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is neither a host name nor an IP address",
              name);
    return FALSE;
}

static gboolean set_name(GENERAL_NAME *entry, const char *name)
{
    gboolean is_ip = address_is_ip(name);
    ASN1_STRING *value = is_ip ? a2i_IPADDRESS(name) : ASN1_IA5STRING_new();

    if (!value || (!is_ip && !ASN1_STRING_set(value, name, -1))) {
        ASN1_STRING_free(value);
        return FALSE;
    }
    GENERAL_NAME_set0_value(entry, is_ip ? GEN_IPADD : GEN_DNS, value);
    return TRUE;
}

static gboolean push_name(GENERAL_NAMES *names, const char *name)
{
    g_autoptr(GENERAL_NAME) entry = GENERAL_NAME_new();

    if (!entry || !set_name(entry, name) || !sk_GENERAL_NAME_push(names, entry))
        return FALSE;
    entry = NULL;
    return TRUE;
}

static gboolean add_names(X509 *certificate, const char *host, const char *const *extra_names)
{
    g_autoptr(GENERAL_NAMES) names = GENERAL_NAMES_new();

    if (!names || !push_name(names, host))
        return FALSE;
    for (; extra_names && *extra_names; extra_names++)
        if (!push_name(names, *extra_names))
            return FALSE;
    return X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT);
}

/* ---- parts of a certificate ---- */

static gboolean set_random_serial(X509 *certificate)
{
    BIGNUM *number = BN_new();
    gboolean ok = number && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
                  BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));

    BN_free(number);
    return ok;
}

static gboolean set_subject(X509 *certificate, const char *name)
{
    g_autoptr(X509_NAME) subject = X509_NAME_new();

    return subject &&
           X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_ASC, (const unsigned char *)"vmferry",
                                      -1, -1, 0) &&
           X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1,
                                      -1, 0) &&
           X509_set_subject_name(certificate, subject);
}

static gboolean add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;
    gboolean ok;

    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    ok = extension && X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
    return ok;
}

/* What every certificate has; *issuer* NULL: its own. */
static X509 *make_certificate(EVP_PKEY *key, const char *name, guint days, X509 *issuer)
{
    g_autoptr(X509) certificate = X509_new();

    if (!certificate || !X509_set_version(certificate, X509_VERSION_3) ||
        !set_random_serial(certificate) || !set_subject(certificate, name) ||
        !X509_set_issuer_name(certificate, X509_get_subject_name(issuer ? issuer : certificate)) ||
        !X509_gmtime_adj(X509_getm_notBefore(certificate), -BACKDATE_S) ||
        !X509_gmtime_adj(X509_getm_notAfter(certificate), (long)days * DAY_S) ||
        !X509_set_pubkey(certificate, key))
        return NULL;
    return g_steal_pointer(&certificate);
}

static gboolean check_days(guint days, GError **error)
{
    if (days >= 1 && days <= PKI_MAX_DAYS)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "a validity of %u days; from 1 to %d are allowed", days,
              PKI_MAX_DAYS);
    return FALSE;
}

X509 *pki_make_ca(EVP_PKEY *key, guint days, GError **error)
{
    g_autoptr(X509) ca = NULL;

    if (!check_days(days, error))
        return NULL;
    ca = make_certificate(key, "vmferry CA", days, NULL);
    if (!ca || !add_extension(ca, ca, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(ca, ca, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(ca, ca, NID_subject_key_identifier, "hash") ||
        !X509_sign(ca, key, EVP_sha256())) {
        set_openssl_error(error, "making the CA's certificate");
        return NULL;
    }
    return g_steal_pointer(&ca);
}

/* A certificate that outlives its CA only promises what it cannot hold. */
static gboolean end_with_ca(X509 *certificate, X509 *ca)
{
    if (ASN1_TIME_compare(X509_get0_notAfter(certificate), X509_get0_notAfter(ca)) <= 0)
        return TRUE;
    return X509_set1_notAfter(certificate, X509_get0_notAfter(ca));
}

static gboolean add_end_extensions(X509 *certificate, X509 *ca, const char *uses)
{
    return add_extension(certificate, ca, NID_basic_constraints, "critical,CA:FALSE") &&
           add_extension(certificate, ca, NID_key_usage, "critical,digitalSignature") &&
           add_extension(certificate, ca, NID_ext_key_usage, uses) &&
           add_extension(certificate, ca, NID_subject_key_identifier, "hash") &&
           add_extension(certificate, ca, NID_authority_key_identifier, "keyid");
}

static gboolean check_names(const char *host, const char *const *extra_names, GError **error)
{
    if (!pki_check_name(host, error))
        return FALSE;
    if (strlen(host) > PKI_MAX_NAME_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is longer than %d bytes; name the host shortly and give its long name "
                  "as an extra one",
                  host, PKI_MAX_NAME_BYTES);
        return FALSE;
    }
    for (; extra_names && *extra_names; extra_names++)
        if (!pki_check_name(*extra_names, error))
            return FALSE;
    return TRUE;
}

/* *uses*: what its key may be used for, and nothing else. */
static X509 *make_end(EVP_PKEY *key, const char *name, const char *const *extra_names,
                      const char *uses, guint days, X509 *ca, EVP_PKEY *ca_key, GError **error)
{
    g_autoptr(X509) certificate = NULL;

    if (!check_days(days, error) || !check_names(name, extra_names, error))
        return NULL;
    certificate = make_certificate(key, name, days, ca);
    if (!certificate || !end_with_ca(certificate, ca) ||
        !add_end_extensions(certificate, ca, uses) || !add_names(certificate, name, extra_names) ||
        !X509_sign(certificate, ca_key, EVP_sha256())) {
        set_openssl_error(error, "making a certificate");
        return NULL;
    }
    return g_steal_pointer(&certificate);
}

X509 *pki_make_host(EVP_PKEY *key, const char *host, const char *const *extra_names, guint days,
                    X509 *ca, EVP_PKEY *ca_key, GError **error)
{
    return make_end(key, host, extra_names, "serverAuth,clientAuth", days, ca, ca_key, error);
}

X509 *pki_make_engine(EVP_PKEY *key, const char *name, guint days, X509 *ca, EVP_PKEY *ca_key,
                      GError **error)
{
    return make_end(key, name, NULL, "clientAuth", days, ca, ca_key, error);
}

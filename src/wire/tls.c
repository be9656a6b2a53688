#include "wire/tls.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "wire/tls_private.h"

#define MAX_PEM_BYTES (1u << 20)
#define READ_BUFFER_BYTES (128u << 10)

/* Fast on every CPU with AES instructions; the others are for peers without. */
#define CIPHER_SUITES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

/* Tells whether a file is still the one that was read. */
typedef struct {
    struct timespec changed;
    ino_t inode;
    off_t bytes;
} FileStamp;

enum { FILE_CA, FILE_CERTIFICATE, FILE_KEY, FILES };
static const char *const file_names[FILES] = {"ca.crt", "host.crt", "host.key"};

/* What was read at one time. */
typedef struct {
    const char *name; /* interned */
    SSL_CTX *server;
    SSL_CTX *client;
    gint64 expires; /* seconds of the wall clock */
} Credentials;

struct TlsIdentity {
    gatomicrefcount references;
    char *directory;
    GMutex lock; /* protects all below */
    FileStamp stamps[FILES];
    Credentials credentials;
};

const char *tls_peer_error(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    ERR_clear_error();
    return reason ? reason : "unknown reason";
}

X509 *tls_read_certificate(const char *path, GError **error)
{
    size_t length;
    g_autofree char *text = file_read(path, MAX_PEM_BYTES, &length, error);
    g_autoptr(BIO) bio = text ? BIO_new_mem_buf(text, (int)length) : NULL;
    X509 *certificate;

    if (!bio)
        return NULL;
    certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    if (!certificate)
        error_set(error, VMFERRY_ERROR_INVALID, "%s: no certificate: %s", path, tls_peer_error());
    return certificate;
}

/* An encrypted key must not make an agent ask its terminal. */
static int no_password(char *buffer, int size, int writing, void *user)
{
    return -1;
}

static gboolean check_key_mode(const char *path, GError **error)
{
    struct stat info;

    if (stat(path, &info) < 0) {
        error_set_errno(error, errno, "open %s", path);
        return FALSE;
    }
    if (info.st_mode & 077) {
        error_set(error, VMFERRY_ERROR_PERMISSION,
                  "%s may be read by others (mode %04o): run `chmod 600 %s`", path,
                  (guint)info.st_mode & 07777, path);
        return FALSE;
    }
    return TRUE;
}

EVP_PKEY *tls_read_key(const char *path, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(BIO) bio = NULL;
    EVP_PKEY *key;
    size_t length;

    if (!check_key_mode(path, error))
        return NULL;
    text = file_read(path, MAX_PEM_BYTES, &length, error);
    if (!text)
        return NULL;
    bio = BIO_new_mem_buf(text, (int)length);
    key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    OPENSSL_cleanse(text, length);
    if (!key)
        error_set(error, VMFERRY_ERROR_INVALID, "%s: no private key: %s", path, tls_peer_error());
    return key;
}

/* A text that hides something behind a NUL byte is not a valid name. */
static char *take_name(const ASN1_STRING *string)
{
    unsigned char *utf8 = NULL;
    int length = string ? ASN1_STRING_to_UTF8(&utf8, string) : -1;
    char *name = NULL;

    if (length > 0 && strlen((char *)utf8) == (size_t)length)
        name = g_strndup((char *)utf8, (gsize)length);
    OPENSSL_free(utf8);
    return name;
}

static char *first_dns_name(X509 *certificate)
{
    g_autoptr(GENERAL_NAMES) names =
        X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

        if (name->type == GEN_DNS)
            return take_name(name->d.dNSName);
    }
    return NULL;
}

char *tls_certificate_name(X509 *certificate)
{
    const X509_NAME *subject = X509_get_subject_name(certificate);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);

    if (at < 0)
        return first_dns_name(certificate);
    return take_name(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
}

static gboolean check_dates(const char *path, X509 *certificate, GError **error)
{
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s has expired: issue a new certificate with `vmferry pki issue`", path);
        return FALSE;
    }
    if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0) {
        error_set(error, VMFERRY_ERROR_REFUSED, "%s is not valid yet: is this host's clock right?",
                  path);
        return FALSE;
    }
    return TRUE;
}

static gboolean set_protocol(SSL_CTX *context)
{
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context, SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    /* Hosts are signed by the CA itself, with no certificate between them. */
    SSL_CTX_set_verify_depth(context, 0);
    /* One system call brings many records. */
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_BUFFER_BYTES);
    /* Each connection authenticates anew. */
    return SSL_CTX_set_num_tickets(context, 0) &&
           SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) &&
           SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) &&
           SSL_CTX_set_ciphersuites(context, CIPHER_SUITES);
}

static SSL_CTX *make_context(const SSL_METHOD *method, X509 *ca, X509 *certificate, EVP_PKEY *key,
                             GError **error)
{
    g_autoptr(SSL_CTX) context = SSL_CTX_new(method);

    if (!context || !set_protocol(context) ||
        !X509_STORE_add_cert(SSL_CTX_get_cert_store(context), ca) ||
        !SSL_CTX_use_certificate(context, certificate) || !SSL_CTX_use_PrivateKey(context, key)) {
        error_set(error, VMFERRY_ERROR_INVALID, "TLS cannot be set up: %s", tls_peer_error());
        return NULL;
    }
    return g_steal_pointer(&context);
}

static gboolean check_pair(const char *directory, X509 *ca, X509 *certificate, EVP_PKEY *key,
                           GError **error)
{
    g_autofree char *path = g_build_filename(directory, "host.crt", NULL);

    if (!check_dates(path, certificate, error))
        return FALSE;
    if (X509_check_private_key(certificate, key) != 1) {
        ERR_clear_error();
        error_set(error, VMFERRY_ERROR_INVALID, "%s and host.key beside it do not belong together",
                  path);
        return FALSE;
    }
    if (X509_check_issued(ca, certificate) != X509_V_OK ||
        X509_verify(certificate, X509_get0_pubkey(ca)) != 1) {
        ERR_clear_error();
        error_set(error, VMFERRY_ERROR_INVALID, "%s is not signed by ca.crt beside it", path);
        return FALSE;
    }
    return TRUE;
}

static void credentials_clear(Credentials *credentials)
{
    SSL_CTX_free(credentials->server);
    SSL_CTX_free(credentials->client);
    *credentials = (Credentials){0};
}

static gint64 end_of(X509 *certificate)
{
    int days = 0, seconds = 0;

    if (!ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(certificate)))
        return 0;
    return g_get_real_time() / G_USEC_PER_SEC + (gint64)days * 86400 + seconds;
}

static gboolean make_credentials(X509 *ca, X509 *certificate, EVP_PKEY *key, Credentials *ret,
                                 GError **error)
{
    g_autofree char *name = tls_certificate_name(certificate);

    if (!name) {
        error_set(error, VMFERRY_ERROR_INVALID, "the certificate names no host");
        return FALSE;
    }
    *ret = (Credentials){.name = g_intern_string(name),
                         .expires = MIN(end_of(ca), end_of(certificate))};
    ret->server = make_context(TLS_server_method(), ca, certificate, key, error);
    if (ret->server)
        ret->client = make_context(TLS_client_method(), ca, certificate, key, error);
    if (ret->client)
        return TRUE;
    credentials_clear(ret);
    return FALSE;
}

static gboolean read_credentials(const char *directory, Credentials *ret, GError **error)
{
    g_autofree char *ca_path = g_build_filename(directory, file_names[FILE_CA], NULL);
    g_autofree char *certificate_path =
        g_build_filename(directory, file_names[FILE_CERTIFICATE], NULL);
    g_autofree char *key_path = g_build_filename(directory, file_names[FILE_KEY], NULL);
    g_autoptr(X509) ca = tls_read_certificate(ca_path, error);
    g_autoptr(X509) certificate = ca ? tls_read_certificate(certificate_path, error) : NULL;
    g_autoptr(EVP_PKEY) key = certificate ? tls_read_key(key_path, error) : NULL;

    if (!key || !check_dates(ca_path, ca, error) ||
        !check_pair(directory, ca, certificate, key, error))
        return FALSE;
    if (make_credentials(ca, certificate, key, ret, error))
        return TRUE;
    g_prefix_error(error, "%s: ", directory);
    return FALSE;
}

/* TRUE where a file is not the one it was. */
static gboolean look_at_files(const char *directory, FileStamp stamps[FILES])
{
    gboolean changed = FALSE;

    for (guint i = 0; i < FILES; i++) {
        g_autofree char *path = g_build_filename(directory, file_names[i], NULL);
        FileStamp now = {0};
        struct stat info;

        if (stat(path, &info) == 0)
            now = (FileStamp){info.st_ctim, info.st_ino, info.st_size};
        changed = changed || now.changed.tv_sec != stamps[i].changed.tv_sec ||
                  now.changed.tv_nsec != stamps[i].changed.tv_nsec ||
                  now.inode != stamps[i].inode || now.bytes != stamps[i].bytes;
        stamps[i] = now;
    }
    return changed;
}

/* With the lock held.  The files are stat'ed before they are read: what
 * changes in between is read again next time. */
static gboolean refresh(TlsIdentity *identity, GError **error)
{
    FileStamp stamps[FILES];
    Credentials fresh;

    memcpy(stamps, identity->stamps, sizeof stamps);
    if (!look_at_files(identity->directory, stamps))
        return TRUE;
    if (!read_credentials(identity->directory, &fresh, error))
        return FALSE;
    memcpy(identity->stamps, stamps, sizeof stamps);
    credentials_clear(&identity->credentials);
    identity->credentials = fresh;
    return TRUE;
}

TlsIdentity *tls_identity_load(const char *directory, GError **error)
{
    g_autoptr(TlsIdentity) identity = g_new0(TlsIdentity, 1);

    g_atomic_ref_count_init(&identity->references);
    g_mutex_init(&identity->lock);
    identity->directory = g_strdup(directory);
    look_at_files(directory, identity->stamps);
    if (!read_credentials(directory, &identity->credentials, error))
        return NULL;
    return g_steal_pointer(&identity);
}

TlsIdentity *tls_identity_ref(TlsIdentity *identity)
{
    g_atomic_ref_count_inc(&identity->references);
    return identity;
}

void tls_identity_unref(TlsIdentity *identity)
{
    if (!identity || !g_atomic_ref_count_dec(&identity->references))
        return;
    credentials_clear(&identity->credentials);
    g_mutex_clear(&identity->lock);
    g_free(identity->directory);
    g_free(identity);
}

gboolean tls_identity_check(TlsIdentity *identity, gint64 *ret_seconds, GError **error)
{
    lock_guard(&identity->lock);
    gboolean done = refresh(identity, error);

    *ret_seconds = identity->credentials.expires - g_get_real_time() / G_USEC_PER_SEC;
    return done;
}

const char *tls_identity_get_name(TlsIdentity *identity)
{
    lock_guard(&identity->lock);

    return identity->credentials.name;
}

/* A connection under way keeps the context that it was made from. */
SSL *tls_identity_make_ssl(TlsIdentity *identity, gboolean server)
{
    lock_guard(&identity->lock);

    refresh(identity, NULL);
    return SSL_new(server ? identity->credentials.server : identity->credentials.client);
}

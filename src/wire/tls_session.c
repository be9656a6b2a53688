#include "wire/tls_session.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "wire/address.h"
#include "base/lock_guard.h"
#include "wire/socket_wait.h"
#include "wire/tls_private.h"
#include "wire/tls_socket.h"
#include "wire/tls_errors.h"

struct TlsSession {
    GMutex lock; /* ssl and socket */
    SSL *ssl;
    TlsSocket socket;

    GByteArray *outgoing; /* of the writer alone: being sent, from *sent* on */
    size_t sent;
    guint records_per_key, records_left;
    uint8_t gather[TLS_RECORD_BYTES];
};

/* ---- making one ---- */

/* The certificate must carry this name as a subject alternative name. */
static gboolean demand_host(SSL *ssl, const char *host)
{
    X509_VERIFY_PARAM *rules = SSL_get0_param(ssl);
    g_autofree char *plain = g_strndup(host, strcspn(host, "%")); /* without a V6 zone */

    X509_VERIFY_PARAM_set_hostflags(rules, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT |
                                               X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (address_is_ip(plain))
        return X509_VERIFY_PARAM_set1_ip_asc(rules, plain);
    return X509_VERIFY_PARAM_set1_host(rules, plain, 0) && SSL_set_tlsext_host_name(ssl, plain);
}

static gboolean set_up(TlsSession *session, const StreamHandshake *handshake)
{
    BIO *bio = tls_socket_make_bio(&session->socket);

    if (!session->ssl || !bio) {
        BIO_free(bio);
        return FALSE;
    }
    SSL_set_bio(session->ssl, bio, bio);
    if (handshake->server) {
        SSL_set_accept_state(session->ssl);
        return TRUE;
    }
    SSL_set_connect_state(session->ssl);
    return demand_host(session->ssl, handshake->host);
}

TlsSession *tls_session_new(TlsIdentity *identity, int fd, const StreamHandshake *handshake,
                            GError **error)
{
    g_autoptr(TlsSession) session = g_new0(TlsSession, 1);

    g_mutex_init(&session->lock);
    session->socket.fd = fd;
    session->socket.written = g_byte_array_new();
    session->outgoing = g_byte_array_new();
    session->ssl = tls_identity_make_ssl(identity, handshake->server);
    tls_session_set_records_per_key(session, TLS_RECORDS_PER_KEY);
    if (!set_up(session, handshake)) {
        error_set(error, VMFERRY_ERROR_FAILED, "TLS cannot be set up: %s", tls_peer_error());
        return NULL;
    }
    return g_steal_pointer(&session);
}

void tls_session_free(TlsSession *session)
{
    if (!session)
        return;
    SSL_free(session->ssl);
    g_byte_array_unref(session->socket.written);
    g_byte_array_unref(session->outgoing);
    g_mutex_clear(&session->lock);
    g_free(session);
}

void tls_session_set_records_per_key(TlsSession *session, guint records)
{
    session->records_per_key = session->records_left = MAX(records, 1);
}

char *tls_session_get_peer_name(TlsSession *session)
{
    X509 *certificate = SSL_get0_peer_certificate(session->ssl);

    return certificate ? tls_certificate_name(certificate) : NULL;
}

char *tls_session_get_peer_digest(TlsSession *session)
{
    X509 *certificate = SSL_get0_peer_certificate(session->ssl);
    uint8_t digest[EVP_MAX_MD_SIZE];
    guint bytes = 0;
    GString *text;

    if (!certificate || !X509_digest(certificate, EVP_sha256(), digest, &bytes))
        return NULL;
    text = g_string_new(NULL);
    for (guint i = 0; i < bytes; i++)
        g_string_append_printf(text, "%02x", digest[i]);
    return g_string_free(text, FALSE);
}

gboolean tls_session_is_of_host(TlsSession *session)
{
    X509 *certificate = SSL_get0_peer_certificate(session->ssl);

    return certificate && X509_check_purpose(certificate, X509_PURPOSE_SSL_SERVER, 0) == 1;
}

const char *tls_session_get_cipher(TlsSession *session)
{
    return SSL_get_cipher_name(session->ssl);
}

/* ---- handshake ---- */

/* Sends what the handshake has put out, also where it has failed: the alert in
 * it gives the peer the reason.  It is small, an empty socket takes it. */
static void send_written(TlsSession *session)
{
    const guint8 *at = session->socket.written->data;
    size_t left = session->socket.written->len;

    while (left > 0) {
        ssize_t put = send(session->socket.fd, at, left, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            break;
        at += put;
        left -= (size_t)put;
    }
    g_byte_array_set_size(session->socket.written, 0);
}

static gboolean wait_handshake(TlsSession *session, const StreamHandshake *handshake,
                               GError **error)
{
    switch (socket_wait(session->socket.fd, POLLIN, handshake->wake_fd, handshake->deadline_ns)) {
    case SOCKET_READY:
        return TRUE;
    case SOCKET_WOKEN:
        error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
        return FALSE;
    case SOCKET_TIMED_OUT:
    default:
        error_set(error, VMFERRY_ERROR_TIMEOUT, "%s: the TLS handshake was not done in time",
                  handshake->label);
        return FALSE;
    }
}

gboolean tls_session_handshake(TlsSession *session, const StreamHandshake *handshake,
                               GError **error)
{
    for (;;) {
        int result, ssl_error;

        ERR_clear_error();
        result = SSL_do_handshake(session->ssl);
        ssl_error = SSL_get_error(session->ssl, result);
        send_written(session);
        if (result == 1)
            return TRUE;
        if (ssl_error != SSL_ERROR_WANT_READ) {
            tls_set_error(error, session->ssl, ssl_error, session->socket.errnum, handshake->label,
                          handshake->host);
            return FALSE;
        }
        if (!wait_handshake(session, handshake, error))
            return FALSE;
    }
}

/* ---- data ---- */

ssize_t tls_session_read(TlsSession *session, void *buffer, size_t length, const char *label,
                         size_t *ret_raw, GError **error)
{
    lock_guard(&session->lock);
    size_t before = session->socket.received;
    size_t got = 0;
    int ssl_error;

    ERR_clear_error();
    if (SSL_read_ex(session->ssl, buffer, length, &got)) {
        *ret_raw = session->socket.received - before;
        return (ssize_t)got;
    }
    *ret_raw = session->socket.received - before;
    ssl_error = SSL_get_error(session->ssl, 0);
    if (ssl_error == SSL_ERROR_WANT_READ)
        return 0;
    tls_set_error(error, session->ssl, ssl_error, session->socket.errnum, label, NULL);
    return -1;
}

void stream_cursor_advance(StreamCursor *cursor, size_t bytes)
{
    while (cursor->left > 0 && bytes >= cursor->at->iov_len) {
        bytes -= cursor->at->iov_len;
        cursor->at++;
        cursor->left--;
    }
    if (bytes > 0) {
        cursor->at->iov_base = (uint8_t *)cursor->at->iov_base + bytes;
        cursor->at->iov_len -= bytes;
    }
}

/* Takes one record's worth from the cursor: in place where it lies in one
 * piece, otherwise gathered, so that small pieces make no small records. */
static const void *take_record(TlsSession *session, StreamCursor *cursor, size_t limit,
                               size_t *ret_length)
{
    size_t length = 0;

    stream_cursor_advance(cursor, 0);
    if (cursor->left > 0 && (cursor->at->iov_len >= limit || cursor->left == 1)) {
        const void *at = cursor->at->iov_base;

        *ret_length = MIN(cursor->at->iov_len, limit);
        stream_cursor_advance(cursor, *ret_length);
        return at;
    }
    while (cursor->left > 0 && length < limit) {
        size_t piece = MIN(cursor->at->iov_len, limit - length);

        memcpy(session->gather + length, cursor->at->iov_base, piece);
        length += piece;
        stream_cursor_advance(cursor, piece);
    }
    *ret_length = length;
    return session->gather;
}

static gboolean encrypt_record(TlsSession *session, const void *data, size_t length,
                               const char *label, GError **error)
{
    lock_guard(&session->lock);
    size_t put;

    ERR_clear_error();
    if (session->records_left == 0) {
        SSL_key_update(session->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
        session->records_left = session->records_per_key;
    }
    session->records_left--;
    if (SSL_write_ex(session->ssl, data, length, &put))
        return TRUE;
    tls_set_error(error, session->ssl, SSL_get_error(session->ssl, 0), EPIPE, label, NULL);
    return FALSE;
}

static void swap_buffers(TlsSession *session)
{
    lock_guard(&session->lock);
    GByteArray *emptied = session->outgoing;

    g_byte_array_set_size(emptied, 0);
    session->outgoing = session->socket.written;
    session->socket.written = emptied;
    session->sent = 0;
}

gboolean tls_session_encrypt(TlsSession *session, StreamCursor *cursor, size_t limit,
                             const char *label, GError **error)
{
    for (size_t taken = 0, length; cursor->left > 0 && taken < limit; taken += length) {
        const void *data =
            take_record(session, cursor, MIN(TLS_RECORD_BYTES, limit - taken), &length);

        if (length > 0 && !encrypt_record(session, data, length, label, error))
            return FALSE;
    }
    swap_buffers(session);
    return TRUE;
}

size_t tls_session_peek_outgoing(const TlsSession *session, const uint8_t **ret)
{
    if (ret)
        *ret = session->outgoing->data + session->sent;
    return session->outgoing->len - session->sent;
}

void tls_session_drop_outgoing(TlsSession *session, size_t bytes)
{
    session->sent += bytes;
}

void tls_session_close(TlsSession *session)
{
    g_mutex_lock(&session->lock);
    ERR_clear_error();
    SSL_shutdown(session->ssl);
    ERR_clear_error();
    g_mutex_unlock(&session->lock);
    swap_buffers(session);
}

/*
 * The TLS layer of one connection
 *
 * OpenSSL reads from the socket directly and writes into a buffer of ours.
 * The session's lock protects OpenSSL's state and that buffer; it is never
 * held while waiting and no system call made under it blocks.
 */
#pragma once

#include "wire/stream.h"

#define TLS_RECORD_BYTES 16384u

/* AES-GCM may protect about 2^24.5 records with one key (RFC 8446, 5.5). */
#define TLS_RECORDS_PER_KEY (1u << 22)

typedef struct TlsSession TlsSession;

TlsSession *tls_session_new(TlsIdentity *identity, int fd, const StreamHandshake *handshake,
                            GError **error);
void tls_session_free(TlsSession *session);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TlsSession, tls_session_free)

gboolean tls_session_handshake(TlsSession *session, const StreamHandshake *handshake,
                               GError **error);
char *tls_session_get_peer_name(TlsSession *session);
/* SHA-256 of its certificate in hexadecimal digits. */
char *tls_session_get_peer_digest(TlsSession *session);

/* TRUE where its certificate is one of a server, too. */
gboolean tls_session_is_of_host(TlsSession *session);

/* As stream_read(); *ret_raw* is the number of bytes taken from the socket. */
ssize_t tls_session_read(TlsSession *session, void *buffer, size_t length, const char *label,
                         size_t *ret_raw, GError **error);

/* Encrypts about *limit* bytes of the cursor into the outgoing buffer, which
 * must be empty. */
gboolean tls_session_encrypt(TlsSession *session, StreamCursor *cursor, size_t limit,
                             const char *label, GError **error);

/* The outgoing bytes, and how many of them are sent now. */
size_t tls_session_peek_outgoing(const TlsSession *session, const uint8_t **ret);
void tls_session_drop_outgoing(TlsSession *session, size_t bytes);

/* Puts a close alert (and whatever else is to go) into the outgoing buffer. */
void tls_session_close(TlsSession *session);

/* The cipher suite in use. */
const char *tls_session_get_cipher(TlsSession *session);

/* For tests: how many records go out under one key. */
void tls_session_set_records_per_key(TlsSession *session, guint records);

/*
 * Who gets through the TLS handshake, and what the others are told
 *
 * Peers that our own code would not make (expired, without a certificate, of
 * an older TLS) are made with plain OpenSSL here.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "loopback.h"
#include "wire/channel_private.h"
#include "wire/messages.h"
#include "wire/pki.h"
#include "wire/pki_certificate.h"
#include "wire/tls_session.h"

#define DAY_S 86400L
#define TIMEOUT_MS 10000

typedef struct {
    char *folder;
    TlsIdentity *ours, *others; /* of two CAs */
    X509 *ca, *other_ca;
    EVP_PKEY *ca_key, *other_key;
} Fixture;

static void load_ca(const char *folder, const char *name, X509 **ret_ca, EVP_PKEY **ret_key)
{
    g_autofree char *certificate = g_build_filename(folder, name, "ca.crt", NULL);
    g_autofree char *key = g_build_filename(folder, name, "ca.key", NULL);

    *ret_ca = tls_read_certificate(certificate, NULL);
    *ret_key = tls_read_key(key, NULL);
    assert_non_null(*ret_ca);
    assert_non_null(*ret_key);
}

static int set_up(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->folder = folder_new();
    fixture->ours = folder_make_identity(fixture->folder, "ours");
    fixture->others = folder_make_identity(fixture->folder, "others");
    load_ca(fixture->folder, "ours", &fixture->ca, &fixture->ca_key);
    load_ca(fixture->folder, "others", &fixture->other_ca, &fixture->other_key);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *fixture = *state;

    tls_identity_unref(fixture->ours);
    tls_identity_unref(fixture->others);
    X509_free(fixture->ca);
    X509_free(fixture->other_ca);
    EVP_PKEY_free(fixture->ca_key);
    EVP_PKEY_free(fixture->other_key);
    folder_remove(fixture->folder);
    g_free(fixture);
    return 0;
}

static void expect_error(GError *error, VmferryErrorCode code, const char *words)
{
    assert_non_null(error);
    if (!error_is(error, code) || !strstr(error->message, words))
        fail_msg("expected %s with \"%s\", got %s: %s", vmferry_error_code_name(code), words,
                 vmferry_error_code_name((VmferryErrorCode)error->code), error->message);
    g_error_free(error);
}

/* ---- peers made with OpenSSL ---- */

typedef struct {
    SSL_CTX *context;
    int fd;
    gboolean server;
    GThread *thread;
} RawPeer;

static SSL_CTX *raw_context(X509 *trusted)
{
    SSL_CTX *context = SSL_CTX_new(TLS_method());

    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context), trusted);
    return context;
}

/* A certificate for "localhost" that began *begins_s* and ends *ends_s* from now. */
static void raw_certificate(SSL_CTX *context, const char *name, X509 *ca, EVP_PKEY *ca_key,
                            long begins_s, long ends_s)
{
    g_autoptr(EVP_PKEY) key = pki_make_key(NULL);
    g_autoptr(X509) certificate = pki_make_host(key, name, NULL, 1, ca, ca_key, NULL);

    assert_non_null(certificate);
    X509_gmtime_adj(X509_getm_notBefore(certificate), begins_s);
    X509_gmtime_adj(X509_getm_notAfter(certificate), ends_s);
    assert_true(X509_sign(certificate, ca_key, EVP_sha256()) > 0);
    assert_int_equal(SSL_CTX_use_certificate(context, certificate), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(context, key), 1);
}

static gpointer raw_main(gpointer data)
{
    RawPeer *peer = data;
    g_autoptr(SSL) ssl = SSL_new(peer->context);
    char byte;

    SSL_set_fd(ssl, peer->fd);
    if (peer->server ? SSL_accept(ssl) : SSL_connect(ssl))
        SSL_read(ssl, &byte, 1);
    shutdown(peer->fd, SHUT_WR);
    /* Until the other side has closed, too. */
    while (read(peer->fd, &byte, 1) > 0)
        ;
    return NULL;
}

static void raw_start(RawPeer *peer, int fd, gboolean server)
{
    assert_true(fd >= 0);
    peer->fd = fd;
    peer->server = server;
    peer->thread = g_thread_new("raw", raw_main, peer);
}

static void raw_end(RawPeer *peer)
{
    g_thread_join(peer->thread);
    close(peer->fd);
    SSL_CTX_free(peer->context);
}

/* Our accepting side against a raw client; returns our error. */
static GError *accept_raw(Fixture *fixture, SSL_CTX *context)
{
    RawPeer peer = {.context = context};
    GError *error;
    Acceptor acceptor;

    acceptor_start(&acceptor, fixture->ours, 0);
    raw_start(&peer, raw_connect(&acceptor.listener), FALSE);
    acceptor_join(&acceptor);
    assert_null(acceptor.channel);
    error = g_steal_pointer(&acceptor.error);
    acceptor_end(&acceptor);
    raw_end(&peer);
    return error;
}

typedef struct {
    Listener listener;
    RawPeer peer;
} RawServer;

static gpointer raw_server_main(gpointer data)
{
    RawServer *server = data;

    server->peer.server = TRUE;
    server->peer.fd = listener_accept(&server->listener);
    return raw_main(&server->peer);
}

static void raw_server_start(RawServer *server, SSL_CTX *context)
{
    listener_open(&server->listener);
    server->peer.context = context;
    server->peer.thread = g_thread_new("raw", raw_server_main, server);
}

static void raw_server_end(RawServer *server)
{
    raw_end(&server->peer);
    listener_close(&server->listener);
}

/* Our connecting side against a raw server; returns our error. */
static GError *connect_raw(Fixture *fixture, SSL_CTX *context)
{
    ChannelOptions options = {.tls = fixture->ours};
    GError *error = NULL;
    RawServer server;

    raw_server_start(&server, context);
    assert_null(channel_connect(server.listener.address, &options, TIMEOUT_MS, NULL, &error));
    raw_server_end(&server);
    return error;
}

/* ---- wrong CA ---- */

static void test_wrong_ca(void **state)
{
    Fixture *fixture = *state;
    ChannelOptions options = {.tls = fixture->others};
    GError *error = NULL;
    Acceptor acceptor;

    acceptor_start(&acceptor, fixture->ours, 0);
    assert_null(channel_connect(acceptor.listener.address, &options, TIMEOUT_MS, NULL, &error));
    expect_error(error, VMFERRY_ERROR_REFUSED, "its certificate is of another CA than ours");
    acceptor_join(&acceptor);
    expect_error(g_steal_pointer(&acceptor.error), VMFERRY_ERROR_REFUSED,
                 "127.0.0.1 refused the connection: our certificate is of another CA");
    acceptor_end(&acceptor);
}

static void test_client_of_wrong_ca(void **state)
{
    Fixture *fixture = *state;
    SSL_CTX *context = raw_context(fixture->ca);

    raw_certificate(context, "localhost", fixture->other_ca, fixture->other_key, -DAY_S, DAY_S);
    expect_error(accept_raw(fixture, context), VMFERRY_ERROR_REFUSED,
                 "127.0.0.1: its certificate is of another CA than ours");
}

/* In TLS 1.3 a client is done before the server has looked at its certificate. */
static void test_client_learns_late_that_it_is_refused(void **state)
{
    static const char *const names[] = {"127.0.0.1", NULL};
    Fixture *fixture = *state;
    ChannelOptions options = {.tls = fixture->ours};
    SSL_CTX *context = raw_context(fixture->other_ca);
    g_autoptr(EVP_PKEY) key = pki_make_key(NULL);
    g_autoptr(X509) certificate =
        pki_make_host(key, "localhost", names, 1, fixture->ca, fixture->ca_key, NULL);
    GError *error = NULL;
    RawServer server;
    Channel *channel;

    SSL_CTX_use_certificate(context, certificate);
    SSL_CTX_use_PrivateKey(context, key);
    raw_server_start(&server, context);
    channel = channel_connect(server.listener.address, &options, TIMEOUT_MS, NULL, &error);
    assert_non_null(channel);
    assert_false(handshake_connect(channel, "ping", NULL, NULL, &error));
    expect_error(error, VMFERRY_ERROR_REFUSED,
                 "refused the connection: our certificate is of another CA than its own");
    channel_free(channel);
    raw_server_end(&server);
}

/* It may use the agents' API, and must not be taken for one of them. */
static void test_certificate_of_an_engine(void **state)
{
    Fixture *fixture = *state;
    SSL_CTX *context = raw_context(fixture->ca);
    g_autoptr(EVP_PKEY) key = pki_make_key(NULL);
    g_autoptr(X509) certificate =
        pki_make_engine(key, "localhost", 1, fixture->ca, fixture->ca_key, NULL);

    assert_non_null(certificate);
    assert_int_equal(SSL_CTX_use_certificate(context, certificate), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(context, key), 1);
    expect_error(accept_raw(fixture, context), VMFERRY_ERROR_REFUSED,
                 "localhost: its certificate is not a host's");
}

/* ---- dates, names, versions ---- */

static void test_expired_server(void **state)
{
    Fixture *fixture = *state;
    SSL_CTX *context = raw_context(fixture->ca);

    raw_certificate(context, "127.0.0.1", fixture->ca, fixture->ca_key, -2 * DAY_S, -DAY_S);
    expect_error(connect_raw(fixture, context), VMFERRY_ERROR_REFUSED,
                 "its certificate has expired; issue a new one");
}

static void test_expired_client(void **state)
{
    Fixture *fixture = *state;
    SSL_CTX *context = raw_context(fixture->ca);

    raw_certificate(context, "localhost", fixture->ca, fixture->ca_key, -2 * DAY_S, -DAY_S);
    expect_error(accept_raw(fixture, context), VMFERRY_ERROR_REFUSED,
                 "127.0.0.1: its certificate has expired; issue a new one");
}

static void test_certificate_of_the_future(void **state)
{
    Fixture *fixture = *state;
    SSL_CTX *context = raw_context(fixture->ca);

    raw_certificate(context, "127.0.0.1", fixture->ca, fixture->ca_key, DAY_S, 2 * DAY_S);
    expect_error(connect_raw(fixture, context), VMFERRY_ERROR_REFUSED, "is not valid yet");
}

static void test_certificate_for_another_host(void **state)
{
    Fixture *fixture = *state;
    SSL_CTX *context = raw_context(fixture->ca);

    raw_certificate(context, "localhost", fixture->ca, fixture->ca_key, -DAY_S, DAY_S);
    expect_error(connect_raw(fixture, context), VMFERRY_ERROR_REFUSED,
                 "its certificate is not for \"127.0.0.1\"");
}

/* By a name that its certificate does not carry an agent can reach itself, too,
 * or another host with a copy of it. */
static void test_our_own_certificate_for_another_name(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *ca = g_build_filename(fixture->folder, "ours", NULL);
    g_autofree char *host = g_build_filename(fixture->folder, "elsewhere", NULL);
    g_autoptr(TlsIdentity) identity = NULL;
    ChannelOptions options = {0};
    GError *error = NULL;
    Acceptor acceptor;

    assert_true(pki_issue(ca, "elsewhere", NULL, 10, host, NULL));
    options.tls = identity = tls_identity_load(host, NULL);
    acceptor_start(&acceptor, identity, 0);
    assert_null(channel_connect(acceptor.listener.address, &options, TIMEOUT_MS, NULL, &error));
    expect_error(error, VMFERRY_ERROR_REFUSED, " is this host itself");
    acceptor_end(&acceptor);
}

static void test_client_without_certificate(void **state)
{
    Fixture *fixture = *state;

    expect_error(accept_raw(fixture, raw_context(fixture->ca)), VMFERRY_ERROR_REFUSED,
                 "127.0.0.1 has no certificate");
}

static void test_older_tls(void **state)
{
    Fixture *fixture = *state;
    SSL_CTX *context = raw_context(fixture->ca);

    raw_certificate(context, "localhost", fixture->ca, fixture->ca_key, -DAY_S, DAY_S);
    SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
    expect_error(accept_raw(fixture, context), VMFERRY_ERROR_REFUSED, "does not speak TLS 1.3");
    context = raw_context(fixture->ca);
    raw_certificate(context, "127.0.0.1", fixture->ca, fixture->ca_key, -DAY_S, DAY_S);
    SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
    expect_error(connect_raw(fixture, context), VMFERRY_ERROR_REFUSED, "not speak TLS 1.3");
}

static void test_server_certificate_is_no_ca(void **state)
{
    /* A host's key must not sign for others. */
    Fixture *fixture = *state;
    SSL_CTX *context = raw_context(fixture->ca);
    g_autoptr(EVP_PKEY) key = pki_make_key(NULL);
    g_autoptr(X509) host = pki_make_host(key, "evil", NULL, 1, fixture->ca, fixture->ca_key, NULL);

    raw_certificate(context, "127.0.0.1", host, key, -60, DAY_S);
    X509_up_ref(host);
    SSL_CTX_add_extra_chain_cert(context, host);
    expect_error(connect_raw(fixture, context), VMFERRY_ERROR_REFUSED,
                 "its certificate is of another CA than ours");
}

/* ---- plain text meets TLS ---- */

static void test_plain_client_at_tls_server(void **state)
{
    Fixture *fixture = *state;
    ChannelOptions options = {0};
    uint64_t start = clock_now_ns();
    GError *error = NULL;
    Acceptor acceptor;
    Channel *channel;

    acceptor_start(&acceptor, fixture->ours, 0);
    channel = channel_connect(acceptor.listener.address, &options, TIMEOUT_MS, NULL, &error);
    assert_non_null(channel);
    assert_false(handshake_connect(channel, "ping", NULL, NULL, &error));
    expect_error(error, VMFERRY_ERROR_REFUSED, "127.0.0.1: this agent demands TLS");
    acceptor_join(&acceptor);
    expect_error(g_steal_pointer(&acceptor.error), VMFERRY_ERROR_REFUSED,
                 "127.0.0.1 does not speak TLS, this side demands it");
    assert_true(clock_ns_to_ms(clock_now_ns() - start) < CHANNEL_PEER_TIMEOUT_MS);
    channel_free(channel);
    acceptor_end(&acceptor);
}

static gpointer plain_server_main(gpointer data)
{
    Acceptor *acceptor = data;
    GError *error = NULL;

    acceptor_join(acceptor);
    if (!acceptor->channel)
        return NULL;
    handshake_accept(acceptor->channel, NULL, NULL, NULL, &error);
    g_clear_pointer(&acceptor->channel, channel_free);
    return error;
}

static void test_tls_client_at_plain_server(void **state)
{
    Fixture *fixture = *state;
    ChannelOptions options = {.tls = fixture->ours};
    uint64_t start = clock_now_ns();
    GError *error = NULL;
    Acceptor acceptor;
    GThread *server;

    acceptor_start(&acceptor, NULL, 0);
    server = g_thread_new("server", plain_server_main, &acceptor);
    assert_null(channel_connect(acceptor.listener.address, &options, TIMEOUT_MS, NULL, &error));
    expect_error(error, VMFERRY_ERROR_REFUSED, "does not speak TLS");
    expect_error(g_thread_join(server), VMFERRY_ERROR_REFUSED,
                 "127.0.0.1 speaks TLS, this side runs with --insecure");
    assert_true(clock_ns_to_ms(clock_now_ns() - start) < CHANNEL_PEER_TIMEOUT_MS);
    acceptor_end(&acceptor);
}

static void test_client_that_says_nothing(void **state)
{
    Fixture *fixture = *state;
    Acceptor acceptor;
    int fd;

    acceptor_start(&acceptor, fixture->ours, 300);
    fd = raw_connect(&acceptor.listener);
    acceptor_join(&acceptor);
    expect_error(g_steal_pointer(&acceptor.error), VMFERRY_ERROR_TIMEOUT, "nothing came");
    close(fd);
    acceptor_end(&acceptor);
}

static void test_client_that_hangs_up(void **state)
{
    static const uint8_t half_a_record[] = {0x16, 0x03, 0x01, 0x02, 0x00, 0x01};
    Fixture *fixture = *state;
    Acceptor acceptor;
    int fd;

    acceptor_start(&acceptor, fixture->ours, 0);
    fd = raw_connect(&acceptor.listener);
    assert_int_equal(write(fd, half_a_record, sizeof half_a_record), sizeof half_a_record);
    close(fd);
    acceptor_join(&acceptor);
    assert_true(error_is(acceptor.error, VMFERRY_ERROR_DISCONNECTED));
    acceptor_end(&acceptor);
}

static void test_server_that_says_nothing(void **state)
{
    Fixture *fixture = *state;
    ChannelOptions options = {.tls = fixture->ours};
    GError *error = NULL;
    Listener listener;

    listener_open(&listener);
    assert_null(channel_connect(listener.address, &options, 300, NULL, &error));
    expect_error(error, VMFERRY_ERROR_TIMEOUT, "the TLS handshake was not done in time");
    listener_close(&listener);
}

/* ---- keys ---- */

static void test_keys_are_renewed(void **state)
{
    Fixture *fixture = *state;
    uint8_t data[4] = {0};
    GError *error = NULL;
    uint64_t before;
    Frame frame;
    Pair pair;

    pair_open(&pair, fixture->ours, 0);
    before = channel_get_sent_bytes(pair.client);
    tls_session_set_records_per_key(stream_get_tls(pair.client->stream), 3);
    tls_session_set_records_per_key(stream_get_tls(pair.server->stream), 5);
    for (uint8_t i = 0; i < 100; i++) {
        data[0] = i;
        assert_true(channel_send_bytes(pair.client, FRAME_EPOCH_APPLIED, data, 4, &error));
        assert_true(channel_expect(pair.server, FRAME_EPOCH_APPLIED, TIMEOUT_MS, &frame, &error));
        assert_memory_equal(frame.payload, data, 4);
        assert_true(channel_send_bytes(pair.server, FRAME_EPOCH_APPLIED, data, 4, &error));
        assert_true(channel_expect(pair.client, FRAME_EPOCH_APPLIED, TIMEOUT_MS, &frame, &error));
    }
    /* 16 bytes of frame and 22 of TLS each, and the records that renew keys. */
    assert_true(channel_get_sent_bytes(pair.client) - before >= 100 * (16 + 22) + 30 * 22);
    pair_close(&pair);
}

static void test_cipher_is_the_fast_one(void **state)
{
    Fixture *fixture = *state;
    Pair pair;

    pair_open(&pair, fixture->ours, 0);
    assert_string_equal(tls_session_get_cipher(stream_get_tls(pair.client->stream)),
                        "TLS_AES_128_GCM_SHA256");
    pair_close(&pair);
}

/* ---- loading an identity ---- */

static char *host_file(Fixture *fixture, const char *ca, const char *name)
{
    return g_build_filename(fixture->folder, ca, "host", name, NULL);
}

static GError *load_error(Fixture *fixture)
{
    g_autofree char *host = g_build_filename(fixture->folder, "ours", "host", NULL);
    GError *error = NULL;

    assert_null(tls_identity_load(host, &error));
    return error;
}

static void test_load_checks_the_keys_mode(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *key = host_file(fixture, "ours", "host.key");

    assert_string_equal(tls_identity_get_name(fixture->ours), "localhost");
    assert_int_equal(chmod(key, 0644), 0);
    expect_error(load_error(fixture), VMFERRY_ERROR_PERMISSION,
                 "may be read by others (mode 0644): run `chmod 600 ");
}

static void test_load_checks_what_belongs_together(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *ours = host_file(fixture, "ours", "host.key");
    g_autofree char *theirs = host_file(fixture, "others", "host.key");
    g_autofree char *our_certificate = host_file(fixture, "ours", "host.crt");
    g_autofree char *their_certificate = host_file(fixture, "others", "host.crt");

    assert_int_equal(rename(theirs, ours), 0);
    expect_error(load_error(fixture), VMFERRY_ERROR_INVALID, "do not belong together");
    assert_int_equal(rename(their_certificate, our_certificate), 0);
    expect_error(load_error(fixture), VMFERRY_ERROR_INVALID, "is not signed by ca.crt beside it");
}

static void test_load_names_missing_and_broken_files(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *ca = host_file(fixture, "ours", "ca.crt");
    g_autofree char *key = host_file(fixture, "ours", "host.key");

    assert_true(file_replace(key, "rubbish", 7, FALSE, NULL));
    expect_error(load_error(fixture), VMFERRY_ERROR_INVALID, "host.key: no private key");
    assert_int_equal(unlink(ca), 0);
    expect_error(load_error(fixture), VMFERRY_ERROR_NOT_FOUND, "ca.crt: No such file");
    assert_true(file_replace(ca, "rubbish", 7, FALSE, NULL));
    expect_error(load_error(fixture), VMFERRY_ERROR_INVALID, "ca.crt: no certificate");
}

static void test_load_refuses_an_expired_certificate(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *path = host_file(fixture, "ours", "host.crt");
    g_autoptr(X509) certificate = tls_read_certificate(path, NULL);
    g_autoptr(BIO) bio = BIO_new_file(path, "w");

    X509_gmtime_adj(X509_getm_notAfter(certificate), -60);
    assert_true(X509_sign(certificate, fixture->ca_key, EVP_sha256()) > 0);
    assert_true(PEM_write_bio_X509(bio, certificate));
    assert_true(BIO_flush(bio) > 0);
    expect_error(load_error(fixture), VMFERRY_ERROR_REFUSED, "host.crt has expired");
}

static void take_file(Fixture *fixture, const char *name)
{
    g_autofree char *ours = host_file(fixture, "ours", name);
    g_autofree char *theirs = host_file(fixture, "others", name);

    assert_int_equal(rename(theirs, ours), 0);
}

static gboolean connects(TlsIdentity *server, TlsIdentity *client)
{
    ChannelOptions options = {.tls = client};
    g_autoptr(Channel) channel = NULL;
    Acceptor acceptor;

    acceptor_start(&acceptor, server, 0);
    channel = channel_connect(acceptor.listener.address, &options, TIMEOUT_MS, NULL, NULL);
    acceptor_join(&acceptor);
    if (!acceptor.channel)
        g_clear_pointer(&channel, channel_free);
    acceptor_end(&acceptor);
    return channel != NULL;
}

/* Files that were renewed count from the next handshake on, on either side. */
static void test_files_are_read_again(void **state)
{
    Fixture *fixture = *state;
    gint64 seconds;

    assert_true(connects(fixture->ours, fixture->ours));
    assert_false(connects(fixture->others, fixture->ours));
    take_file(fixture, "ca.crt");
    take_file(fixture, "host.crt");
    /* In the middle of it, what was before goes on. */
    assert_false(tls_identity_check(fixture->ours, &seconds, NULL));
    assert_true(seconds > 0);
    assert_true(connects(fixture->ours, fixture->ours));
    take_file(fixture, "host.key");
    assert_true(connects(fixture->others, fixture->ours));
    assert_true(connects(fixture->ours, fixture->others));
    assert_true(tls_identity_check(fixture->ours, &seconds, NULL));
}

static void test_how_long_it_is_valid(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *ca = g_build_filename(fixture->folder, "ours", NULL);
    g_autofree char *host = g_build_filename(fixture->folder, "ours", "host", NULL);
    g_autofree char *certificate = host_file(fixture, "ours", "host.crt");
    g_autofree char *key = host_file(fixture, "ours", "host.key");
    gint64 before, after;

    assert_true(tls_identity_check(fixture->ours, &before, NULL));
    assert_int_equal(unlink(certificate), 0);
    assert_int_equal(unlink(key), 0);
    assert_true(pki_issue(ca, "localhost", NULL, 2, host, NULL));
    assert_true(tls_identity_check(fixture->ours, &after, NULL));
    assert_true(after < before && after > 86400 && after <= 2 * 86400);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_wrong_ca),
        TEST(test_client_of_wrong_ca),
        TEST(test_certificate_of_an_engine),
        TEST(test_client_learns_late_that_it_is_refused),
        TEST(test_expired_server),
        TEST(test_expired_client),
        TEST(test_certificate_of_the_future),
        TEST(test_certificate_for_another_host),
        TEST(test_our_own_certificate_for_another_name),
        TEST(test_client_without_certificate),
        TEST(test_older_tls),
        TEST(test_server_certificate_is_no_ca),
        TEST(test_plain_client_at_tls_server),
        TEST(test_tls_client_at_plain_server),
        TEST(test_client_that_says_nothing),
        TEST(test_client_that_hangs_up),
        TEST(test_server_that_says_nothing),
        TEST(test_keys_are_renewed),
        TEST(test_cipher_is_the_fast_one),
        TEST(test_load_checks_the_keys_mode),
        TEST(test_load_checks_what_belongs_together),
        TEST(test_load_names_missing_and_broken_files),
        TEST(test_load_refuses_an_expired_certificate),
        TEST(test_files_are_read_again),
        TEST(test_how_long_it_is_valid),
    };

    alarm(TEST_DEADLINE_S);
    signal(SIGPIPE, SIG_IGN); /* OpenSSL's own socket writes raise it */
    return cmocka_run_group_tests(tests, NULL, NULL);
}

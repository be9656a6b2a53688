#include "wire/tls_socket.h"

#include <errno.h>
#include <sys/socket.h>

/* What OpenSSL may write on its own account (alerts, answers to key updates)
 * beside a batch; a peer that makes it write more is cut off. */
#define WRITTEN_LIMIT (1u << 20)

static int bio_write(BIO *bio, const char *data, int length)
{
    TlsSocket *tls_socket = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    if (length < 0 || tls_socket->written->len + (guint)length > WRITTEN_LIMIT)
        return -1;
    g_byte_array_append(tls_socket->written, (const guint8 *)data, (guint)length);
    return length;
}

static int bio_read(BIO *bio, char *buffer, int length)
{
    TlsSocket *tls_socket = BIO_get_data(bio);
    ssize_t got;

    BIO_clear_retry_flags(bio);
    do
        got = recv(tls_socket->fd, buffer, (size_t)MAX(length, 0), MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got > 0)
        tls_socket->received += (size_t)got;
    else if (got < 0 && errno == EAGAIN)
        BIO_set_retry_read(bio);
    tls_socket->errnum = got < 0 ? errno : 0;
    if (got == 0)
        BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    return (int)got;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    switch (command) {
    case BIO_CTRL_FLUSH:
        return 1;
    case BIO_CTRL_EOF:
        return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    default:
        return 0;
    }
}

static const BIO_METHOD *bio_method(void)
{
    static gsize made;

    if (g_once_init_enter(&made)) {
        BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "vmferry");

        BIO_meth_set_write(method, bio_write);
        BIO_meth_set_read(method, bio_read);
        BIO_meth_set_ctrl(method, bio_control);
        g_once_init_leave(&made, (gsize)method);
    }
    return (const BIO_METHOD *)made;
}

BIO *tls_socket_make_bio(TlsSocket *tls_socket)
{
    BIO *bio = BIO_new(bio_method());

    if (!bio)
        return NULL;
    BIO_set_data(bio, tls_socket);
    BIO_set_init(bio, 1);
    return bio;
}

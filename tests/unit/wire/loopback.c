#include "loopback.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "wire/pki.h"

char *folder_new(void)
{
    char *folder = g_dir_make_tmp("vmferry-wire-XXXXXX", NULL);

    assert_non_null(folder);
    return folder;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    return remove(path);
}

void folder_remove(char *folder)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    g_free(folder);
}

char *folder_make_pki(const char *folder, const char *name)
{
    static const char *const names[] = {"127.0.0.1", NULL};
    g_autofree char *ca = g_build_filename(folder, name, NULL);
    char *host = g_build_filename(ca, "host", NULL);
    GError *error = NULL;

    pki_init(ca, 30, &error);
    assert_null(error);
    pki_issue(ca, "localhost", names, 10, host, &error);
    assert_null(error);
    return host;
}

TlsIdentity *folder_make_identity(const char *folder, const char *name)
{
    g_autofree char *host = folder_make_pki(folder, name);
    GError *error = NULL;
    TlsIdentity *identity = tls_identity_load(host, &error);

    assert_null(error);
    return identity;
}

void listener_open(Listener *listener)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;

    listener->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(listener->fd >= 0);
    assert_int_equal(bind(listener->fd, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(listener->fd, 8), 0);
    assert_int_equal(getsockname(listener->fd, (struct sockaddr *)&address, &length), 0);
    listener->port = ntohs(address.sin_port);
    listener->address = g_strdup_printf("127.0.0.1:%u", listener->port);
}

void listener_close(Listener *listener)
{
    fd_close(&listener->fd);
    g_clear_pointer(&listener->address, g_free);
}

int listener_accept(Listener *listener)
{
    return accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
}

int raw_connect(const Listener *listener)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(listener->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static gpointer accept_main(gpointer data)
{
    Acceptor *acceptor = data;

    acceptor->channel =
        channel_accept(listener_accept(&acceptor->listener), &acceptor->options, &acceptor->error);
    return NULL;
}

void acceptor_start(Acceptor *acceptor, TlsIdentity *tls, int peer_timeout_ms)
{
    *acceptor = (Acceptor){.options = {.tls = tls, .peer_timeout_ms = peer_timeout_ms}};
    listener_open(&acceptor->listener);
    acceptor->thread = g_thread_new("accept", accept_main, acceptor);
}

void acceptor_join(Acceptor *acceptor)
{
    if (acceptor->thread)
        g_thread_join(acceptor->thread);
    acceptor->thread = NULL;
}

void acceptor_end(Acceptor *acceptor)
{
    acceptor_join(acceptor);
    g_clear_pointer(&acceptor->channel, channel_free);
    g_clear_error(&acceptor->error);
    listener_close(&acceptor->listener);
}

void pair_open(Pair *pair, TlsIdentity *tls, int peer_timeout_ms)
{
    ChannelOptions options = {.tls = tls, .peer_timeout_ms = peer_timeout_ms};
    GError *error = NULL;
    Acceptor acceptor;

    acceptor_start(&acceptor, tls, peer_timeout_ms);
    pair->client = channel_connect(acceptor.listener.address, &options, 10000, NULL, &error);
    if (error)
        fail_msg("connect: %s", error->message);
    acceptor_join(&acceptor);
    if (acceptor.error)
        fail_msg("accept: %s", acceptor.error->message);
    pair->server = g_steal_pointer(&acceptor.channel);
    acceptor_end(&acceptor);
}

void pair_close(Pair *pair)
{
    g_clear_pointer(&pair->client, channel_free);
    g_clear_pointer(&pair->server, channel_free);
}

/*
 * Names to addresses
 *
 * getaddrinfo() can neither be cancelled nor told a deadline, so it runs in a
 * thread of its own.  The caller and that thread share a DnsQuery with two
 * references; the last one frees it.
 */
#include "wire/dns.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "wire/socket_wait.h"

typedef struct {
    char *host;
    char *service;
    int done_fd;
    int result; /* of getaddrinfo() */
    int errnum;
    struct addrinfo *found;
} DnsQuery;

static void dns_query_clear(gpointer data)
{
    DnsQuery *query = data;

    if (query->found)
        freeaddrinfo(query->found);
    fd_close(&query->done_fd);
    g_free(query->host);
    g_free(query->service);
}

static void dns_query_release(DnsQuery *query)
{
    g_atomic_rc_box_release_full(query, dns_query_clear);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DnsQuery, dns_query_release)

static gpointer dns_query_main(gpointer data)
{
    g_autoptr(DnsQuery) query = data;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    uint64_t one = 1;

    if (address_is_ip(query->host))
        hints.ai_flags |= AI_NUMERICHOST;
    query->result = getaddrinfo(query->host, query->service, &hints, &query->found);
    query->errnum = errno;
    if (write(query->done_fd, &one, sizeof one) < 0)
        return NULL;
    return NULL;
}

static DnsQuery *dns_query_start(const Address *address, GError **error)
{
    g_autoptr(DnsQuery) query = g_atomic_rc_box_new0(DnsQuery);
    GThread *thread;

    query->host = g_strdup(address->host);
    query->service = g_strdup_printf("%u", address->port);
    query->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (query->done_fd < 0) {
        error_set_errno(error, errno, "eventfd");
        return NULL;
    }
    thread = g_thread_try_new("dns", dns_query_main, g_atomic_rc_box_acquire(query), error);
    if (!thread) {
        dns_query_release(query);
        return NULL;
    }
    g_thread_unref(thread);
    return g_steal_pointer(&query);
}

static GPtrArray *list_addresses(const DnsQuery *query)
{
    GPtrArray *all = g_ptr_array_new_with_free_func(g_free);

    for (const struct addrinfo *info = query->found; info; info = info->ai_next) {
        struct sockaddr_storage *address = g_new0(struct sockaddr_storage, 1);

        memcpy(address, info->ai_addr, MIN(info->ai_addrlen, sizeof *address));
        g_ptr_array_add(all, address);
    }
    return all;
}

GPtrArray *dns_look_up(const Address *address, uint64_t deadline_ns, int cancel_fd, GError **error)
{
    g_autoptr(DnsQuery) query = dns_query_start(address, error);
    uint64_t done;

    if (!query)
        return NULL;
    switch (socket_wait(query->done_fd, POLLIN, cancel_fd, deadline_ns)) {
    case SOCKET_WOKEN:
        error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
        return NULL;
    case SOCKET_TIMED_OUT:
        error_set(error, VMFERRY_ERROR_TIMEOUT, "no answer from the name service");
        return NULL;
    case SOCKET_READY:
        break;
    }
    /* Reading orders what the thread wrote before what is read here. */
    if (read(query->done_fd, &done, sizeof done) < 0) {
        error_set_errno(error, errno, "eventfd");
        return NULL;
    }
    if (query->result != 0) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "no address known for %s: %s", address->host,
                  query->result == EAI_SYSTEM ? g_strerror(query->errnum)
                                              : gai_strerror(query->result));
        return NULL;
    }
    return list_addresses(query);
}

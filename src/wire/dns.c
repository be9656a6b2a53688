/*
 * Names to addresses
 *
 * getaddrinfo() can neither be cancelled nor told a deadline, so it runs in a
 * thread of its own.  Who asked and that thread share a Lookup with two
 * references; the one who leaves last frees it.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "wire/connect.h"
#include "wire/socket_wait.h"

typedef struct {
    char *host;
    char *service;
    int done_fd;
    int result; /* of getaddrinfo() */
    int errnum;
    struct addrinfo *found;
} Lookup;

static void lookup_clear(gpointer data)
{
    Lookup *lookup = data;

    if (lookup->found)
        freeaddrinfo(lookup->found);
    fd_close(&lookup->done_fd);
    g_free(lookup->host);
    g_free(lookup->service);
}

static void lookup_release(Lookup *lookup)
{
    g_atomic_rc_box_release_full(lookup, lookup_clear);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Lookup, lookup_release)

static gpointer lookup_main(gpointer data)
{
    g_autoptr(Lookup) lookup = data;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    uint64_t one = 1;

    if (address_is_ip(lookup->host))
        hints.ai_flags |= AI_NUMERICHOST;
    lookup->result = getaddrinfo(lookup->host, lookup->service, &hints, &lookup->found);
    lookup->errnum = errno;
    if (write(lookup->done_fd, &one, sizeof one) < 0)
        return NULL;
    return NULL;
}

static Lookup *lookup_start(const Address *address, GError **error)
{
    g_autoptr(Lookup) lookup = g_atomic_rc_box_new0(Lookup);
    GThread *thread;

    lookup->host = g_strdup(address->host);
    lookup->service = g_strdup_printf("%u", address->port);
    lookup->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lookup->done_fd < 0) {
        error_set_errno(error, errno, "eventfd");
        return NULL;
    }
    thread = g_thread_try_new("resolve", lookup_main, g_atomic_rc_box_acquire(lookup), error);
    if (!thread) {
        lookup_release(lookup);
        return NULL;
    }
    g_thread_unref(thread);
    return g_steal_pointer(&lookup);
}

static GPtrArray *collect(const Lookup *lookup)
{
    GPtrArray *all = g_ptr_array_new_with_free_func(g_free);

    for (const struct addrinfo *info = lookup->found; info; info = info->ai_next) {
        struct sockaddr_storage *address = g_new0(struct sockaddr_storage, 1);

        memcpy(address, info->ai_addr, MIN(info->ai_addrlen, sizeof *address));
        g_ptr_array_add(all, address);
    }
    return all;
}

GPtrArray *resolve_host(const Address *address, uint64_t deadline_ns, int cancel_fd, GError **error)
{
    g_autoptr(Lookup) lookup = lookup_start(address, error);
    uint64_t done;

    if (!lookup)
        return NULL;
    switch (socket_wait(lookup->done_fd, POLLIN, cancel_fd, deadline_ns)) {
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
    if (read(lookup->done_fd, &done, sizeof done) < 0) {
        error_set_errno(error, errno, "eventfd");
        return NULL;
    }
    if (lookup->result != 0) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "no address known for %s: %s", address->host,
                  lookup->result == EAI_SYSTEM ? g_strerror(lookup->errnum)
                                               : gai_strerror(lookup->result));
        return NULL;
    }
    return collect(lookup);
}

#include "nbd_owner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/lock_guard.h"
#include "base/unix_socket.h"
#include "disk/nbd_server_private.h"

int owner_problem_of(guint number)
{
    static const int problems[] = {EIO, ENOSPC, EINVAL};

    return number % 7 == 3 ? problems[number % G_N_ELEMENTS(problems)] : 0;
}

static void apply(Owner *owner, const NbdRequest *request)
{
    g_assert_true(request->offset + request->length <= owner->bytes);
    if (request->kind == NBD_REQUEST_WRITE)
        memcpy(owner->image + request->offset, request->data, request->length);
    else if (request->kind != NBD_REQUEST_FLUSH)
        memset(owner->image + request->offset, 0, request->length);
}

static void take_request(const NbdRequest *request, gpointer user)
{
    Owner *owner = user;
    Answer answer = {request->id, 0};

    g_mutex_lock(&owner->lock);
    g_assert_false(owner->ended);
    if (owner->with_problems)
        answer.problem = owner_problem_of(owner->arrived);
    owner->arrived++;
    owner->last_fua = (guint)request->fua;
    owner->last_no_hole = (guint)request->no_hole;
    apply(owner, request);
    g_array_append_val(owner->answers, answer);
    g_cond_broadcast(&owner->changed);
    while (owner->block)
        g_cond_wait(&owner->changed, &owner->lock);
    if (!owner->hold)
        g_array_set_size(owner->answers, 0);
    g_mutex_unlock(&owner->lock);
    if (!owner->hold)
        nbd_server_answer(owner->server, answer.id, answer.problem);
}

static void take_end(const GError *why, gpointer user)
{
    Owner *owner = user;
    lock_guard(&owner->lock);

    g_assert_false(owner->ended);
    owner->ended = TRUE;
    owner->why = why ? g_error_copy(why) : NULL;
    g_cond_broadcast(&owner->changed);
}

Owner *owner_new(uint64_t bytes)
{
    Owner *owner = g_new0(Owner, 1);

    g_mutex_init(&owner->lock);
    g_cond_init(&owner->changed);
    owner->bytes = bytes;
    owner->image = g_malloc0(bytes);
    owner->answers = g_array_new(FALSE, FALSE, sizeof(Answer));
    return owner;
}

void owner_free(Owner *owner)
{
    nbd_server_free(owner->server);
    g_mutex_clear(&owner->lock);
    g_cond_clear(&owner->changed);
    g_free(owner->image);
    g_array_unref(owner->answers);
    g_clear_error(&owner->why);
    g_free(owner);
}

NbdServerOptions owner_options(Owner *owner, pid_t client)
{
    return (NbdServerOptions){.export_name = EXPORT_NAME,
                              .bytes = owner->bytes,
                              .client = client,
                              .request = take_request,
                              .ended = take_end,
                              .user = owner};
}

/* The thread may call back before the server is known here; it waits for the lock. */
void owner_start(Owner *owner, pid_t client)
{
    NbdServerOptions options = owner_options(owner, client);
    g_autoptr(GError) error = NULL;
    lock_guard(&owner->lock);

    owner->server = nbd_server_start(&options, &error);
    assert_null(error);
}

int owner_start_connected(Owner *owner)
{
    NbdServerOptions options = owner_options(owner, 0);
    int ends[2];
    lock_guard(&owner->lock);

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    owner->server = nbd_server_start_connected(&options, ends[0], NULL);
    assert_non_null(owner->server);
    return ends[1];
}

void owner_wait_for_arrivals(Owner *owner, guint count)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_US;
    lock_guard(&owner->lock);

    while (owner->arrived < count)
        assert_true(g_cond_wait_until(&owner->changed, &owner->lock, end));
}

void owner_wait_for_end(Owner *owner)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_US;
    lock_guard(&owner->lock);

    while (!owner->ended)
        assert_true(g_cond_wait_until(&owner->changed, &owner->lock, end));
}

void owner_expect_end(Owner *owner, VmferryErrorCode code)
{
    owner_wait_for_end(owner);
    assert_non_null(owner->why);
    assert_true(error_is(owner->why, code));
}

void owner_expect_end_in_order(Owner *owner)
{
    owner_wait_for_end(owner);
    assert_null(owner->why);
}

void owner_unblock(Owner *owner)
{
    lock_guard(&owner->lock);

    owner->block = FALSE;
    g_cond_broadcast(&owner->changed);
}

int connect_to_server(const char *address, pid_t pid)
{
    g_autofree char *where = unix_socket_abstract(pid, address, FALSE);

    return unix_socket_connect(where, NULL);
}

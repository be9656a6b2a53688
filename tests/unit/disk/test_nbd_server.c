/* Clients of all kinds: libnbd, qemu-img, and ones that speak byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/unix_socket.h"
#include "disk/nbd_protocol.h"
#include "disk/nbd_server_private.h"

#define NAME "x"
#define IMAGE_BYTES ((1u << 20) + 123)
#define PATIENCE_US (20 * G_USEC_PER_SEC)
#define COOKIE UINT64_C(0x1122334455667788)

/* ---- the owner ---- */

typedef struct {
    uint64_t id;
    int problem;
} Answer;

typedef struct {
    NbdServer *server;
    GMutex lock;
    GCond changed;
    uint64_t bytes;
    uint8_t *image;
    gboolean hold;  /* answers are kept in *answers* */
    gboolean block; /* the callback does not return */
    gboolean with_problems;
    guint arrived, last_fua, last_no_hole;
    GArray *answers; /* of Answer */
    gboolean ended;
    GError *why;
} Owner;

/* Which requests fail, by the order of their arrival. */
static int problem_of(guint number)
{
    static const int problems[] = {EIO, ENOSPC, EINVAL};

    return number % 7 == 3 ? problems[number % G_N_ELEMENTS(problems)] : 0;
}

static void apply(Owner *owner, const NbdRequest *request)
{
    assert_true(request->offset + request->length <= owner->bytes);
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
    assert_false(owner->ended);
    if (owner->with_problems)
        answer.problem = problem_of(owner->arrived);
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

    assert_false(owner->ended);
    owner->ended = TRUE;
    owner->why = why ? g_error_copy(why) : NULL;
    g_cond_broadcast(&owner->changed);
}

static Owner *owner_new(uint64_t bytes)
{
    Owner *owner = g_new0(Owner, 1);

    g_mutex_init(&owner->lock);
    g_cond_init(&owner->changed);
    owner->bytes = bytes;
    owner->image = g_malloc0(bytes);
    owner->answers = g_array_new(FALSE, FALSE, sizeof(Answer));
    return owner;
}

static void owner_free(Owner *owner)
{
    nbd_server_free(owner->server);
    g_mutex_clear(&owner->lock);
    g_cond_clear(&owner->changed);
    g_free(owner->image);
    g_array_unref(owner->answers);
    g_clear_error(&owner->why);
    g_free(owner);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Owner, owner_free)

static NbdServerOptions options_for(Owner *owner, pid_t client)
{
    return (NbdServerOptions){.export_name = NAME,
                              .bytes = owner->bytes,
                              .client = client,
                              .request = take_request,
                              .ended = take_end,
                              .user = owner};
}

/* The thread may call back before the server is known here; it waits for the lock. */
static void owner_start(Owner *owner, pid_t client)
{
    NbdServerOptions options = options_for(owner, client);
    g_autoptr(GError) error = NULL;
    lock_guard(&owner->lock);

    owner->server = nbd_server_start(&options, &error);
    assert_null(error);
}

/* Returns the client's end. */
static int owner_start_connected(Owner *owner)
{
    NbdServerOptions options = options_for(owner, 0);
    int ends[2];
    lock_guard(&owner->lock);

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    owner->server = nbd_server_start_connected(&options, ends[0], NULL);
    assert_non_null(owner->server);
    return ends[1];
}

static void wait_for_arrivals(Owner *owner, guint count)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_US;
    lock_guard(&owner->lock);

    while (owner->arrived < count)
        assert_true(g_cond_wait_until(&owner->changed, &owner->lock, end));
}

static void wait_for_end(Owner *owner)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_US;
    lock_guard(&owner->lock);

    while (!owner->ended)
        assert_true(g_cond_wait_until(&owner->changed, &owner->lock, end));
}

static void expect_end(Owner *owner, VmferryErrorCode code)
{
    wait_for_end(owner);
    assert_non_null(owner->why);
    assert_true(error_is(owner->why, code));
}

static void expect_end_in_order(Owner *owner)
{
    wait_for_end(owner);
    assert_null(owner->why);
}

static void unblock(Owner *owner)
{
    lock_guard(&owner->lock);

    owner->block = FALSE;
    g_cond_broadcast(&owner->changed);
}

static int connect_to(const char *address, pid_t pid)
{
    g_autofree char *where = unix_socket_abstract(pid, address, FALSE);

    return unix_socket_connect(where, NULL);
}

/* ---- a client byte by byte ---- */

static void put(int fd, const GByteArray *bytes)
{
    assert_true(fd_write_all(fd, bytes->data, bytes->len, NULL));
}

static void put_number(int fd, uint32_t number)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    byte_write_be32(bytes, number);
    put(fd, bytes);
}

static uint64_t get_number(int fd, size_t width)
{
    uint8_t raw[8];
    uint64_t value = 0;

    assert_true(fd_read_all(fd, raw, width, NULL));
    for (size_t i = 0; i < width; i++)
        value = value << 8 | raw[i];
    return value;
}

static void expect_no_more(int fd)
{
    char byte;

    assert_true(recv(fd, &byte, 1, 0) <= 0);
}

static void append_option(GByteArray *out, uint32_t number, const void *data, size_t length)
{
    byte_write_be64(out, NBD_OPTION_MAGIC);
    byte_write_be32(out, number);
    byte_write_be32(out, (uint32_t)length);
    byte_write_span(out, data, length);
}

static void put_option(int fd, uint32_t number, const void *data, size_t length)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    append_option(bytes, number, data, length);
    put(fd, bytes);
}

static void append_request(GByteArray *out, uint16_t flags, uint16_t command, uint64_t offset,
                           uint32_t length)
{
    byte_write_be32(out, NBD_REQUEST_MAGIC);
    byte_write_be16(out, flags);
    byte_write_be16(out, command);
    byte_write_be64(out, COOKIE);
    byte_write_be64(out, offset);
    byte_write_be32(out, length);
}

static void put_request(int fd, uint16_t flags, uint16_t command, uint64_t offset, uint32_t length)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    append_request(bytes, flags, command, offset, length);
    put(fd, bytes);
}

/* Returns what it answers. */
static uint32_t get_reply(int fd)
{
    uint32_t problem;

    assert_int_equal(get_number(fd, 4), NBD_SIMPLE_REPLY_MAGIC);
    problem = (uint32_t)get_number(fd, 4);
    assert_true(get_number(fd, 8) == COOKIE);
    return problem;
}

static void greet(int fd, uint32_t flags)
{
    assert_true(get_number(fd, 8) == NBD_INIT_MAGIC);
    assert_true(get_number(fd, 8) == NBD_OPTION_MAGIC);
    assert_int_equal(get_number(fd, 2), NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    put_number(fd, flags);
}

/* Returns the length of what follows. */
static uint32_t expect_option_reply(int fd, uint32_t number, uint32_t kind)
{
    assert_true(get_number(fd, 8) == NBD_OPTION_REPLY_MAGIC);
    assert_int_equal(get_number(fd, 4), number);
    assert_int_equal(get_number(fd, 4), kind);
    return (uint32_t)get_number(fd, 4);
}

static void expect_error(int fd, uint32_t number, uint32_t kind)
{
    uint32_t length = expect_option_reply(fd, number, kind);

    assert_int_equal(length, 0);
}

#define EXPORT_FLAGS 0x6d

static void expect_infos(int fd, uint32_t number, uint64_t bytes)
{
    assert_int_equal(expect_option_reply(fd, number, NBD_REP_INFO), 12);
    assert_int_equal(get_number(fd, 2), NBD_INFO_EXPORT);
    assert_true(get_number(fd, 8) == bytes);
    assert_int_equal(get_number(fd, 2), EXPORT_FLAGS);
    assert_int_equal(expect_option_reply(fd, number, NBD_REP_INFO), 14);
    assert_int_equal(get_number(fd, 2), NBD_INFO_BLOCK_SIZE);
    assert_int_equal(get_number(fd, 4), 1);
    assert_int_equal(get_number(fd, 4), 4096);
    assert_int_equal(get_number(fd, 4), NBD_MAX_REQUEST_BYTES);
    assert_int_equal(expect_option_reply(fd, number, NBD_REP_ACK), 0);
}

/* What INFO and GO carry. */
static GByteArray *choice(const char *name, uint16_t claimed, uint16_t wishes)
{
    GByteArray *bytes = g_byte_array_new();

    byte_write_be32(bytes, (uint32_t)strlen(name));
    byte_write_span(bytes, name, strlen(name));
    byte_write_be16(bytes, claimed);
    for (uint16_t i = 0; i < wishes; i++)
        byte_write_be16(bytes, NBD_INFO_BLOCK_SIZE);
    return bytes;
}

static void put_choice(int fd, uint32_t number, const char *name, uint16_t claimed, uint16_t wishes)
{
    g_autoptr(GByteArray) bytes = choice(name, claimed, wishes);

    put_option(fd, number, bytes->data, bytes->len);
}

static void go(Owner *owner, int fd)
{
    greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    put_choice(fd, NBD_OPT_GO, NAME, 0, 0);
    expect_infos(fd, NBD_OPT_GO, owner->bytes);
}

/* ---- the handshake ---- */

static void test_options(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);
    static const uint32_t unknown[] = {5, 8, 9, 10, 11, 4711}; /* STARTTLS, STRUCTURED_REPLY, … */
    char name[2] = "";

    greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
    for (guint i = 0; i < G_N_ELEMENTS(unknown); i++) {
        put_option(fd, unknown[i], "data", i);
        expect_error(fd, unknown[i], NBD_REP_ERR_UNSUP);
    }
    put_option(fd, NBD_OPT_LIST, NULL, 0);
    assert_int_equal(expect_option_reply(fd, NBD_OPT_LIST, NBD_REP_SERVER), 5);
    assert_int_equal(get_number(fd, 4), 1);
    assert_true(fd_read_all(fd, name, 1, NULL));
    assert_string_equal(name, NAME);
    expect_error(fd, NBD_OPT_LIST, NBD_REP_ACK);
    put_option(fd, NBD_OPT_LIST, "x", 1);
    expect_error(fd, NBD_OPT_LIST, NBD_REP_ERR_INVALID);
    for (guint i = 0; i < 2; i++) {
        put_choice(fd, NBD_OPT_INFO, NAME, 3, 3);
        expect_infos(fd, NBD_OPT_INFO, IMAGE_BYTES);
        put_choice(fd, NBD_OPT_GO, "y", 0, 0);
        expect_error(fd, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
        put_choice(fd, NBD_OPT_GO, "", 0, 0);
        expect_error(fd, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
        put_choice(fd, NBD_OPT_GO, NAME, 2, 1);
        expect_error(fd, NBD_OPT_GO, NBD_REP_ERR_INVALID);
        put_choice(fd, NBD_OPT_GO, NAME, 1, 2);
        expect_error(fd, NBD_OPT_GO, NBD_REP_ERR_INVALID);
        put_option(fd, NBD_OPT_GO, "\xff\xff\xff\xffxxxx", 8);
        expect_error(fd, NBD_OPT_GO, NBD_REP_ERR_INVALID);
        put_option(fd, NBD_OPT_INFO, NULL, 0);
        expect_error(fd, NBD_OPT_INFO, NBD_REP_ERR_INVALID);
    }
    put_option(fd, NBD_OPT_ABORT, NULL, 0);
    expect_error(fd, NBD_OPT_ABORT, NBD_REP_ACK);
    expect_no_more(fd);
    expect_end_in_order(owner);
}

static void test_a_client_that_aborts_and_does_not_wait(void **state)
{
    for (guint i = 0; i < 20; i++) {
        g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
        autofd int fd = owner_start_connected(owner);

        greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
        put_option(fd, NBD_OPT_ABORT, NULL, 0);
        fd_close(&fd);
        expect_end_in_order(owner);
    }
}

static void test_export_name(void **state)
{
    for (uint32_t flags = 0; flags < 4; flags++) {
        g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
        autofd int fd = owner_start_connected(owner);

        greet(fd, flags);
        put_option(fd, NBD_OPT_EXPORT_NAME, NAME, 1);
        assert_int_equal(get_number(fd, 8), IMAGE_BYTES);
        assert_int_equal(get_number(fd, 2), EXPORT_FLAGS);
        for (guint i = 0; i < 124 && !(flags & NBD_FLAG_NO_ZEROES); i++)
            assert_int_equal(get_number(fd, 1), 0);
        put_request(fd, 0, NBD_CMD_FLUSH, 0, 0);
        assert_int_equal(get_reply(fd), 0);
        put_request(fd, 0, NBD_CMD_DISC, 0, 0);
        expect_no_more(fd);
        expect_end_in_order(owner);
    }
}

static void test_another_export_name(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);

    greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
    put_option(fd, NBD_OPT_EXPORT_NAME, "xy", 2);
    expect_no_more(fd);
    expect_end(owner, VMFERRY_ERROR_NOT_FOUND);
}

static void test_unknown_client_flags(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);

    greet(fd, 4);
    expect_no_more(fd);
    expect_end(owner, VMFERRY_ERROR_INVALID);
}

static void test_a_long_option(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);
    g_autofree char *data = g_malloc0(8193);

    greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
    put_option(fd, 4711, data, 8192);
    expect_error(fd, 4711, NBD_REP_ERR_UNSUP);
    put_option(fd, 4711, data, 8193);
    expect_no_more(fd);
    expect_end(owner, VMFERRY_ERROR_INVALID);
}

/* ---- requests ---- */

typedef struct {
    uint16_t flags, command;
    uint64_t offset;
    uint32_t length;
    int answer;
} RequestCase;

static void test_bounds(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);
    g_autofree char *payload = g_malloc0(IMAGE_BYTES + 1);
    static const RequestCase cases[] = {
        {0, NBD_CMD_WRITE, 0, IMAGE_BYTES, 0},
        {NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, IMAGE_BYTES - 1, 1, 0},
        {0, NBD_CMD_WRITE, IMAGE_BYTES - 1, 2, ENOSPC},
        {0, NBD_CMD_WRITE, IMAGE_BYTES, 1, ENOSPC},
        {0, NBD_CMD_WRITE, 0, IMAGE_BYTES + 1, ENOSPC},
        {0, NBD_CMD_WRITE, UINT64_MAX, 2, ENOSPC},
        {0, NBD_CMD_WRITE, 0, 0, EINVAL},
        {NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE, 0, 1, EINVAL},
        {1 << 5, NBD_CMD_WRITE, 0, 1, EINVAL},
        {NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES, 0, IMAGE_BYTES, 0},
        {0, NBD_CMD_WRITE_ZEROES, 0, UINT32_MAX, ENOSPC},
        {1 << 4, NBD_CMD_WRITE_ZEROES, 0, 1, EINVAL}, /* FAST_ZERO */
        {0, NBD_CMD_TRIM, IMAGE_BYTES - 1, 1, 0},
        {0, NBD_CMD_TRIM, IMAGE_BYTES - 1, 2, EINVAL},
        {0, NBD_CMD_TRIM, UINT64_MAX - 1, UINT32_MAX, EINVAL},
        {0, NBD_CMD_FLUSH, 0, 0, 0},
        {0, NBD_CMD_FLUSH, 1, 1, 0},
        {1 << 3, NBD_CMD_FLUSH, 0, 0, EINVAL},
        {0, NBD_CMD_READ, 1, IMAGE_BYTES, EINVAL},
        {0, NBD_CMD_READ, 0, NBD_MAX_REQUEST_BYTES + 1, EINVAL},
        {0, 5, 0, 1, EINVAL}, /* CACHE */
        {0, 7, 0, 1, EINVAL}, /* BLOCK_STATUS */
        {0, 99, 0, 1, EINVAL},
    };

    go(owner, fd);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        const RequestCase *c = &cases[i];
        guint before = owner->arrived;

        put_request(fd, c->flags, c->command, c->offset, c->length);
        if (c->command == NBD_CMD_WRITE)
            assert_true(fd_write_all(fd, payload, c->length, NULL));
        assert_int_equal(get_reply(fd), c->answer);
        assert_int_equal(owner->arrived - before, c->answer == 0);
        if (c->answer == 0 && c->command != NBD_CMD_FLUSH) {
            assert_int_equal(owner->last_fua, (c->flags & NBD_CMD_FLAG_FUA) != 0);
            assert_int_equal(owner->last_no_hole, (c->flags & NBD_CMD_FLAG_NO_HOLE) != 0);
        }
    }
    put_request(fd, 0, NBD_CMD_WRITE, 0, NBD_MAX_REQUEST_BYTES + 1);
    expect_no_more(fd);
    expect_end(owner, VMFERRY_ERROR_INVALID);
}

/* What the protocol does not know becomes what it does. */
static void test_problems(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);
    static const int problems[][2] = {{EIO, EIO},       {ENOSPC, ENOSPC},       {EPERM, EPERM},
                                      {EDQUOT, ENOSPC}, {ECONNREFUSED, EIO},    {-1, EIO},
                                      {EROFS, EPERM},   {ESHUTDOWN, ESHUTDOWN}, {0, 0}};

    owner->hold = TRUE;
    go(owner, fd);
    for (guint i = 0; i < G_N_ELEMENTS(problems); i++) {
        uint64_t id;

        put_request(fd, 0, NBD_CMD_FLUSH, 0, 0);
        wait_for_arrivals(owner, i + 1);
        id = g_array_index(owner->answers, Answer, i).id;
        nbd_server_answer(owner->server, id + 1, EPERM);
        nbd_server_answer(owner->server, id, problems[i][0]);
        nbd_server_answer(owner->server, id, EPERM);
        assert_int_equal(get_reply(fd), problems[i][1]);
    }
}

static void test_wait_time(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);
    uint64_t first;

    owner->hold = TRUE;
    go(owner, fd);
    assert_true(nbd_server_get_wait_ns(owner->server) == 0);
    put_request(fd, 0, NBD_CMD_FLUSH, 0, 0);
    wait_for_arrivals(owner, 1);
    clock_sleep_ns(20000000);
    put_request(fd, 0, NBD_CMD_FLUSH, 0, 0);
    wait_for_arrivals(owner, 2);
    first = nbd_server_get_wait_ns(owner->server);
    assert_true(first >= 20000000);
    nbd_server_answer(owner->server, g_array_index(owner->answers, Answer, 1).id, 0);
    assert_true(nbd_server_get_wait_ns(owner->server) >= first);
    nbd_server_answer(owner->server, g_array_index(owner->answers, Answer, 0).id, 0);
    assert_true(nbd_server_get_wait_ns(owner->server) == 0);
    put_request(fd, 0, NBD_CMD_FLUSH, 0, 0);
    wait_for_arrivals(owner, 3);
    assert_true(nbd_server_get_wait_ns(owner->server) > 0);
    nbd_server_close(owner->server, NULL);
    assert_true(nbd_server_get_wait_ns(owner->server) == 0);
    expect_end_in_order(owner);
}

static GByteArray *many_flushes(guint count)
{
    GByteArray *bytes = g_byte_array_new();

    for (guint i = 0; i < count; i++)
        append_request(bytes, 0, NBD_CMD_FLUSH, 0, 0);
    return bytes;
}

static void test_many_requests_wait_for_answers(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    g_autoptr(GByteArray) requests = many_flushes(3000);
    autofd int fd = owner_start_connected(owner);

    owner->hold = TRUE;
    go(owner, fd);
    put(fd, requests);
    wait_for_arrivals(owner, NBD_MAX_WAITING);
    clock_sleep_ns(20000000);
    assert_int_equal(owner->arrived, NBD_MAX_WAITING);
    for (guint i = 0; i < 3000; i++) {
        uint64_t id;

        wait_for_arrivals(owner, i + 1);
        g_mutex_lock(&owner->lock);
        id = g_array_index(owner->answers, Answer, i).id;
        g_mutex_unlock(&owner->lock);
        nbd_server_answer(owner->server, id, 0);
        assert_int_equal(get_reply(fd), 0);
    }
    fd_close(&fd);
    expect_end(owner, VMFERRY_ERROR_DISCONNECTED);
}

static void test_a_client_leaves_with_many_requests(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    g_autoptr(GByteArray) requests = many_flushes(3000);
    autofd int fd = owner_start_connected(owner);

    owner->hold = TRUE;
    go(owner, fd);
    put(fd, requests);
    wait_for_arrivals(owner, NBD_MAX_WAITING);
    fd_close(&fd);
    expect_end(owner, VMFERRY_ERROR_DISCONNECTED);
}

static void test_a_deaf_client_is_closed(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    g_autoptr(GByteArray) requests = many_flushes(20000);
    autofd int fd = owner_start_connected(owner);

    go(owner, fd);
    fd_write_all(fd, requests->data, requests->len, NULL);
    expect_end(owner, VMFERRY_ERROR_TIMEOUT);
}

/* It does not take answers for a while, and then all of them. */
static void test_a_late_reader(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    g_autoptr(GByteArray) requests = many_flushes(3000);
    autofd int fd = owner_start_connected(owner);

    go(owner, fd);
    put(fd, requests);
    wait_for_arrivals(owner, 3000);
    for (guint i = 0; i < 3000; i++)
        assert_int_equal(get_reply(fd), 0);
    put_request(fd, 0, NBD_CMD_DISC, 0, 0);
    expect_end_in_order(owner);
}

/* ---- bytes that are wrong ---- */

static GByteArray *good_stream(void)
{
    GByteArray *stream = g_byte_array_new();
    g_autoptr(GByteArray) chosen = choice(NAME, 1, 1);

    byte_write_be32(stream, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    append_option(stream, NBD_OPT_LIST, NULL, 0);
    append_option(stream, NBD_OPT_GO, chosen->data, chosen->len);
    append_request(stream, 0, NBD_CMD_WRITE, 4096, 16);
    byte_write_span(stream, "0123456789abcdef", 16);
    append_request(stream, 0, NBD_CMD_FLUSH, 0, 0);
    append_request(stream, 0, NBD_CMD_DISC, 0, 0);
    return stream;
}

/* Returns why it ended. */
static GError *serve_stream(const uint8_t *data, size_t length)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);
    char answers[4096];

    assert_true(fd_write_all(fd, data, length, NULL));
    shutdown(fd, SHUT_WR);
    while (recv(fd, answers, sizeof answers, 0) > 0)
        ;
    wait_for_end(owner);
    return g_steal_pointer(&owner->why);
}

static void test_streams_that_end(void **state)
{
    g_autoptr(GByteArray) stream = good_stream();

    for (guint length = 0; length <= stream->len; length++) {
        g_autoptr(GError) why = serve_stream(stream->data, length);

        if (length == stream->len)
            assert_null(why);
        else
            assert_true(error_is(why, VMFERRY_ERROR_DISCONNECTED));
    }
}

static void test_bytes_that_are_wrong(void **state)
{
    g_autoptr(GByteArray) stream = good_stream();
    guint go_magic = 4 + NBD_OPTION_HEADER_BYTES;
    guint request_magic = go_magic + NBD_OPTION_HEADER_BYTES + 9;

    for (guint i = 0; i < stream->len; i++) {
        for (guint bit = 0; bit < 8; bit += 7) {
            g_autoptr(GError) why = NULL;

            stream->data[i] ^= (uint8_t)(1 << bit);
            why = serve_stream(stream->data, stream->len);
            stream->data[i] ^= (uint8_t)(1 << bit);
            if ((i >= go_magic && i < go_magic + 8) ||
                (i >= request_magic && i < request_magic + 4))
                assert_true(error_is(why, VMFERRY_ERROR_INVALID));
        }
    }
}

/* ---- who may connect ---- */

static void test_second_client(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int first = -1, second = -1;

    owner_start(owner, getpid());
    first = connect_to(nbd_server_get_address(owner->server), getpid());
    assert_true(first >= 0);
    go(owner, first);
    second = connect_to(nbd_server_get_address(owner->server), getpid());
    assert_int_equal(second, -1);
    put_request(first, 0, NBD_CMD_FLUSH, 0, 0);
    assert_int_equal(get_reply(first), 0);
}

static void test_nobody_comes(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    g_autoptr(GError) why = g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_BUSY, "no time");

    owner_start(owner, getpid());
    assert_int_equal(strlen(nbd_server_get_address(owner->server)), strlen("vmferry-") + 32);
    nbd_server_close(owner->server, why);
    nbd_server_close(owner->server, NULL);
    expect_end(owner, VMFERRY_ERROR_BUSY);
    assert_string_equal(owner->why->message, "no time");
    assert_int_equal(connect_to(nbd_server_get_address(owner->server), getpid()), -1);
}

static void test_free_is_an_end(void **state)
{
    Owner *owner = owner_new(IMAGE_BYTES);

    owner_start(owner, 0);
    g_clear_pointer(&owner->server, nbd_server_free);
    expect_end(owner, VMFERRY_ERROR_CANCELLED);
    owner_free(owner);
    nbd_server_free(NULL);
}

static void test_a_client_that_does_not_exist(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    NbdServerOptions options = options_for(owner, G_MAXINT);
    g_autoptr(GError) error = NULL;

    assert_null(nbd_server_start(&options, &error));
    assert_non_null(error);
}

/* In the child: connects to the address that it is told, and looks at the greeting. */
static void act_as_client(int control, gboolean in_own_netns)
{
    char address[64] = "", magic[8];
    autofd int fd = -1;

    if (in_own_netns && unshare(CLONE_NEWNET) != 0)
        _exit(77);
    if (write(control, "r", 1) != 1 || read(control, address, sizeof address - 1) <= 0)
        _exit(1);
    fd = connect_to(address, getpid());
    _exit(fd >= 0 && read(fd, magic, 8) == 8 && memcmp(magic, "NBDMAGIC", 8) == 0 ? 0 : 1);
}

static int exit_code_of(pid_t child)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Strangers come first. */
static void serve_a_child(gboolean in_own_netns)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    int ends[2];
    const char *address;
    char ready;
    pid_t child;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    child = fork();
    if (child == 0)
        act_as_client(ends[1], in_own_netns);
    close(ends[1]);
    if (read(ends[0], &ready, 1) != 1) {
        close(ends[0]);
        assert_int_equal(exit_code_of(child), 77);
        skip();
    }
    owner_start(owner, child);
    address = nbd_server_get_address(owner->server);
    for (guint i = 0; i < 40; i++) {
        autofd int fd = connect_to(address, child);

        assert_true(fd >= 0);
        expect_no_more(fd);
    }
    assert_true(fd_write_all(ends[0], address, strlen(address), NULL));
    assert_int_equal(exit_code_of(child), 0);
    expect_end(owner, VMFERRY_ERROR_DISCONNECTED);
    close(ends[0]);
}

static void test_wrong_process(void **state)
{
    serve_a_child(FALSE);
}

static void test_client_in_another_network_namespace(void **state)
{
    serve_a_child(TRUE);
}

/* ---- closing ---- */

static void expect_freed_at_once(Owner *owner, int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    g_autoptr(GError) why = g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_TIMEOUT, "too slow");

    nbd_server_close(owner->server, why);
    assert_int_equal(poll(&p, 1, 0), 1);
    assert_true(p.revents & POLLHUP);
}

/* While the thread waits for bytes, nothing holds the client's end either. */
static void test_close_while_a_write_waits_for_its_answer(void **state)
{
    for (guint i = 0; i < 50; i++) {
        g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
        autofd int fd = owner_start_connected(owner);

        owner->hold = TRUE;
        go(owner, fd);
        put_request(fd, 0, NBD_CMD_WRITE, 0, 1);
        assert_int_equal(write(fd, "x", 1), 1);
        wait_for_arrivals(owner, 1);
        if (i % 2)
            clock_sleep_ns(1000000);
        expect_freed_at_once(owner, fd);
        expect_no_more(fd);
        expect_end(owner, VMFERRY_ERROR_TIMEOUT);
        nbd_server_answer(owner->server, g_array_index(owner->answers, Answer, 0).id, 0);
    }
}

static gpointer write_for_ever(gpointer data)
{
    int fd = GPOINTER_TO_INT(data);
    g_autofree char *payload = g_malloc0(65536);
    g_autoptr(GByteArray) header = g_byte_array_new();

    append_request(header, 0, NBD_CMD_WRITE, 0, 65536);
    while (fd_write_all(fd, header->data, header->len, NULL) &&
           fd_write_all(fd, payload, 65536, NULL))
        ;
    return NULL;
}

static void wait_until_full(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};

    while (poll(&p, 1, 0) == 1)
        clock_sleep_ns(1000000);
    clock_sleep_ns(5000000);
}

static void test_close_while_the_client_writes_and_the_owner_hangs(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);
    GThread *writer;

    owner->hold = owner->block = TRUE;
    go(owner, fd);
    writer = g_thread_new("writer", write_for_ever, GINT_TO_POINTER(fd));
    wait_for_arrivals(owner, 1);
    wait_until_full(fd);
    expect_freed_at_once(owner, fd);
    g_thread_join(writer);
    unblock(owner);
    expect_end(owner, VMFERRY_ERROR_TIMEOUT);
}

/* At whatever moment, with answers under way. */
static void test_close_at_any_moment(void **state)
{
    for (guint i = 0; i < 40; i++) {
        g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
        autofd int fd = owner_start_connected(owner);
        GThread *writer;

        go(owner, fd);
        writer = g_thread_new("writer", write_for_ever, GINT_TO_POINTER(fd));
        clock_sleep_ns(i * 50000);
        expect_freed_at_once(owner, fd);
        g_thread_join(writer);
    }
}

/* ---- libnbd ---- */

static struct nbd_handle *connect_libnbd(Owner *owner)
{
    struct nbd_handle *nbd = nbd_create();

    owner_start(owner, getpid());
    nbd_set_export_name(nbd, NAME);
    nbd_set_strict_mode(nbd, 0);
    assert_int_equal(
        nbd_connect_socket(nbd, connect_to(nbd_server_get_address(owner->server), getpid())), 0);
    return nbd;
}

static void test_libnbd_sees_the_export(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    struct nbd_handle *nbd = connect_libnbd(owner);

    assert_int_equal(nbd_get_size(nbd), IMAGE_BYTES);
    assert_int_equal(nbd_is_read_only(nbd), 0);
    assert_int_equal(nbd_can_flush(nbd), 1);
    assert_int_equal(nbd_can_fua(nbd), 1);
    assert_int_equal(nbd_can_trim(nbd), 1);
    assert_int_equal(nbd_can_zero(nbd), 1);
    assert_int_equal(nbd_can_fast_zero(nbd), 0);
    assert_int_equal(nbd_can_multi_conn(nbd), 0);
    assert_int_equal(nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM), NBD_MAX_REQUEST_BYTES);
    assert_int_equal(nbd_shutdown(nbd, 0), 0);
    expect_end_in_order(owner);
    nbd_close(nbd);
}

static void test_reads_are_zeros(void **state)
{
    g_autoptr(Owner) owner = owner_new(NBD_MAX_REQUEST_BYTES + 1);
    struct nbd_handle *nbd = connect_libnbd(owner);
    g_autofree char *buffer = g_malloc0(NBD_MAX_REQUEST_BYTES);

    for (guint i = 0; i < 3; i++) {
        memset(buffer, 'x', NBD_MAX_REQUEST_BYTES);
        assert_int_equal(nbd_pwrite(nbd, buffer, NBD_MAX_REQUEST_BYTES, 1, 0), 0);
        assert_int_equal(nbd_pread(nbd, buffer, NBD_MAX_REQUEST_BYTES, 1, 0), 0);
        assert_true(buffer[0] == 0 && memcmp(buffer, buffer + 1, NBD_MAX_REQUEST_BYTES - 1) == 0);
    }
    nbd_close(nbd);
}

/* ---- any stream of requests, answered in any order ---- */

typedef struct {
    GRand *random;
    struct nbd_handle *nbd;
    uint8_t *model;
    guint issued, failed;
} Client;

typedef struct {
    Client *client;
    int expected;
    uint8_t *data;
} Operation;

static int on_completed(void *user, int *error)
{
    Operation *operation = user;

    if (*error != operation->expected)
        operation->client->failed++;
    return 1;
}

static void free_operation(void *user)
{
    Operation *operation = user;

    g_free(operation->data);
    g_free(operation);
}

static void fill(GRand *random, uint8_t *data, size_t length)
{
    uint8_t first = (uint8_t)g_rand_int(random);

    for (size_t i = 0; i < length; i++)
        data[i] = (uint8_t)(first + i * 7);
}

static int64_t issue(Client *client, guint kind, uint64_t offset, uint32_t length, uint32_t flags)
{
    Operation *operation = g_new0(Operation, 1);
    nbd_completion_callback done = {on_completed, operation, free_operation};

    operation->client = client;
    operation->expected = problem_of(client->issued++);
    if (kind == NBD_REQUEST_WRITE) {
        operation->data = g_malloc(length);
        fill(client->random, operation->data, length);
        memcpy(client->model + offset, operation->data, length);
        return nbd_aio_pwrite(client->nbd, operation->data, length, offset, done, flags);
    }
    if (kind == NBD_REQUEST_FLUSH)
        return nbd_aio_flush(client->nbd, done, 0);
    memset(client->model + offset, 0, length);
    if (kind == NBD_REQUEST_TRIM)
        return nbd_aio_trim(client->nbd, length, offset, done, flags);
    if (g_rand_boolean(client->random))
        flags |= LIBNBD_CMD_FLAG_NO_HOLE;
    return nbd_aio_zero(client->nbd, length, offset, done, flags);
}

static void issue_any(Client *client)
{
    uint64_t offset = (uint64_t)g_rand_int_range(client->random, 0, IMAGE_BYTES);
    uint32_t most = 1u << g_rand_int_range(client->random, 0, 20);
    uint32_t length = (uint32_t)g_rand_int_range(client->random, 1, (gint32)most + 1);
    uint32_t flags = g_rand_boolean(client->random) ? LIBNBD_CMD_FLAG_FUA : 0;
    guint kind = (guint)g_rand_int_range(client->random, 0, 6) % 4;

    length = (uint32_t)MIN(length, IMAGE_BYTES - offset);
    assert_true(issue(client, kind, offset, length, flags) >= 0);
}

static void poll_down_to(Client *client, int in_flight)
{
    while (nbd_aio_in_flight(client->nbd) > in_flight)
        assert_true(nbd_poll(client->nbd, (int)(PATIENCE_US / 1000)) > 0);
}

/* Answers one after the other, in an order of its own, until *hold* ends. */
static gpointer answer_in_any_order(gpointer data)
{
    Owner *owner = data;
    g_autoptr(GRand) random = g_rand_new_with_seed(owner->arrived);

    g_mutex_lock(&owner->lock);
    while (owner->hold) {
        Answer answer;
        guint place;

        if (owner->answers->len == 0) {
            g_cond_wait(&owner->changed, &owner->lock);
            continue;
        }
        place = (guint)g_rand_int_range(random, 0, (gint32)owner->answers->len);
        answer = g_array_index(owner->answers, Answer, place);
        g_array_remove_index_fast(owner->answers, place);
        g_mutex_unlock(&owner->lock);
        nbd_server_answer(owner->server, answer.id, answer.problem);
        if (g_rand_int_range(random, 0, 8) == 0)
            g_thread_yield();
        g_mutex_lock(&owner->lock);
    }
    g_mutex_unlock(&owner->lock);
    return NULL;
}

static void run_stream(guint seed)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    g_autoptr(GRand) random = g_rand_new_with_seed(seed);
    g_autofree uint8_t *model = g_malloc0(IMAGE_BYTES);
    Client client = {.random = random, .model = model};
    GThread *answering[2];

    owner->hold = owner->with_problems = TRUE;
    client.nbd = connect_libnbd(owner);
    for (guint i = 0; i < G_N_ELEMENTS(answering); i++)
        answering[i] = g_thread_new("answers", answer_in_any_order, owner);
    for (guint i = 0; i < 300; i++) {
        issue_any(&client);
        poll_down_to(&client, g_rand_int_range(random, 0, 64));
    }
    poll_down_to(&client, 0);
    assert_int_equal(client.failed, 0);
    assert_true(nbd_server_get_wait_ns(owner->server) == 0);
    assert_int_equal(nbd_shutdown(client.nbd, 0), 0);
    expect_end_in_order(owner);
    nbd_close(client.nbd);
    assert_int_equal(owner->arrived, client.issued);
    assert_memory_equal(owner->image, model, IMAGE_BYTES);
    g_mutex_lock(&owner->lock);
    owner->hold = FALSE;
    g_cond_broadcast(&owner->changed);
    g_mutex_unlock(&owner->lock);
    for (guint i = 0; i < G_N_ELEMENTS(answering); i++)
        g_thread_join(answering[i]);
}

static void test_any_stream_of_requests(void **state)
{
    for (guint seed = 1; seed <= 12; seed++)
        run_stream(seed);
}

/* ---- a stock QEMU tool ---- */

static void write_random_file(const char *path, uint8_t *content, size_t length)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(7);

    memset(content, 0, length);
    for (size_t at = 0; at + 65536 <= length; at += 262144)
        fill(random, content + at, 65536);
    assert_true(g_file_set_contents(path, (const char *)content, (gssize)length, NULL));
}

static void test_qemu_img(void **state)
{
    size_t bytes = 8u << 20;
    g_autoptr(Owner) owner = owner_new(bytes);
    g_autofree char *program = g_find_program_in_path("qemu-img");
    g_autofree char *target = NULL, *complaint = NULL;
    g_autofree uint8_t *content = g_malloc(bytes);
    char path[] = "/tmp/vmferry-nbd-XXXXXX";
    int status = -1, file;

    if (!program)
        skip();
    file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    write_random_file(path, content, bytes);
    memset(owner->image, 'x', bytes);
    owner_start(owner, 0);
    target =
        g_strdup_printf("json:{\"driver\":\"nbd\",\"server\":{\"type\":\"unix\",\"path\":\"%s\","
                        "\"abstract\":true},\"export\":\"" NAME "\"}",
                        nbd_server_get_address(owner->server));
    char *arguments[] = {program, "convert", "-n", "-f", "raw", "-O", "raw", path, target, NULL};

    assert_true(g_spawn_sync(NULL, arguments, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, &complaint,
                             &status, NULL));
    unlink(path);
    assert_string_equal(complaint, "");
    assert_int_equal(status, 0);
    expect_end_in_order(owner);
    assert_memory_equal(owner->image, content, bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_a_client_that_aborts_and_does_not_wait),
        cmocka_unit_test(test_export_name),
        cmocka_unit_test(test_another_export_name),
        cmocka_unit_test(test_unknown_client_flags),
        cmocka_unit_test(test_a_long_option),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_problems),
        cmocka_unit_test(test_wait_time),
        cmocka_unit_test(test_many_requests_wait_for_answers),
        cmocka_unit_test(test_a_client_leaves_with_many_requests),
        cmocka_unit_test(test_a_deaf_client_is_closed),
        cmocka_unit_test(test_a_late_reader),
        cmocka_unit_test(test_streams_that_end),
        cmocka_unit_test(test_bytes_that_are_wrong),
        cmocka_unit_test(test_second_client),
        cmocka_unit_test(test_nobody_comes),
        cmocka_unit_test(test_free_is_an_end),
        cmocka_unit_test(test_a_client_that_does_not_exist),
        cmocka_unit_test(test_wrong_process),
        cmocka_unit_test(test_client_in_another_network_namespace),
        cmocka_unit_test(test_close_while_a_write_waits_for_its_answer),
        cmocka_unit_test(test_close_while_the_client_writes_and_the_owner_hangs),
        cmocka_unit_test(test_close_at_any_moment),
        cmocka_unit_test(test_libnbd_sees_the_export),
        cmocka_unit_test(test_reads_are_zeros),
        cmocka_unit_test(test_any_stream_of_requests),
        cmocka_unit_test(test_qemu_img),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

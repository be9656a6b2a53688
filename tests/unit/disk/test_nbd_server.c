/* Clients that speak byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/fd.h"
#include "disk/nbd_protocol.h"
#include "disk/nbd_server_private.h"
#include "nbd_owner.h"

#define COOKIE UINT64_C(0x1122334455667788)

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
    put_choice(fd, NBD_OPT_GO, EXPORT_NAME, 0, 0);
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
    assert_string_equal(name, EXPORT_NAME);
    expect_error(fd, NBD_OPT_LIST, NBD_REP_ACK);
    put_option(fd, NBD_OPT_LIST, "x", 1);
    expect_error(fd, NBD_OPT_LIST, NBD_REP_ERR_INVALID);
    for (guint i = 0; i < 2; i++) {
        put_choice(fd, NBD_OPT_INFO, EXPORT_NAME, 3, 3);
        expect_infos(fd, NBD_OPT_INFO, IMAGE_BYTES);
        put_choice(fd, NBD_OPT_GO, "y", 0, 0);
        expect_error(fd, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
        put_choice(fd, NBD_OPT_GO, "", 0, 0);
        expect_error(fd, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
        put_choice(fd, NBD_OPT_GO, EXPORT_NAME, 2, 1);
        expect_error(fd, NBD_OPT_GO, NBD_REP_ERR_INVALID);
        put_choice(fd, NBD_OPT_GO, EXPORT_NAME, 1, 2);
        expect_error(fd, NBD_OPT_GO, NBD_REP_ERR_INVALID);
        put_option(fd, NBD_OPT_GO, "\xff\xff\xff\xffxxxx", 8);
        expect_error(fd, NBD_OPT_GO, NBD_REP_ERR_INVALID);
        put_option(fd, NBD_OPT_INFO, NULL, 0);
        expect_error(fd, NBD_OPT_INFO, NBD_REP_ERR_INVALID);
    }
    put_option(fd, NBD_OPT_ABORT, NULL, 0);
    expect_error(fd, NBD_OPT_ABORT, NBD_REP_ACK);
    expect_no_more(fd);
    owner_expect_end_in_order(owner);
}

static void test_a_client_that_aborts_and_does_not_wait(void **state)
{
    for (guint i = 0; i < 20; i++) {
        g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
        autofd int fd = owner_start_connected(owner);

        greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
        put_option(fd, NBD_OPT_ABORT, NULL, 0);
        fd_close(&fd);
        owner_expect_end_in_order(owner);
    }
}

static void test_export_name(void **state)
{
    for (uint32_t flags = 0; flags < 4; flags++) {
        g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
        autofd int fd = owner_start_connected(owner);

        greet(fd, flags);
        put_option(fd, NBD_OPT_EXPORT_NAME, EXPORT_NAME, 1);
        assert_int_equal(get_number(fd, 8), IMAGE_BYTES);
        assert_int_equal(get_number(fd, 2), EXPORT_FLAGS);
        for (guint i = 0; i < 124 && !(flags & NBD_FLAG_NO_ZEROES); i++)
            assert_int_equal(get_number(fd, 1), 0);
        put_request(fd, 0, NBD_CMD_FLUSH, 0, 0);
        assert_int_equal(get_reply(fd), 0);
        put_request(fd, 0, NBD_CMD_DISC, 0, 0);
        expect_no_more(fd);
        owner_expect_end_in_order(owner);
    }
}

static void test_another_export_name(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);

    greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
    put_option(fd, NBD_OPT_EXPORT_NAME, "xy", 2);
    expect_no_more(fd);
    owner_expect_end(owner, VMFERRY_ERROR_NOT_FOUND);
}

static void test_unknown_client_flags(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    autofd int fd = owner_start_connected(owner);

    greet(fd, 4);
    expect_no_more(fd);
    owner_expect_end(owner, VMFERRY_ERROR_INVALID);
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
    owner_expect_end(owner, VMFERRY_ERROR_INVALID);
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
    owner_expect_end(owner, VMFERRY_ERROR_INVALID);
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
        owner_wait_for_arrivals(owner, i + 1);
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
    owner_wait_for_arrivals(owner, 1);
    clock_sleep_ns(20000000);
    put_request(fd, 0, NBD_CMD_FLUSH, 0, 0);
    owner_wait_for_arrivals(owner, 2);
    first = nbd_server_get_wait_ns(owner->server);
    assert_true(first >= 20000000);
    nbd_server_answer(owner->server, g_array_index(owner->answers, Answer, 1).id, 0);
    assert_true(nbd_server_get_wait_ns(owner->server) >= first);
    nbd_server_answer(owner->server, g_array_index(owner->answers, Answer, 0).id, 0);
    assert_true(nbd_server_get_wait_ns(owner->server) == 0);
    put_request(fd, 0, NBD_CMD_FLUSH, 0, 0);
    owner_wait_for_arrivals(owner, 3);
    assert_true(nbd_server_get_wait_ns(owner->server) > 0);
    nbd_server_close(owner->server, NULL);
    assert_true(nbd_server_get_wait_ns(owner->server) == 0);
    owner_expect_end_in_order(owner);
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
    owner_wait_for_arrivals(owner, NBD_MAX_WAITING);
    clock_sleep_ns(20000000);
    assert_int_equal(owner->arrived, NBD_MAX_WAITING);
    for (guint i = 0; i < 3000; i++) {
        uint64_t id;

        owner_wait_for_arrivals(owner, i + 1);
        g_mutex_lock(&owner->lock);
        id = g_array_index(owner->answers, Answer, i).id;
        g_mutex_unlock(&owner->lock);
        nbd_server_answer(owner->server, id, 0);
        assert_int_equal(get_reply(fd), 0);
    }
    fd_close(&fd);
    owner_expect_end(owner, VMFERRY_ERROR_DISCONNECTED);
}

static void test_a_client_leaves_with_many_requests(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    g_autoptr(GByteArray) requests = many_flushes(3000);
    autofd int fd = owner_start_connected(owner);

    owner->hold = TRUE;
    go(owner, fd);
    put(fd, requests);
    owner_wait_for_arrivals(owner, NBD_MAX_WAITING);
    fd_close(&fd);
    owner_expect_end(owner, VMFERRY_ERROR_DISCONNECTED);
}

static void test_a_deaf_client_is_closed(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    g_autoptr(GByteArray) requests = many_flushes(20000);
    autofd int fd = owner_start_connected(owner);

    go(owner, fd);
    fd_write_all(fd, requests->data, requests->len, NULL);
    owner_expect_end(owner, VMFERRY_ERROR_TIMEOUT);
}

/* It does not take answers for a while, and then all of them. */
static void test_a_late_reader(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    g_autoptr(GByteArray) requests = many_flushes(3000);
    autofd int fd = owner_start_connected(owner);

    go(owner, fd);
    put(fd, requests);
    owner_wait_for_arrivals(owner, 3000);
    for (guint i = 0; i < 3000; i++)
        assert_int_equal(get_reply(fd), 0);
    put_request(fd, 0, NBD_CMD_DISC, 0, 0);
    owner_expect_end_in_order(owner);
}

/* ---- bytes that are wrong ---- */

static GByteArray *good_stream(void)
{
    GByteArray *stream = g_byte_array_new();
    g_autoptr(GByteArray) chosen = choice(EXPORT_NAME, 1, 1);

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
    owner_wait_for_end(owner);
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
    first = connect_to_server(nbd_server_get_address(owner->server), getpid());
    assert_true(first >= 0);
    go(owner, first);
    second = connect_to_server(nbd_server_get_address(owner->server), getpid());
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
    owner_expect_end(owner, VMFERRY_ERROR_BUSY);
    assert_string_equal(owner->why->message, "no time");
    assert_int_equal(connect_to_server(nbd_server_get_address(owner->server), getpid()), -1);
}

static void test_free_is_an_end(void **state)
{
    Owner *owner = owner_new(IMAGE_BYTES);

    owner_start(owner, 0);
    g_clear_pointer(&owner->server, nbd_server_free);
    owner_expect_end(owner, VMFERRY_ERROR_CANCELLED);
    owner_free(owner);
    nbd_server_free(NULL);
}

static void test_a_client_that_does_not_exist(void **state)
{
    g_autoptr(Owner) owner = owner_new(IMAGE_BYTES);
    NbdServerOptions options = owner_options(owner, G_MAXINT);
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
    fd = connect_to_server(address, getpid());
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
        autofd int fd = connect_to_server(address, child);

        assert_true(fd >= 0);
        expect_no_more(fd);
    }
    assert_true(fd_write_all(ends[0], address, strlen(address), NULL));
    assert_int_equal(exit_code_of(child), 0);
    owner_expect_end(owner, VMFERRY_ERROR_DISCONNECTED);
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
        owner_wait_for_arrivals(owner, 1);
        if (i % 2)
            clock_sleep_ns(1000000);
        expect_freed_at_once(owner, fd);
        expect_no_more(fd);
        owner_expect_end(owner, VMFERRY_ERROR_TIMEOUT);
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
    owner_wait_for_arrivals(owner, 1);
    wait_until_full(fd);
    expect_freed_at_once(owner, fd);
    g_thread_join(writer);
    owner_unblock(owner);
    owner_expect_end(owner, VMFERRY_ERROR_TIMEOUT);
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
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

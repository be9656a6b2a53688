/* Clients that others wrote: libnbd, qemu-img. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <libnbd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nbd_owner.h"

static struct nbd_handle *connect_libnbd(Owner *owner)
{
    struct nbd_handle *nbd = nbd_create();

    owner_start(owner, getpid());
    nbd_set_export_name(nbd, EXPORT_NAME);
    nbd_set_strict_mode(nbd, 0);
    assert_int_equal(
        nbd_connect_socket(nbd, connect_to_server(nbd_server_get_address(owner->server), getpid())),
        0);
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
    owner_expect_end_in_order(owner);
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
    operation->expected = owner_problem_of(client->issued++);
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
    g_autoptr(GRand) random = g_rand_new_with_seed(5);

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
    owner_expect_end_in_order(owner);
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
        g_strdup_printf("json:{\"driver\":\"raw\",\"file\":{\"driver\":\"nbd\",\"export\":\"x\","
                        "\"server\":{\"type\":\"unix\",\"path\":\"%s\",\"abstract\":true}}}",
                        nbd_server_get_address(owner->server));
    char *arguments[] = {program, "convert", "-n", "-f", "raw", "-O", "raw", path, target, NULL};

    assert_true(g_spawn_sync(NULL, arguments, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, &complaint,
                             &status, NULL));
    unlink(path);
    assert_string_equal(complaint, "");
    assert_int_equal(status, 0);
    owner_expect_end_in_order(owner);
    assert_memory_equal(owner->image, content, bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_libnbd_sees_the_export),
        cmocka_unit_test(test_reads_are_zeros),
        cmocka_unit_test(test_any_stream_of_requests),
        cmocka_unit_test(test_qemu_img),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
